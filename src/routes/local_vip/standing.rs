//! What is left in the kernel of a claim on virtual IPs: others may remove routes, rules and even the device.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_route::route::{RouteMessage, RouteProtocol};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::IpVersion;

use super::{Device, LOCAL, absent_is_fine, is_claim, rule};
use crate::model::types::Vip;
use crate::routes::{HostError, Node, ROUTE_PROTOCOL, addresses, destination, failed, output_interface};

impl Node {
    /// Forgets what is no longer there of what was made, so that it is made again.
    pub(super) async fn recall_claim(&mut self) -> Result<(), HostError> {
        let Some(device) = &self.device else { return Ok(()) };
        let made = device.all.len() + device.rest.len();
        if made == 0 {
            return Ok(());
        }
        if device.is_gone() {
            self.device = None;
            self.repaired += made;
            return Ok(());
        }
        let (index, rest) = (device.index, device.rest.clone());
        let routes = self.listed_routes().await?;
        let stands = |ip: IpAddr, table: u32| routes.iter().any(|route| is(route, ip, table, index));
        let rules = self.own_rules().await?;
        let ruled = |vip: &Vip| rules.iter().any(|found| same_rule(found, &rule(*vip)));
        let own: BTreeSet<IpAddr> = addresses(&self.requests).await?.into_iter().map(|(ip, _)| ip).collect();
        if let Some(Device { all, rest: known, sources, .. }) = &mut self.device {
            // A route whose source address is gone was removed by the kernel, not by another program.
            let taken = |ip: &IpAddr| sources.get(ip).is_none_or(|source| own.contains(source));
            let gone = all.iter().filter(|ip| !stands(**ip, LOCAL) && taken(ip)).count();
            let gone_rest = rest
                .iter()
                .filter(|vip| !ruled(vip) || (!stands(vip.ip(), super::REST) && taken(&vip.ip())))
                .count();
            all.retain(|ip| stands(*ip, LOCAL));
            known.retain(|vip| ruled(vip) && stands(vip.ip(), super::REST));
            self.repaired += gone + gone_rest;
        }
        Ok(())
    }

    /// A daemon that drains claimed these for all their packets and cannot take that back: the guard would leave new
    /// connections to listeners that close. Its open ones come by the routes of the rest.
    pub(super) async fn unclaim_others(&self, ips: &BTreeSet<IpAddr>, own: u32) -> Result<(), HostError> {
        for route in self.listed_routes().await? {
            let ip = destination(&route).filter(|ip| ips.contains(ip));
            let others = is_claim(&route) && output_interface(&route) != Some(own);
            if let Some(ip) = ip.filter(|_| others && u32::from(route.header.table) == LOCAL) {
                absent_is_fine(self.ask(|handle| handle.route().del(route).execute()).await).map_err(
                    |e| failed(format!("delete the local route to {ip} of a daemon that drains"), e),
                )?;
            }
        }
        Ok(())
    }

    /// Our routing rules. A kernel without policy routing, or without IPv6, has none.
    pub(super) async fn own_rules(&self) -> Result<Vec<RuleMessage>, HostError> {
        let own = RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
        let mut rules = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let listed = self.ask(|handle| handle.rule().get(version).execute().try_collect::<Vec<_>>());
            match listed.await {
                Ok(listed) => rules.extend(listed.into_iter().filter(|rule| rule.attributes.contains(&own))),
                Err(error) if error.raw_os_error().is_some() => {}
                Err(error) => return Err(failed("list the node's routing rules", error)),
            }
        }
        Ok(rules)
    }
}

fn is(route: &RouteMessage, ip: IpAddr, table: u32, index: u32) -> bool {
    is_claim(route)
        && u32::from(route.header.table) == table
        && destination(route) == Some(ip)
        && output_interface(route) == Some(index)
}

/// The kernel lists more attributes than it was given.
fn same_rule(found: &RuleMessage, wanted: &RuleMessage) -> bool {
    wanted.attributes.iter().all(|attribute| found.attributes.contains(attribute))
}
