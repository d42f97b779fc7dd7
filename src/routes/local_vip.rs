//! Makes virtual IPs local to this node, so that the proxy's listeners get their packets.
//!
//! In: the desired state, and a [`LocalVip`]. Out: a tun device, routes of type local on it, and routing rules.
//!
//! The tun device belongs to this process: the kernel removes it and its routes when the process ends, however it ends, so no
//! crash leaves a local virtual IP without a listener. No address is added that could become a source address.
//!
//! A route in the table `local` takes every port and protocol. The guard of our nftables rules sees it (`fib daddr type
//! local`) and leaves new flows to the listener. For connections that began there and go on while new ones go to the rules
//! again, the same route is in a table of its own, reached by a rule that matches protocol and port. The guard does not see
//! that one: its lookups carry no port (`net/ipv6/netfilter/nft_fib_ipv6.c`), or look into `local` only
//! (`net/ipv4/netfilter/nft_fib_ipv4.c`). Switching in either direction takes one route, and no nftables commit.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol};
use rtnetlink::RouteMessageBuilder;
use tappers::{DeviceState, Interface, Tun};

use super::requests::{
    EACCES, EAFNOSUPPORT, EEXIST, EINVAL, ENOENT, ESRCH, HostError, ROUTE_PROTOCOL, Requests, destination,
    failed, host_route, invalid, on_own_thread, output_interface, own_routes, own_rules, preferred_source,
};
use super::sources::{addresses, route_to};
use crate::dataplane::LocalVip;
use crate::model::desired::DesiredState;
use crate::model::types::Vip;

/// The kernel puts a number in place of `%d`: a daemon that drains still has its own device.
pub const DEVICE: &str = "apivip%d";
/// `RT_TABLE_LOCAL`.
pub(crate) const LOCAL_TABLE: u32 = 255;
/// Our own table, and the priority of the rules that look it up: right behind the table `local`, ahead of other programs'
/// rules.
const OWN_TABLE: u32 = ROUTE_PROTOCOL as u32;

/// The tun device of this process, and the routes and rules that belong to it.
pub(crate) struct TunDevice {
    tun: Tun,
    index: u32,
    /// Virtual IPs with a route in the table `local`.
    all: BTreeSet<IpAddr>,
    /// Virtual IPs with a route in our own table and a rule for it.
    established: BTreeSet<Vip>,
    /// The source addresses of the routes: the kernel removes a route with its source.
    sources: BTreeMap<IpAddr, IpAddr>,
}

impl TunDevice {
    /// The kernel makes and removes a device under the RTNL lock, which other programs may hold for seconds.
    pub(crate) async fn make() -> Result<Self, HostError> {
        let opened = on_own_thread(|| -> io::Result<(Tun, u32)> {
            let mut tun = Tun::new_named(Interface::new(DEVICE)?)?;
            tun.set_state(DeviceState::Up)?;
            let name = tun.name()?;
            let index = name.index()?;
            enable_ipv6(&name.name().to_string_lossy());
            Ok((tun, index))
        });
        let (tun, index) = opened.await.map_err(|source| HostError {
            action: "create a tun device for the virtual IP (check the kernel module tun and /dev/net/tun)"
                .to_owned(),
            source,
            partial: false,
        })?;
        Ok(Self { tun, index, all: BTreeSet::new(), established: BTreeSet::new(), sources: BTreeMap::new() })
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Whether another program deleted it: then the descriptor belongs to no device any more.
    fn is_gone(&self) -> bool {
        !self.tun.name().and_then(|name| name.index()).is_ok_and(|index| index == self.index)
    }
}

/// Enables IPv6 on nodes that disable it for new devices. If the setting cannot be written, the kernel refuses IPv6 routes by
/// the device, and that error is reported.
fn enable_ipv6(device: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
    if let Err(error) = std::fs::write(&path, "0") {
        tracing::debug!(
            event = %"ipv6_enable_failed", %error, path,
            "Failed to enable IPv6 on device of forwarder"
        );
    }
}

/// The virtual IPs that are local to this node.
pub(crate) struct LocalVips {
    requests: Arc<Requests>,
    device: Option<TunDevice>,
    /// Routes and rules that another program removed, and that are, or will be, made again.
    repaired: usize,
}

impl LocalVips {
    pub(crate) fn new(requests: Arc<Requests>) -> Self {
        Self { requests, device: None, repaired: 0 }
    }

    /// How many routes and rules were repaired since this was called last.
    pub(super) fn take_repaired(&mut self) -> usize {
        std::mem::take(&mut self.repaired)
    }

    /// Makes the virtual IPs of `state` local, for the packets that `packets` names.
    pub(super) async fn acquire(&mut self, state: &DesiredState, packets: LocalVip) -> Result<(), HostError> {
        self.forget_removed().await?;
        if self.device.is_none() {
            self.device = Some(TunDevice::make().await?);
        }
        let wanted: BTreeMap<Vip, Option<IpAddr>> =
            state.frontends.iter().map(|f| (f.vip, f.backends.first().map(|b| b.ip()))).collect();
        let Some(TunDevice { index, all, established, .. }) = &self.device else { return Ok(()) };
        let (index, all, established) = (*index, all.clone(), established.clone());
        let served: BTreeSet<IpAddr> = wanted.keys().map(|vip| vip.ip()).collect();
        // An error of one address family must not prevent the other.
        let (mut refused, mut made) = (None, 0);
        for (vip, backend) in &wanted {
            match self.acquire_one(*vip, *backend, packets, (&all, &established)).await {
                Ok(()) => made += 1,
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        if packets == LocalVip::Ports {
            self.remove_routes_of_draining_daemons(&served, index).await?;
        }
        // A virtual IP that is gone from the state keeps its connections.
        for ip in all.into_iter().filter(|ip| packets == LocalVip::Ports || !served.contains(ip)) {
            let route = local_route(ip, LOCAL_TABLE, index)?.build();
            ignore_absent(self.requests.send(|handle| handle.route().del(route).execute()).await)
                .map_err(|e| failed(format!("delete the local route to {ip}"), e))?;
            self.record(|device| device.all.remove(&ip));
        }
        match refused {
            Some(error) => Err(HostError { partial: made > 0, ..error }),
            None => Ok(()),
        }
    }

    async fn acquire_one(
        &mut self,
        vip: Vip,
        backend: Option<IpAddr>,
        packets: LocalVip,
        (all, established): (&BTreeSet<IpAddr>, &BTreeSet<Vip>),
    ) -> Result<(), HostError> {
        let Some(index) = self.device.as_ref().map(TunDevice::index) else { return Ok(()) };
        if packets == LocalVip::All && !all.contains(&vip.ip()) {
            self.add_local_route(vip.ip(), backend, LOCAL_TABLE, index).await?;
            self.record(|device| device.all.insert(vip.ip()));
        }
        if !established.contains(&vip) {
            self.add_local_route(vip.ip(), backend, OWN_TABLE, index).await?;
            self.add_rule(vip).await?;
            self.record(|device| device.established.insert(vip));
        }
        Ok(())
    }

    /// Removes the device and the rules. The routes go with the device; rules are not bound to one. `false`: there was
    /// nothing.
    pub(super) async fn release(&mut self) -> Result<bool, HostError> {
        let device = self.device.take();
        let had = device.is_some();
        let closed = match device {
            Some(device) => {
                on_own_thread(move || {
                    drop(device);
                    Ok(())
                })
                .await
            }
            None => Ok(()),
        };
        let rules = own_rules(&self.requests).await?;
        let found = !rules.is_empty();
        for rule in rules {
            ignore_absent(self.requests.send(|handle| handle.rule().del(rule).execute()).await)
                .map_err(|e| failed("delete a routing rule", e))?;
        }
        closed.map_err(|e| failed("remove the device of the forwarder", e))?;
        Ok(had || found)
    }

    fn record(&mut self, change: impl FnOnce(&mut TunDevice) -> bool) {
        self.device.as_mut().map(change);
    }

    /// Forgets routes and rules that other programs removed, and the device if it is gone, so that they are made again.
    async fn forget_removed(&mut self) -> Result<(), HostError> {
        let Some(device) = &self.device else { return Ok(()) };
        let made = device.all.len() + device.established.len();
        if made == 0 {
            return Ok(());
        }
        if device.is_gone() {
            self.device = None;
            self.repaired += made;
            return Ok(());
        }
        let (index, established) = (device.index, device.established.clone());
        let routes = own_routes(&self.requests).await?;
        let has_route = |ip: IpAddr, table: u32| routes.iter().any(|route| is_route(route, ip, table, index));
        let rules = own_rules(&self.requests).await?;
        let has_rule = |vip: &Vip| rules.iter().any(|found| same_rule(found, &rule(*vip)));
        let own: BTreeSet<IpAddr> = addresses(&self.requests).await?.into_iter().map(|(ip, _)| ip).collect();
        if let Some(TunDevice { all, established: known, sources, .. }) = &mut self.device {
            // A route whose source address is gone was removed by the kernel, not by another program.
            let by_other = |ip: &IpAddr| sources.get(ip).is_none_or(|source| own.contains(source));
            let gone = all.iter().filter(|ip| !has_route(**ip, LOCAL_TABLE) && by_other(ip)).count();
            let gone_established = established
                .iter()
                .filter(|vip| !has_rule(vip) || (!has_route(vip.ip(), OWN_TABLE) && by_other(&vip.ip())))
                .count();
            all.retain(|ip| has_route(*ip, LOCAL_TABLE));
            known.retain(|vip| has_rule(vip) && has_route(vip.ip(), OWN_TABLE));
            self.repaired += gone + gone_established;
        }
        Ok(())
    }

    /// A daemon that drains made these local for all their packets and cannot take that back: the guard would leave new
    /// connections to listeners that close. Its open connections use the routes in our own table.
    async fn remove_routes_of_draining_daemons(
        &self,
        ips: &BTreeSet<IpAddr>,
        own: u32,
    ) -> Result<(), HostError> {
        for route in own_routes(&self.requests).await? {
            let ip = destination(&route).filter(|ip| ips.contains(ip));
            let others = is_local(&route) && output_interface(&route) != Some(own);
            if let Some(ip) = ip.filter(|_| others && u32::from(route.header.table) == LOCAL_TABLE) {
                ignore_absent(self.requests.send(|handle| handle.route().del(route).execute()).await)
                    .map_err(|e| failed(format!("delete the local route to {ip} of a draining daemon"), e))?;
            }
        }
        Ok(())
    }

    /// The route has the source address that the node's own traffic to the backend has: a connection of this node may be
    /// sent to that backend later, when the virtual IP is not local any more.
    pub(crate) async fn add_local_route(
        &mut self,
        ip: IpAddr,
        backend: Option<IpAddr>,
        table: u32,
        index: u32,
    ) -> Result<(), HostError> {
        let towards = match backend {
            Some(backend) => route_to(&self.requests, backend).await?,
            None => None,
        };
        let mut route = local_route(ip, table, index)?;
        if let Some(source) = towards.as_ref().and_then(preferred_source) {
            route = route.pref_source(source).map_err(|e| invalid(ip, &e))?;
            if let Some(device) = &mut self.device {
                device.sources.insert(ip, source);
            }
        }
        let added = self.requests.send(|handle| handle.route().add(route.build()).replace().execute()).await;
        added.map_err(|e| match e.raw_os_error() {
            Some(EACCES | EINVAL) if ip.is_ipv6() => failed(
                format!(
                    "add {ip} as a local address (if IPv6 is disabled for new devices and /proc/sys is read-only, set \
                     sysctl net.ipv6.conf.default.disable_ipv6=0)"
                ),
                e,
            ),
            _ => failed(format!("add {ip} as a local address"), e),
        })
    }

    pub(crate) async fn add_rule(&self, vip: Vip) -> Result<(), HostError> {
        let added = self.requests.send(|handle| {
            let mut request = handle.rule().add();
            *request.message_mut() = rule(vip);
            request.execute()
        });
        match added.await {
            Err(error) if error.raw_os_error() != Some(EEXIST) => {
                Err(failed(format!("add a routing rule for {vip}"), error))
            }
            _ => Ok(()),
        }
    }
}

fn local_route(ip: IpAddr, table: u32, index: u32) -> Result<RouteMessageBuilder<IpAddr>, HostError> {
    Ok(host_route(ip)?
        .output_interface(index)
        .table_id(table)
        .kind(RouteType::Local)
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
        .scope(RouteScope::Host))
}

fn rule(vip: Vip) -> RuleMessage {
    let mut message = RuleMessage::default();
    let (family, len) = if vip.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
    (message.header.family, message.header.dst_len) = (family, len);
    message.header.action = RuleAction::ToTable;
    message.header.table = ROUTE_PROTOCOL;
    message.attributes = vec![
        RuleAttribute::Destination(vip.ip()),
        RuleAttribute::Priority(OWN_TABLE),
        RuleAttribute::IpProtocol(IpProtocol::Tcp),
        RuleAttribute::DestinationPortRange(RulePortRange { start: vip.port(), end: vip.port() }),
        RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
    ];
    message
}

/// Whether a route of ours makes a virtual IP local. The routes for host traffic are of type unicast.
pub(super) fn is_local(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Local
}

fn is_route(route: &RouteMessage, ip: IpAddr, table: u32, index: u32) -> bool {
    is_local(route)
        && u32::from(route.header.table) == table
        && destination(route) == Some(ip)
        && output_interface(route) == Some(index)
}

/// The kernel lists more attributes than it was given.
fn same_rule(found: &RuleMessage, wanted: &RuleMessage) -> bool {
    wanted.attributes.iter().all(|attribute| found.attributes.contains(attribute))
}

fn ignore_absent(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if matches!(error.raw_os_error(), Some(ESRCH | ENOENT | EAFNOSUPPORT)) => Ok(()),
        other => other,
    }
}
