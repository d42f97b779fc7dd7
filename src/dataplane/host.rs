//! The node's own addresses and routes, over rtnetlink: which source address is right for each backend, who holds
//! the virtual IP, and the route that host traffic needs on a node without a default route.

mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_sys::AsyncSocket;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::claim::{Claim, Device, is_claim};
use super::{DataplaneError, Host};
use crate::model::desired::{DesiredState, NodeView, PreferredSource};
use crate::model::types::Family;
use messages::{destination, dump_request, lookup_request, output_interface, same};
pub(super) use messages::{host_route, preferred_source};

/// Marks our routes (`ip route show proto 97`). 97 is free in the kernel's rtnetlink.h and in iproute2's rt_protos.
pub const ROUTE_PROTOCOL: u8 = 97;
/// An interface that comes up brings a burst of events.
const SETTLE: Duration = Duration::from_millis(200);
/// Routes change without an address event; one lookup for each backend is some 20 us.
const POLL: Duration = Duration::from_secs(10);

/// Why routes or addresses could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{action}")]
pub struct HostError {
    pub(super) action: String,
    #[source]
    pub(super) source: io::Error,
}

/// The node that this process runs on, as its network namespace shows it.
pub struct Node {
    handle: Handle,
    pub(super) device: Option<Device>,
    events: watch::Receiver<()>,
    poll: Interval,
    tasks: [JoinHandle<()>; 2],
}

impl Node {
    /// Opens an rtnetlink socket and listens for changes of links and addresses.
    pub fn open() -> Result<Self, DataplaneError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (mut connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups)
            .map_err(|source| HostError { action: "open a netlink socket to routes".to_owned(), source })?;
        // Without it the kernel ignores the filter of a dump, and a full routing table would be listed each time.
        let _ = connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true);
        let (changed, events) = watch::channel(());
        let pump = tokio::spawn(connection);
        let settle = tokio::spawn(async move {
            while messages.next().await.is_some() {
                sleep(SETTLE).await;
                while messages.try_recv().is_ok() {}
                if changed.send(()).is_err() {
                    return;
                }
            }
        });
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { handle, device: None, events, poll, tasks: [pump, settle] })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The route that host traffic to `to` takes, or `None` if there is none.
    pub(super) async fn route_to(&self, to: IpAddr) -> Result<Option<RouteMessage>, HostError> {
        let mut answers = self.handle.route().get(lookup_request(to)?).execute().boxed_local();
        match answers.next().await {
            Some(Ok(route)) => Ok(Some(route)),
            Some(Err(error)) if is_unroutable(&error) => Ok(None),
            Some(Err(error)) => Err(failed(format!("look up the route to {to}"), error)),
            None => Ok(None),
        }
    }

    /// Addresses among `of` that are bound to an interface of this node.
    async fn bound(&self, of: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, HostError> {
        let mut bound = BTreeSet::new();
        let mut addresses = self.handle.address().get().execute().boxed_local();
        while let Some(message) = addresses.next().await {
            let message = message.map_err(|e| failed("list the node's addresses".to_owned(), e))?;
            bound.extend(message.attributes.iter().filter_map(|a| match a {
                AddressAttribute::Address(ip) | AddressAttribute::Local(ip) if of.contains(ip) => Some(*ip),
                _ => None,
            }));
        }
        Ok(bound)
    }

    /// Our routes in the main table, by destination.
    async fn own_routes(&self) -> Result<BTreeMap<IpAddr, RouteMessage>, HostError> {
        let mut own = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            let mut routes = self.handle.route().get(dump_request(family)).execute().boxed_local();
            while let Some(route) = routes.next().await {
                let route = match route {
                    Ok(route) => route,
                    // A kernel without IPv6 has no IPv6 routes.
                    Err(_) if family == Family::V6 => break,
                    Err(e) => return Err(failed("list the node's routes".to_owned(), e)),
                };
                if route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
                    && !is_claim(&route)
                    && let Some(ip) = destination(&route)
                {
                    own.insert(ip, route);
                }
            }
        }
        Ok(own)
    }

    async fn delete(&self, ip: IpAddr, route: RouteMessage) -> Result<(), HostError> {
        match self.handle.route().del(route).execute().await {
            Err(error) if errno(&error) != Some(ESRCH) => {
                Err(failed(format!("delete the route to {ip}"), error))
            }
            _ => Ok(()),
        }
    }

    /// A route to `vip` by the interface, and with the source address, that lead to `backend`.
    async fn wanted(&self, vip: IpAddr, backend: IpAddr) -> Result<Option<RouteMessage>, HostError> {
        let Some(towards) = self.route_to(backend).await? else { return Ok(None) };
        let (Some(interface), Some(source)) = (output_interface(&towards), preferred_source(&towards)) else {
            return Ok(None);
        };
        let route = host_route(vip)?
            .output_interface(interface)
            .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
            .scope(if vip.is_ipv4() { RouteScope::Link } else { RouteScope::Universe })
            .pref_source(source)
            .map_err(|e| invalid(vip, &e))?;
        Ok(Some(route.build()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Host for Node {
    async fn view(
        &mut self,
        vips: &BTreeSet<IpAddr>,
        backends: &BTreeSet<IpAddr>,
    ) -> Result<NodeView, DataplaneError> {
        let mut preferred = BTreeMap::new();
        for backend in backends {
            let Some(route) = self.route_to(*backend).await? else { continue };
            if route.header.kind == RouteType::Local {
                preferred.insert(*backend, PreferredSource::Local);
            } else if let Some(source) = preferred_source(&route) {
                preferred.insert(*backend, PreferredSource::Address(source));
            }
        }
        Ok(NodeView { preferred, taken_vips: self.bound(vips).await? })
    }

    async fn ensure_routes(&mut self, state: &DesiredState) -> Result<(), DataplaneError> {
        let mut own = self.own_routes().await?;
        let vips: BTreeMap<IpAddr, IpAddr> =
            state.frontends.iter().filter_map(|f| f.backends.first().map(|b| (f.vip.ip(), b.ip()))).collect();
        for (vip, backend) in vips {
            let ours = own.remove(&vip);
            if ours.is_none() && self.route_to(vip).await?.is_some() {
                continue;
            }
            let Some(wanted) = self.wanted(vip, backend).await? else { continue };
            if ours.as_ref().is_some_and(|ours| same(ours, &wanted)) {
                continue;
            }
            let source = preferred_source(&wanted).map(tracing::field::display);
            self.handle
                .route()
                .add(wanted)
                .replace()
                .execute()
                .await
                .map_err(|e| failed(format!("add a route to {vip}"), e))?;
            tracing::info!(%vip, source, "added a route to the virtual IP: the node had none");
        }
        for (ip, route) in own {
            self.delete(ip, route).await?;
            tracing::info!(vip = %ip, "removed the route to a virtual IP that is no longer served");
        }
        Ok(())
    }

    async fn remove_routes(&mut self) -> Result<Vec<IpAddr>, DataplaneError> {
        let own = self.own_routes().await?;
        let removed = own.keys().copied().collect();
        for (ip, route) in own {
            self.delete(ip, route).await?;
        }
        Ok(removed)
    }

    async fn claim(&mut self, state: &DesiredState, claim: Claim) -> Result<(), DataplaneError> {
        Ok(self.claim_vips(state, claim).await?)
    }

    async fn release(&mut self) -> Result<bool, DataplaneError> {
        Ok(self.release_vips().await?)
    }

    async fn changed(&mut self) {
        tokio::select! {
            changed = self.events.changed() => {
                if changed.is_err() {
                    self.poll.tick().await;
                }
            }
            _ = self.poll.tick() => {}
        }
    }
}

const EINVAL: i32 = 22;
pub(super) const ESRCH: i32 = 3;
const EACCES: i32 = 13;
pub(super) const EAFNOSUPPORT: i32 = 97;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

pub(super) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().saturating_abs()),
        rtnetlink::Error::UnexpectedMessage(message) => match &message.payload {
            NetlinkPayload::Error(error) => Some(error.raw_code().saturating_abs()),
            _ => None,
        },
        _ => None,
    }
}

/// No route, or a route that says no: unreachable, prohibit, blackhole; or no such address family here.
fn is_unroutable(error: &rtnetlink::Error) -> bool {
    matches!(errno(error), Some(ENETUNREACH | EHOSTUNREACH | EACCES | EINVAL | EAFNOSUPPORT))
}

pub(super) fn failed(action: String, error: rtnetlink::Error) -> HostError {
    let source = match errno(&error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error.to_string()),
    };
    HostError { action, source }
}

pub(super) fn invalid(ip: IpAddr, error: &dyn std::fmt::Display) -> HostError {
    HostError { action: format!("describe the route to {ip}"), source: io::Error::other(error.to_string()) }
}
