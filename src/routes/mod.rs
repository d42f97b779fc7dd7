//! The node's own addresses and routes, over rtnetlink: which source address is right for each backend, who holds
//! the virtual IP, and the route that host traffic needs on a node without a default route.

mod error;
mod events;
pub mod links;
pub mod local_vip;
mod messages;
pub mod other_netns;
mod own;
mod requests;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::LocalBoxFuture;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::Handle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::dataplane::{DataplaneError, Host, LocalVip};
use crate::model::desired::{DesiredState, NodeView};
use crate::model::types::Family;
use crate::routes::local_vip::{Device, is_claim};
pub use error::HostError;
pub(super) use error::{EAFNOSUPPORT, ESRCH, failed, invalid};
use events::Events;
pub(super) use messages::{destination, host_route, output_interface, preferred_source};
use messages::{dump_request, same};
use own::OwnRoutes;
use requests::Requests;
pub(super) use requests::apart;
pub(super) use sources::addresses;

/// Marks our routes (`ip route show proto 97`). 97 is free in the kernel's rtnetlink.h and in iproute2's rt_protos.
pub const ROUTE_PROTOCOL: u8 = 97;
/// Routes change without an address event; one lookup for each backend is some 20 us.
const POLL: Duration = Duration::from_secs(10);

/// The node that this process runs on, as its network namespace shows it.
pub struct Node {
    pub(super) requests: Arc<Requests>,
    pub(super) device: Option<Device>,
    /// Routes and rules that others removed and that are, or will be, made again.
    pub(super) repaired: usize,
    /// Virtual IPs that have a route of ours, and which.
    routed: BTreeMap<IpAddr, RouteMessage>,
    /// Virtual IPs for which a route was asked for, and why, and the log does not say so yet: who waits for the kernel's answer
    /// may be called away.
    untold: BTreeMap<IpAddr, &'static str>,
    own: OwnRoutes,
    events: Events,
    poll: Interval,
}

impl Node {
    /// Opens rtnetlink sockets, for requests and for changes of links, addresses and routes.
    pub fn open() -> Result<Self, DataplaneError> {
        let requests = Requests::open().map_err(|e| failed("open a netlink socket to routes", e))?;
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            requests: Arc::new(requests),
            device: None,
            repaired: 0,
            routed: BTreeMap::new(),
            untold: BTreeMap::new(),
            own: OwnRoutes::open()?,
            events: Events::open()?,
            poll,
        })
    }

    /// Asks the kernel, which has to answer within seconds.
    pub(super) async fn ask<T, F>(&self, request: impl FnOnce(Handle) -> F) -> io::Result<T>
    where
        F: Future<Output = Result<T, rtnetlink::Error>>,
    {
        self.requests.ask(request).await
    }

    /// The route that host traffic to `to` takes, or `None` if there is none.
    pub(super) async fn route_to(&self, to: IpAddr) -> Result<Option<RouteMessage>, HostError> {
        sources::route_to(&self.requests, to).await
    }

    /// Tells once of a route that is there because it was asked for.
    fn tell_added(&mut self, vip: IpAddr, source: Option<IpAddr>) {
        if let Some(why) = self.untold.remove(&vip) {
            let source = source.map(tracing::field::display);
            tracing::info!(%vip, source, "added a route to the virtual IP: {why}");
        }
    }

    /// What keeps this node's own connections from `vip` though there is a route.
    async fn refusal(&self, vip: IpAddr) -> Result<Option<HostError>, HostError> {
        let Some((priority, action)) = sources::refusing_rule(&self.requests, vip).await? else {
            return Ok(None);
        };
        let action = format!(
            "reach {vip} from this node itself: the routing rule of priority {priority} says {action} (ip rule show); \
             Pods are not concerned"
        );
        Ok(Some(failed(action, io::Error::from(io::ErrorKind::HostUnreachable))))
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
            let request = dump_request(family);
            let listed =
                self.ask(|handle| handle.route().get(request).execute().try_collect::<Vec<_>>()).await;
            match listed {
                Ok(listed) => own.extend(
                    listed.into_iter().filter(|r| r.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)),
                ),
                // A kernel without IPv6 has no IPv6 routes.
                Err(error) if family == Family::V6 && error.raw_os_error().is_some() => {}
                Err(error) => return Err(failed("list the node's routes", error)),
            }
        }
        Ok(own)
    }

    async fn delete(&self, ip: IpAddr, route: RouteMessage) -> Result<(), HostError> {
        match self.ask(|handle| handle.route().del(route).execute()).await {
            Err(error) if error.raw_os_error() != Some(ESRCH) => {
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

impl Host for Node {
    fn view(
        &self,
        vips: BTreeSet<IpAddr>,
        backends: BTreeSet<IpAddr>,
    ) -> LocalBoxFuture<'static, Result<NodeView, DataplaneError>> {
        let requests = Arc::clone(&self.requests);
        Box::pin(async move {
            let own = sources::addresses(&requests).await?;
            let preferred = sources::preferred(&requests, backends, &own).await?;
            let taken_vips = own.into_iter().map(|(ip, _)| ip).filter(|ip| vips.contains(ip)).collect();
            Ok(NodeView { preferred, taken_vips })
        })
    }

    async fn ensure_routes(&mut self, state: &DesiredState) -> Result<(), DataplaneError> {
        let mut own = self.own_routes().await?;
        let mut vips: BTreeMap<IpAddr, Vec<IpAddr>> = BTreeMap::new();
        for frontend in &state.frontends {
            vips.entry(frontend.vip.ip()).or_default().extend(frontend.backends.iter().map(|b| b.ip()));
        }
        self.own.vips = vips.keys().copied().collect();
        self.routed.retain(|vip, _| vips.contains_key(vip));
        self.untold.retain(|vip, _| vips.contains_key(vip));
        let mut refused = None;
        for (vip, backends) in vips {
            let ours = own.remove(&vip);
            let lost = if ours.is_none() { self.routed.remove(&vip) } else { None };
            let existing = if ours.is_none() { self.route_to(vip).await? } else { None };
            let why = match &existing {
                None => "the node had none",
                Some(existing) if sources::leads_astray(&self.requests, existing, &backends).await? => {
                    "with another source, routing rules lead this node's connections another way"
                }
                Some(_) => continue,
            };
            let Some(backend) = backends.first() else { continue };
            let Some(wanted) = self.wanted(vip, *backend).await? else { continue };
            // Without the address that it was made for, the kernel took it away itself.
            let lost = lost.is_some_and(|lost| same(&lost, &wanted));
            self.routed.insert(vip, wanted.clone());
            let source = preferred_source(&wanted);
            if ours.as_ref().is_some_and(|ours| same(ours, &wanted)) {
                self.tell_added(vip, source);
                if self.route_to(vip).await?.is_none() {
                    refused = refused.or(self.refusal(vip).await?);
                }
                continue;
            }
            self.untold.insert(vip, why);
            self.ask(|handle| handle.route().add(wanted).replace().execute())
                .await
                .map_err(|e| failed(format!("add a route to {vip}"), e))?;
            self.tell_added(vip, source);
            self.repaired += usize::from(lost);
            if self.route_to(vip).await?.is_none() {
                refused = refused.or(self.refusal(vip).await?);
            }
        }
        for (ip, route) in own {
            self.delete(ip, route).await?;
            tracing::info!(vip = %ip, "removed the route to a virtual IP that is no longer served");
        }
        match refused {
            Some(refused) => Err(refused.into()),
            None => Ok(()),
        }
    }

    async fn remove_routes(&mut self) -> Result<Vec<IpAddr>, DataplaneError> {
        let own = self.own_routes().await?;
        let removed = own.keys().copied().collect();
        for (ip, route) in own {
            self.delete(ip, route).await?;
        }
        Ok(removed)
    }

    async fn claim(&mut self, state: &DesiredState, claim: LocalVip) -> Result<(), DataplaneError> {
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
            () = self.events.next() => {}
            _ = self.poll.tick() => {}
        }
    }
}
