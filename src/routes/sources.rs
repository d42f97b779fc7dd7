//! The node's addresses, and the preferred source address and interfaces towards each backend.
//!
//! In: rtnetlink. Out: what the rules for source addresses are built from.
//!
//! A route lookup by destination gives one answer. The route that it comes from says whether there are more next hops, and
//! whether it names the source address; the routing rules say whether more than the destination decides.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::Handle;

use super::requests::{
    HostError, ROUTE_PROTOCOL, Requests, failed, gateway, is_unroutable, lookup_from, lookup_request,
    output_interface, preferred_source, routing_rules,
};
use crate::model::address::InterfaceName;
use crate::model::desired::{PreferredSource, SourceAddress};
use crate::model::types::Family;

/// Addresses of this node, each with the index of its interface.
pub(super) async fn addresses(requests: &Requests) -> Result<BTreeSet<(IpAddr, u32)>, HostError> {
    let listed = requests.send(|handle| handle.address().get().execute().try_collect::<Vec<_>>()).await;
    let listed = listed.map_err(|error| failed("list the node's addresses", error))?;
    let of = |message: &netlink_packet_route::address::AddressMessage| {
        let index = message.header.index;
        let ips = message.attributes.iter().filter_map(|attribute| match attribute {
            AddressAttribute::Address(ip) | AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
        ips.map(|ip| (ip, index)).collect::<Vec<_>>()
    };
    Ok(listed.iter().flat_map(of).collect())
}

/// The preferred source of each backend that has a route.
pub(super) async fn preferred(
    requests: &Requests,
    backends: BTreeSet<IpAddr>,
    own: &BTreeSet<(IpAddr, u32)>,
) -> Result<BTreeMap<IpAddr, PreferredSource>, HostError> {
    let mut preferred = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut rules: BTreeMap<bool, bool> = BTreeMap::new();
    for backend in backends {
        let Some(route) = route_to(requests, backend).await? else { continue };
        if route.header.kind == RouteType::Local {
            preferred.insert(backend, PreferredSource::Local);
            continue;
        }
        let (Some(address), Some(interface)) = (preferred_source(&route), output_interface(&route)) else {
            continue;
        };
        // If the kernel does not return the route itself, the result of the lookup is used.
        let entry = lookup(requests, fib_match(backend)?).await.ok().flatten();
        let hops = entry.as_ref().map(next_hops).unwrap_or_default();
        let says = entry.as_ref().and_then(preferred_source) == Some(address);
        let named = !own.contains(&(address, interface)) || (says && hops.len() > 1);
        let paths = if named { hops } else { BTreeSet::new() };
        let mut interfaces = BTreeSet::new();
        for index in paths.into_iter().chain([interface]) {
            if let Entry::Vacant(unknown) = names.entry(index) {
                unknown.insert(name_of(requests, index).await);
            }
            interfaces.extend(names.get(&index).copied().flatten());
        }
        let family = backend.is_ipv4();
        if let Entry::Vacant(unread) = rules.entry(family) {
            unread.insert(
                routing_rules(requests, Family::of(backend))
                    .await?
                    .iter()
                    .any(depends_on_more_than_destination),
            );
        }
        let certain = !rules.get(&family).copied().unwrap_or_default();
        preferred
            .insert(backend, PreferredSource::Address(SourceAddress { address, interfaces, named, certain }));
    }
    Ok(preferred)
}

/// Whether the node's own packets to a virtual IP, with the source address that the route `existing` gives them, take
/// another path to a backend than packets with the preferred source there: then SNAT does not help, since the path is
/// chosen already.
pub(super) async fn is_misrouted(
    requests: &Requests,
    existing: &RouteMessage,
    backends: &[IpAddr],
) -> Result<bool, HostError> {
    let Some(chosen) = preferred_source(existing) else { return Ok(false) };
    if existing.header.kind == RouteType::Local {
        return Ok(false);
    }
    let (mut expected, mut misrouted) = (BTreeSet::new(), false);
    for backend in backends {
        let Some(route) = route_to(requests, *backend).await? else { return Ok(false) };
        let (Some(source), true) = (preferred_source(&route), route.header.kind != RouteType::Local) else {
            return Ok(false);
        };
        expected.insert(source);
        if source == chosen {
            continue;
        }
        // With several next hops the source may be part of the choice, and each next hop is as good as another.
        let entry = lookup(requests, fib_match(*backend)?).await.ok().flatten();
        if entry.is_some_and(|entry| next_hops(&entry).len() > 1) {
            return Ok(false);
        }
        let taken = lookup(requests, lookup_from(*backend, chosen)?).await.ok().flatten();
        let path = |route: &RouteMessage| (output_interface(route), gateway(route));
        misrouted |= taken.is_some_and(|taken| path(&taken) != path(&route));
    }
    // One route cannot give two sources.
    Ok(misrouted && expected.len() == 1)
}

/// The routing rule that rejects packets to `ip`: its priority and action.
pub(super) async fn rejecting_rule(
    requests: &Requests,
    ip: IpAddr,
) -> Result<Option<(u32, &'static str)>, HostError> {
    let rules = routing_rules(requests, Family::of(ip)).await?;
    let rejects = |rule: &RuleMessage| {
        let action = match rule.header.action {
            RuleAction::Unreachable => "unreachable",
            RuleAction::Prohibit => "prohibit",
            RuleAction::Blackhole => "blackhole",
            _ => return None,
        };
        let matches = rule.attributes.iter().all(|attribute| match attribute {
            RuleAttribute::Destination(to) => covers(*to, rule.header.dst_len, ip),
            _ => true,
        });
        let priority = rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Priority(priority) => Some(*priority),
            _ => None,
        });
        (matches && !depends_on_more_than_destination(rule)).then_some((priority.unwrap_or_default(), action))
    };
    Ok(rules.iter().filter_map(rejects).min())
}

fn covers(network: IpAddr, len: u8, ip: IpAddr) -> bool {
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            let differ = network.to_bits() ^ ip.to_bits();
            differ.leading_zeros() >= u32::from(len)
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            let differ = network.to_bits() ^ ip.to_bits();
            differ.leading_zeros() >= u32::from(len)
        }
        _ => false,
    }
}

/// The route that host traffic to `to` takes, or `None` if there is none.
pub(super) async fn route_to(requests: &Requests, to: IpAddr) -> Result<Option<RouteMessage>, HostError> {
    lookup(requests, lookup_request(to)?)
        .await
        .map_err(|error| failed(format!("look up the route to {to}"), error))
}

async fn lookup(requests: &Requests, request: RouteMessage) -> std::io::Result<Option<RouteMessage>> {
    let found = requests.send(async |handle: Handle| handle.route().get(request).execute().try_next().await);
    match found.await {
        Err(error) if is_unroutable(&error) => Ok(None),
        found => found,
    }
}

/// Requests the route itself that a lookup finds (`RTM_F_FIB_MATCH`, 4.13).
fn fib_match(to: IpAddr) -> Result<RouteMessage, HostError> {
    let mut request = lookup_request(to)?;
    request.header.flags |= RouteFlags::FibMatch;
    Ok(request)
}

/// The interfaces of a route.
fn next_hops(route: &RouteMessage) -> BTreeSet<u32> {
    let several = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops.iter().map(|hop| hop.interface_index)),
        _ => None,
    });
    several.flatten().chain(output_interface(route)).collect()
}

async fn name_of(requests: &Requests, index: u32) -> Option<InterfaceName> {
    let asked = requests
        .send(async |handle: Handle| handle.link().get().match_index(index).execute().try_next().await)
        .await;
    let link = asked.ok().flatten()?;
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => InterfaceName::new(name),
        _ => None,
    })
}

/// Whether a rule of another program chooses routes of this node's own packets by more than their destination.
fn depends_on_more_than_destination(rule: &RuleMessage) -> bool {
    let (mut more, mut exempt) = (rule.header.src_len > 0 || rule.header.tos > 0, false);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Protocol(RouteProtocol::Kernel) => exempt = true,
            RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)) => exempt = true,
            // For forwarded packets only.
            RuleAttribute::Iifname(name) if name != "lo" => exempt = true,
            RuleAttribute::FwMark(mark) => more |= *mark != 0,
            RuleAttribute::FwMask(mask) => more |= *mask != 0,
            RuleAttribute::Source(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_)
            | RuleAttribute::Oifname(_) => more = true,
            _ => {}
        }
    }
    more && !exempt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.attributes = attributes;
        rule
    }

    #[test]
    fn only_rules_that_match_more_than_the_destination_make_a_source_uncertain() {
        let from = || RuleAttribute::Source([198, 51, 100, 1].into());
        let to = || RuleAttribute::Destination([192, 0, 2, 0].into());
        for more in
            [vec![from()], vec![RuleAttribute::FwMark(1)], vec![RuleAttribute::Oifname("vrf0".into())]]
        {
            assert!(depends_on_more_than_destination(&rule(more.clone())), "{more:?}");
        }
        let ours = RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
        let forwarded = RuleAttribute::Iifname("eth1".to_owned());
        for none in
            [vec![], vec![to()], vec![from(), ours], vec![from(), forwarded], vec![RuleAttribute::FwMark(0)]]
        {
            assert!(!depends_on_more_than_destination(&rule(none.clone())), "{none:?}");
        }
    }

    #[test]
    fn network_covers_its_addresses() {
        let vip: IpAddr = [10, 96, 0, 1].into();
        assert!(covers([10, 96, 0, 0].into(), 16, vip) && covers([0, 0, 0, 0].into(), 0, vip));
        assert!(!covers([10, 97, 0, 0].into(), 16, vip) && !covers([10, 96, 0, 2].into(), 32, vip));
        assert!(!covers("fd00::".parse().unwrap(), 0, vip));
    }
}
