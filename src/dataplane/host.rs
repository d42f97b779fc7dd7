//! The node's own addresses and routes, over rtnetlink: which source address is right for each backend, who holds
//! the virtual IP, and the route that host traffic needs on a node without a default route.

mod error;
mod messages;
mod own;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
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
pub use error::HostError;
use error::is_unroutable;
pub(super) use error::{EAFNOSUPPORT, ESRCH, errno, failed, invalid};
pub(super) use messages::{destination, host_route, output_interface, preferred_source};
use messages::{dump_request, lookup_request, same};
use own::OwnRoutes;

/// Marks our routes (`ip route show proto 97`). 97 is free in the kernel's rtnetlink.h and in iproute2's rt_protos.
pub const ROUTE_PROTOCOL: u8 = 97;
/// An interface that comes up brings a burst of events.
const SETTLE: Duration = Duration::from_millis(200);
/// Routes change without an address event; one lookup for each backend is some 20 us.
const POLL: Duration = Duration::from_secs(10);

/// The node that this process runs on, as its network namespace shows it.
pub struct Node {
    handle: Handle,
    pub(super) device: Option<Device>,
    /// Routes and rules that others removed and that are, or will be, made again.
    pub(super) repaired: usize,
    /// Virtual IPs that have a route of ours.
    routed: BTreeSet<IpAddr>,
    own: OwnRoutes,
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
        let own = OwnRoutes::open()?;
        Ok(Self {
            handle,
            device: None,
            repaired: 0,
            routed: BTreeSet::new(),
            own,
            events,
            poll,
            tasks: [pump, settle],
        })
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

    /// Our routes that host traffic needs, by destination.
    async fn own_routes(&self) -> Result<BTreeMap<IpAddr, RouteMessage>, HostError> {
        let unicast = self.listed_routes().await?.into_iter().filter(|route| !is_claim(route));
        Ok(unicast.filter_map(|route| Some((destination(&route)?, route))).collect())
    }

    /// All our routes.
    pub(super) async fn listed_routes(&self) -> Result<Vec<RouteMessage>, HostError> {
        let mut own = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut routes = self.handle.route().get(dump_request(family)).execute().boxed_local();
            while let Some(route) = routes.next().await {
                let route = match route {
                    Ok(route) => route,
                    // A kernel without IPv6 has no IPv6 routes.
                    Err(_) if family == Family::V6 => break,
                    Err(e) => return Err(failed("list the node's routes".to_owned(), e)),
                };
                if route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL) {
                    own.push(route);
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
        self.own.vips = vips.keys().copied().collect();
        self.routed.retain(|vip| vips.contains_key(vip));
        for (vip, backend) in vips {
            let ours = own.remove(&vip);
            let lost = ours.is_none() && self.routed.remove(&vip);
            if ours.is_none() && self.route_to(vip).await?.is_some() {
                continue;
            }
            let Some(wanted) = self.wanted(vip, backend).await? else { continue };
            self.routed.insert(vip);
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
            self.repaired += usize::from(lost);
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

    fn repaired(&mut self) -> usize {
        std::mem::take(&mut self.repaired)
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = self.own.touched() => {}
            changed = self.events.changed() => {
                if changed.is_err() {
                    self.poll.tick().await;
                }
            }
            _ = self.poll.tick() => {}
        }
    }
}
