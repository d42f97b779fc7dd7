//! What all tasks of the forwarder's thread share.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Waker};

use tokio::sync::broadcast;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::carrier::{Carried, Order};
use super::dial::endings;
use super::limits::Limits;
use super::pipe::Pool;
use super::presence::Presence;
use super::socket::Keepalive;
use super::stats::{Origin, Stats};
use super::table::Table;
use crate::model::proxy_routes::{ProxyRoute, ProxyRoutes};
use crate::model::types::Backend;

/// Backends that went down at the same time.
pub(super) type Ending = Arc<BTreeSet<Backend>>;

pub(super) struct Shared {
    pub(super) stats: Arc<Stats>,
    pub(super) table: Table,
    pub(super) presence: Presence,
    pub(super) pool: Pool,
    pub(super) endings: broadcast::Sender<Ending>,
    pub(super) dial_failures: UnboundedSender<Backend>,
    orders: UnboundedSender<Order>,
    routes: RefCell<Option<Arc<ProxyRoutes>>>,
    /// Listeners that may not accept until something changes.
    parked: RefCell<Vec<Waker>>,
}

impl Shared {
    /// With the orders for the carrier.
    pub(super) fn new(
        stats: Arc<Stats>,
        limits: Limits,
        presence: Presence,
        dial_failures: UnboundedSender<Backend>,
    ) -> (Self, UnboundedReceiver<Order>) {
        let (orders, inbox) = unbounded_channel();
        let shared = Self {
            stats,
            table: Table::new(limits),
            presence,
            pool: Pool::default(),
            endings: endings(),
            dial_failures,
            orders,
            routes: RefCell::default(),
            parked: RefCell::default(),
        };
        (shared, inbox)
    }

    /// Takes new routes up, and resets what goes to backends that were not ending before.
    pub(super) fn route(&self, routes: Arc<ProxyRoutes>) {
        let before = self.routes.replace(Some(Arc::clone(&routes)));
        let suspects = |routes: &Option<Arc<ProxyRoutes>>| {
            routes.as_ref().map(|routes| routes.suspects.clone()).unwrap_or_default()
        };
        let (doubted, doubts) = (suspects(&before), &routes.suspects);
        for (changed, pace) in [
            (doubts.difference(&doubted).copied().collect(), Keepalive::EachSecond),
            (doubted.difference(doubts).copied().collect(), Keepalive::Usual),
        ] as [(BTreeSet<Backend>, Keepalive); 2]
        {
            if !changed.is_empty() {
                let _ = self.orders.send(Order::Keepalive(changed, pace));
            }
        }
        let known = |backend: &Backend| before.as_ref().is_some_and(|before| before.ending.contains(backend));
        let ending: BTreeSet<Backend> = routes.ending.iter().copied().filter(|b| !known(b)).collect();
        if !ending.is_empty() {
            let ending = Arc::new(ending);
            // Errors say that nothing is carried, and nothing dialled.
            let _ = self.orders.send(Order::End(Arc::clone(&ending)));
            let _ = self.endings.send(ending);
        }
        self.unpark();
    }

    pub(super) fn carry(&self, carried: Carried) {
        // An error says that the thread ends; then the connection, too.
        let _ = self.orders.send(Order::Carry(Box::new(carried)));
    }

    /// Looks at the route of a listener, if it has one.
    pub(super) fn with_route<T>(
        &self,
        origin: Origin,
        address: &SocketAddr,
        look: impl FnOnce(&ProxyRoute) -> T,
    ) -> Option<T> {
        let routes = self.routes.borrow();
        let routes = routes.as_ref()?;
        match origin {
            Origin::Vip => routes.vips.get(address).map(look),
            Origin::Listen => Some(look(&routes.local)),
        }
    }

    /// Wakes this listener when routes change or a connection ends.
    pub(super) fn park(&self, cx: &Context<'_>) {
        let mut parked = self.parked.borrow_mut();
        if !parked.iter().any(|waker| waker.will_wake(cx.waker())) {
            parked.push(cx.waker().clone());
        }
    }

    pub(super) fn unpark(&self) {
        self.parked.take().into_iter().for_each(Waker::wake);
    }
}
