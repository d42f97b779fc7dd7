//! Carries all connections whose backend was found, in one task: idle, a connection is two watched sockets and an
//! entry in a map.
//!
//! In: connections, backends that went down. Out: bytes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use socket2::SockRef;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::poller::Poller;
use super::readiness::Events;
use super::relay::{Next, Relay};
use super::shared::{Ending, Shared};
use super::socket::{self, Keepalive};
use super::stats::ResetCause;
use super::table::Ticket;
use super::young::Young;
use crate::model::types::Backend;

/// Between two tries to make a pipe while the process has no descriptors.
const RETRY: Duration = Duration::from_millis(50);

/// A connection that is carried.
pub(super) struct Carried {
    relay: Relay,
    backend: Backend,
    /// It waits for its turn already.
    queued: bool,
    /// Given back after the sockets were closed.
    _ticket: Ticket,
}

impl Carried {
    pub(super) fn new(downstream: TcpStream, upstream: TcpStream, backend: Backend, ticket: Ticket) -> Self {
        Self { relay: Relay::new(downstream, upstream), backend, queued: false, _ticket: ticket }
    }

    fn enqueue(&mut self, name: u64, queue: &mut VecDeque<u64>) {
        if !std::mem::replace(&mut self.queued, true) {
            queue.push_back(name);
        }
    }
}

/// What the carrier is told.
pub(super) enum Order {
    Carry(Box<Carried>),
    /// Resets the connections to these.
    End(Ending),
    /// Has the kernel ask the hosts of these at another pace whether connections still stand.
    Keepalive(BTreeSet<Backend>, Keepalive),
}

pub(super) struct Carrier {
    shared: Rc<Shared>,
    poller: Poller,
    /// By names that are never used again, since an event may come late.
    carried: HashMap<u64, Box<Carried>>,
    next: u64,
    young: Young,
    /// Whose turn it is.
    queue: VecDeque<u64>,
    /// For whom no pipe could be made, and when to try again.
    starved: BTreeSet<u64>,
    retry_at: Instant,
}

impl Carrier {
    pub(super) fn new(shared: Rc<Shared>) -> io::Result<Self> {
        Ok(Self {
            shared,
            poller: Poller::new()?,
            carried: HashMap::new(),
            next: 0,
            young: Young::default(),
            queue: VecDeque::new(),
            starved: BTreeSet::new(),
            retry_at: Instant::now(),
        })
    }

    /// Carries until nobody can give orders any more. An error says that the runtime ends.
    pub(super) async fn run(mut self, mut orders: UnboundedReceiver<Order>) -> io::Result<()> {
        loop {
            if self.queue.is_empty() {
                tokio::select! {
                    order = orders.recv() => match order {
                        Some(order) => self.obey(order),
                        None => return Ok(()),
                    },
                    events = self.poller.next() => events?,
                    () = sleep_until(self.retry_at), if !self.starved.is_empty() => {}
                    () = self.young.any_grown() => {}
                }
            } else {
                // Nobody has to wait for those that always have something to carry.
                tokio::task::yield_now().await;
                self.poller.next().now_or_never().transpose()?;
            }
            while let Ok(order) = orders.try_recv() {
                self.obey(order);
            }
            self.hear();
            self.look_after_grown();
            for _ in 0..self.queue.len() {
                self.give_turn();
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            // A socket that cannot be watched cannot be carried: both are reset.
            Order::Carry(carried) => drop(self.carry(carried)),
            Order::End(backends) => {
                let ended = self.carried.extract_if(|_, carried| backends.contains(&carried.backend));
                ended.for_each(|_| self.shared.stats.count_reset(ResetCause::BackendDown));
            }
            Order::Keepalive(backends, pace) => {
                for carried in self.carried.values().filter(|carried| backends.contains(&carried.backend)) {
                    let _ = socket::keep_alive(&SockRef::from(carried.relay.upstream()), pace);
                }
            }
        }
    }

    fn carry(&mut self, mut carried: Box<Carried>) -> io::Result<()> {
        let name = self.next;
        self.next += 1;
        self.poller.watch(carried.relay.downstream(), name << 1)?;
        self.poller.watch(carried.relay.upstream(), name << 1 | 1)?;
        // A client speaks first, and did so most likely while its backend was found.
        carried.relay.hear_downstream(Events { readable: true, writable: true, ..Events::default() });
        carried.relay.hear_upstream(Events { writable: true, ..Events::default() });
        carried.enqueue(name, &mut self.queue);
        self.carried.insert(name, carried);
        self.young.push(name, Instant::now());
        Ok(())
    }

    fn look_after_grown(&mut self) {
        let now = Instant::now();
        while let Some(name) = self.young.pop_grown(now) {
            if let Some(carried) = self.carried.get(&name) {
                // It was possible for the listener; where it is not, a dead apiserver is still found by health checks.
                let _ = socket::keep_alive(&SockRef::from(carried.relay.upstream()), Keepalive::Usual);
            }
        }
    }

    /// Whose turn it is after what happened.
    fn hear(&mut self) {
        for (socket, events) in self.poller.drain() {
            let name = socket >> 1;
            let Some(carried) = self.carried.get_mut(&name) else { continue };
            match socket & 1 {
                0 => carried.relay.hear_downstream(events),
                _ => carried.relay.hear_upstream(events),
            }
            carried.enqueue(name, &mut self.queue);
        }
        if !self.starved.is_empty() && Instant::now() >= self.retry_at {
            for name in std::mem::take(&mut self.starved) {
                if let Some(carried) = self.carried.get_mut(&name) {
                    carried.enqueue(name, &mut self.queue);
                }
            }
        }
    }

    fn give_turn(&mut self) {
        let Some(name) = self.queue.pop_front() else { return };
        let Some(carried) = self.carried.get_mut(&name) else { return };
        carried.queued = false;
        match carried.relay.advance(&self.shared.pool, &self.shared.stats) {
            Next::Event => {}
            Next::Turn => carried.enqueue(name, &mut self.queue),
            Next::Pipe => {
                if self.starved.is_empty() {
                    self.retry_at = Instant::now() + RETRY;
                }
                self.starved.insert(name);
            }
            Next::Over => drop(self.carried.remove(&name)),
        }
    }
}
