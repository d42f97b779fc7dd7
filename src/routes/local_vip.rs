//! Makes virtual IPs local to this node, so that the forwarder's listeners get their packets, and gives them back.
//!
//! The routes hang on a tun device that belongs to this process: the kernel removes both when the process ends,
//! however it ends, so no crash leaves a virtual IP that nobody serves. No address is added that could become a source.
//!
//! A route in the table `local` takes everything, of every port and protocol: the guard of our rules sees it (`fib daddr type local`) and leaves
//! new flows to the listener. For the rest of connections that began there, while new ones go to the rules again, the
//! same route stands in a table of its own, reached by a rule that names protocol and port: lookups of the guard carry
//! no port (`net/ipv6/netfilter/nft_fib_ipv6.c`), or look into `local` only (`net/ipv4/netfilter/nft_fib_ipv4.c`), and
//! so do not see it. The switch is one route, in either direction, and needs no commit.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol};
use tappers::{DeviceState, Interface, Tun};

use crate::dataplane::LocalVip;
use crate::model::desired::DesiredState;
use crate::model::types::Vip;
use crate::routes::{
    EAFNOSUPPORT, ESRCH, HostError, Node, ROUTE_PROTOCOL, apart, failed, host_route, invalid,
    preferred_source,
};

mod standing;

/// The kernel puts a number in place of `%d`: a daemon that drains still has its own device.
pub const DEVICE: &str = "apivip%d";
/// `RT_TABLE_LOCAL`.
const LOCAL: u32 = 255;
/// The table, and the priority of the rules to it: right behind the table `local`, ahead of what others add.
const REST: u32 = ROUTE_PROTOCOL as u32;

const EEXIST: i32 = 17;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;

/// The device, and what hangs on it.
pub(crate) struct Device {
    tun: Tun,
    index: u32,
    all: BTreeSet<IpAddr>,
    rest: BTreeSet<Vip>,
    /// The source addresses of the routes: the kernel removes a route with its source.
    sources: BTreeMap<IpAddr, IpAddr>,
}

impl Device {
    /// The kernel makes and removes a device under the lock that other programs may hold for seconds.
    pub(crate) async fn make() -> Result<Self, HostError> {
        let opened = apart(|| -> io::Result<(Tun, u32)> {
            let mut tun = Tun::new_named(Interface::new(DEVICE)?)?;
            tun.set_state(DeviceState::Up)?;
            let name = tun.name()?;
            let index = name.index()?;
            enable_ipv6(&name.name().to_string_lossy());
            Ok((tun, index))
        });
        let (tun, index) = opened.await.map_err(|source| HostError {
            action:
                "make a tun device for the virtual IP (is the kernel module tun there, and /dev/net/tun?)"
                    .to_owned(),
            source,
            partial: false,
        })?;
        Ok(Self { tun, index, all: BTreeSet::new(), rest: BTreeSet::new(), sources: BTreeMap::new() })
    }

    /// Its index.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Whether somebody deleted it: the descriptor then leads to no device any more.
    fn is_gone(&self) -> bool {
        !self.tun.name().and_then(|name| name.index()).is_ok_and(|index| index == self.index)
    }
}

/// Nodes that want no IPv6 on new devices still serve virtual IPs of that family where they have any. Where the setting
/// cannot be written, the kernel refuses IPv6 routes by the device, and that is told.
fn enable_ipv6(device: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
    if let Err(error) = std::fs::write(&path, "0") {
        tracing::debug!(%error, path, "cannot enable IPv6 on the forwarder's device");
    }
}

impl Node {
    pub(crate) async fn claim_vips(
        &mut self,
        state: &DesiredState,
        claim: LocalVip,
    ) -> Result<(), HostError> {
        self.recall_claim().await?;
        if self.device.is_none() {
            self.device = Some(Device::make().await?);
        }
        let wanted: BTreeMap<Vip, Option<IpAddr>> =
            state.frontends.iter().map(|f| (f.vip, f.backends.first().map(|b| b.ip()))).collect();
        let Some(Device { index, all, rest, .. }) = &self.device else { return Ok(()) };
        let (index, all, rest) = (*index, all.clone(), rest.clone());
        let served: BTreeSet<IpAddr> = wanted.keys().map(|vip| vip.ip()).collect();
        // One family's refusal is not the other's.
        let (mut refused, mut made) = (None, 0);
        for (vip, backend) in &wanted {
            match self.claim_one(*vip, *backend, claim, (&all, &rest)).await {
                Ok(()) => made += 1,
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        if claim == LocalVip::Ports {
            self.unclaim_others(&served, index).await?;
        }
        // A virtual IP that is gone from the state keeps the connections that it had.
        for ip in all.into_iter().filter(|ip| claim == LocalVip::Ports || !served.contains(ip)) {
            let route = local_route(ip, LOCAL, index)?.build();
            absent_is_fine(self.ask(|handle| handle.route().del(route).execute()).await)
                .map_err(|e| failed(format!("delete the local route to {ip}"), e))?;
            self.note(|device| device.all.remove(&ip));
        }
        match refused {
            Some(error) => Err(HostError { partial: made > 0, ..error }),
            None => Ok(()),
        }
    }

    async fn claim_one(
        &mut self,
        vip: Vip,
        backend: Option<IpAddr>,
        claim: LocalVip,
        (all, rest): (&BTreeSet<IpAddr>, &BTreeSet<Vip>),
    ) -> Result<(), HostError> {
        let Some(index) = self.device.as_ref().map(Device::index) else { return Ok(()) };
        if claim == LocalVip::All && !all.contains(&vip.ip()) {
            self.add_local(vip.ip(), backend, LOCAL, index).await?;
            self.note(|device| device.all.insert(vip.ip()));
        }
        if !rest.contains(&vip) {
            self.add_local(vip.ip(), backend, REST, index).await?;
            self.add_rule(vip).await?;
            self.note(|device| device.rest.insert(vip));
        }
        Ok(())
    }

    /// The routes go with the device; rules are not bound to one.
    pub(crate) async fn release_vips(&mut self) -> Result<bool, HostError> {
        let device = self.device.take();
        let had = device.is_some();
        let closed = match device {
            Some(device) => {
                apart(move || {
                    drop(device);
                    Ok(())
                })
                .await
            }
            None => Ok(()),
        };
        let rules = self.own_rules().await?;
        let found = !rules.is_empty();
        for rule in rules {
            absent_is_fine(self.ask(|handle| handle.rule().del(rule).execute()).await)
                .map_err(|e| failed("delete a routing rule", e))?;
        }
        closed.map_err(|e| failed("remove the forwarder's device", e))?;
        Ok(had || found)
    }

    fn note(&mut self, change: impl FnOnce(&mut Device) -> bool) {
        self.device.as_mut().map(change);
    }

    /// With the source address that the node's own traffic to the backend has: a connection of this node may be
    /// led to that backend later, when the virtual IP is no address of this node any more.
    pub(crate) async fn add_local(
        &mut self,
        ip: IpAddr,
        backend: Option<IpAddr>,
        table: u32,
        index: u32,
    ) -> Result<(), HostError> {
        let towards = match backend {
            Some(backend) => self.route_to(backend).await?,
            None => None,
        };
        let mut route = local_route(ip, table, index)?;
        if let Some(source) = towards.as_ref().and_then(preferred_source) {
            route = route.pref_source(source).map_err(|e| invalid(ip, &e))?;
            if let Some(device) = &mut self.device {
                device.sources.insert(ip, source);
            }
        }
        let added = self.ask(|handle| handle.route().add(route.build()).replace().execute()).await;
        added.map_err(|e| match e.raw_os_error() {
            Some(EACCES | EINVAL) if ip.is_ipv6() => failed(
                format!(
                    "make {ip} local to this node (is IPv6 off for new devices, and /proc/sys read-only? \
                     sysctl net.ipv6.conf.default.disable_ipv6=0)"
                ),
                e,
            ),
            _ => failed(format!("make {ip} local to this node"), e),
        })
    }

    pub(crate) async fn add_rule(&self, vip: Vip) -> Result<(), HostError> {
        let added = self.ask(|handle| {
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

fn local_route(
    ip: IpAddr,
    table: u32,
    index: u32,
) -> Result<rtnetlink::RouteMessageBuilder<IpAddr>, HostError> {
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
        RuleAttribute::Priority(REST),
        RuleAttribute::IpProtocol(IpProtocol::Tcp),
        RuleAttribute::DestinationPortRange(RulePortRange { start: vip.port(), end: vip.port() }),
        RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
    ];
    message
}

/// Whether a route is one that [`Device`] holds: those that host traffic needs are of type unicast.
pub(crate) fn is_claim(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Local
}

fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if matches!(error.raw_os_error(), Some(ESRCH | ENOENT | EAFNOSUPPORT)) => Ok(()),
        other => other,
    }
}
