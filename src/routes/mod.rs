//! The node's addresses and routes, over rtnetlink: which source address is preferred towards each backend, whether another
//! program has the virtual IP, the route that host traffic needs on a node without a default route, and virtual IPs that
//! are made local for the proxy.
//!
//! In: the desired state, events of the kernel. Out: a [`NodeView`], and the routes and rules with protocol
//! [`ROUTE_PROTOCOL`]. All of it is [`Node`], the real [`Host`].

mod events;
pub mod links;
pub mod local_vip;
mod requests;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::dataplane::{DataplaneError, Host, LocalVip};
use crate::model::desired::{DesiredState, NodeView};
use events::{AddressEvents, RouteEvents};
use local_vip::{LocalVips, is_local};
pub(crate) use requests::Requests;
use requests::{
    ESRCH, destination, failed, host_route, invalid, output_interface, own_routes, preferred_source,
    same_path,
};
pub use requests::{HostError, ROUTE_PROTOCOL};

/// Routes change without an address event; one lookup for each backend is some 20 us.
const POLL: Duration = Duration::from_secs(10);

/// The node that this process runs on, as its network namespace shows it.
pub struct Node {
    requests: Arc<Requests>,
    local_vips: LocalVips,
    /// Routes for host traffic that another program removed and that were made again.
    repaired: usize,
    /// The routes for host traffic that we added, by virtual IP.
    installed: BTreeMap<IpAddr, RouteMessage>,
    /// Virtual IPs for which a route was requested that is not logged yet, and why it was: the future that waits for the
    /// kernel's answer may be dropped.
    unlogged: BTreeMap<IpAddr, &'static str>,
    route_events: RouteEvents,
    address_events: AddressEvents,
    poll: Interval,
}

impl Node {
    /// Opens rtnetlink sockets, for requests and for changes of links, addresses and routes.
    pub fn open() -> Result<Self, DataplaneError> {
        let requests = Arc::new(Requests::open()?);
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            local_vips: LocalVips::new(Arc::clone(&requests)),
            requests,
            repaired: 0,
            installed: BTreeMap::new(),
            unlogged: BTreeMap::new(),
            route_events: RouteEvents::open()?,
            address_events: AddressEvents::open()?,
            poll,
        })
    }

    /// The route that host traffic to `to` takes, or `None` if there is none.
    async fn route_to(&self, to: IpAddr) -> Result<Option<RouteMessage>, HostError> {
        sources::route_to(&self.requests, to).await
    }

    /// Logs a requested route once it is there.
    fn log_added(&mut self, vip: IpAddr, source: Option<IpAddr>) {
        if let Some(reason) = self.unlogged.remove(&vip) {
            let source = source.map(tracing::field::display);
            tracing::info!(event = %"route_added", %vip, source, reason, "Added route to virtual IP");
        }
    }

    /// What keeps this node's own connections from `vip` though there is a route.
    async fn rejection(&self, vip: IpAddr) -> Result<Option<HostError>, HostError> {
        let Some((priority, action)) = sources::rejecting_rule(&self.requests, vip).await? else {
            return Ok(None);
        };
        let action = format!(
            "route {vip} from this node: the routing rule of priority {priority} has the action {action} (ip rule show); \
             Pods are not affected"
        );
        Ok(Some(failed(action, io::Error::from(io::ErrorKind::HostUnreachable))))
    }

    /// Our routes for host traffic, by destination.
    async fn host_routes(&self) -> Result<BTreeMap<IpAddr, RouteMessage>, HostError> {
        let unicast = own_routes(&self.requests).await?.into_iter().filter(|route| !is_local(route));
        Ok(unicast.filter_map(|route| Some((destination(&route)?, route))).collect())
    }

    async fn delete(&self, ip: IpAddr, route: RouteMessage) -> Result<(), HostError> {
        match self.requests.send(|handle| handle.route().del(route).execute()).await {
            Err(error) if error.raw_os_error() != Some(ESRCH) => {
                Err(failed(format!("delete the route to {ip}"), error))
            }
            _ => Ok(()),
        }
    }

    /// A route to `vip` with the interface and the source address of the route to `backend`.
    async fn desired_route(&self, vip: IpAddr, backend: IpAddr) -> Result<Option<RouteMessage>, HostError> {
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
        let mut own = self.host_routes().await?;
        let mut vips: BTreeMap<IpAddr, Vec<IpAddr>> = BTreeMap::new();
        for frontend in &state.frontends {
            vips.entry(frontend.vip.ip()).or_default().extend(frontend.backends.iter().map(|b| b.ip()));
        }
        self.route_events.vips = vips.keys().copied().collect();
        self.installed.retain(|vip, _| vips.contains_key(vip));
        self.unlogged.retain(|vip, _| vips.contains_key(vip));
        let mut rejected = None;
        for (vip, backends) in vips {
            let ours = own.remove(&vip);
            let lost = if ours.is_none() { self.installed.remove(&vip) } else { None };
            let existing = if ours.is_none() { self.route_to(vip).await? } else { None };
            let reason = match &existing {
                None => "no_route",
                Some(existing) if sources::is_misrouted(&self.requests, existing, &backends).await? => {
                    "misrouted_source"
                }
                Some(_) => continue,
            };
            let Some(backend) = backends.first() else { continue };
            let Some(wanted) = self.desired_route(vip, *backend).await? else { continue };
            // If the source address is gone, the kernel removed the route itself.
            let lost = lost.is_some_and(|lost| same_path(&lost, &wanted));
            self.installed.insert(vip, wanted.clone());
            let source = preferred_source(&wanted);
            if ours.as_ref().is_some_and(|ours| same_path(ours, &wanted)) {
                self.log_added(vip, source);
                if self.route_to(vip).await?.is_none() {
                    rejected = rejected.or(self.rejection(vip).await?);
                }
                continue;
            }
            self.unlogged.insert(vip, reason);
            self.requests
                .send(|handle| handle.route().add(wanted).replace().execute())
                .await
                .map_err(|e| failed(format!("add a route to {vip}"), e))?;
            self.log_added(vip, source);
            self.repaired += usize::from(lost);
            if self.route_to(vip).await?.is_none() {
                rejected = rejected.or(self.rejection(vip).await?);
            }
        }
        for (ip, route) in own {
            self.delete(ip, route).await?;
            tracing::info!(
                event = %"route_removed", vip = %ip,
                "Removed route to virtual IP that is no longer served"
            );
        }
        match rejected {
            Some(rejected) => Err(rejected.into()),
            None => Ok(()),
        }
    }

    async fn remove_routes(&mut self) -> Result<Vec<IpAddr>, DataplaneError> {
        let own = self.host_routes().await?;
        let removed = own.keys().copied().collect();
        for (ip, route) in own {
            self.delete(ip, route).await?;
        }
        Ok(removed)
    }

    async fn acquire_local_vips(
        &mut self,
        state: &DesiredState,
        packets: LocalVip,
    ) -> Result<(), DataplaneError> {
        Ok(self.local_vips.acquire(state, packets).await?)
    }

    async fn release_local_vips(&mut self) -> Result<bool, DataplaneError> {
        Ok(self.local_vips.release().await?)
    }

    fn repaired(&mut self) -> usize {
        std::mem::take(&mut self.repaired) + self.local_vips.take_repaired()
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = self.route_events.changed() => {}
            () = self.address_events.changed() => {}
            _ = self.poll.tick() => {}
        }
    }
}
