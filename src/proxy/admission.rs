//! How many connections are allowed and how many are open: in total, for each client, and through virtual IPs.
//!
//! In: the configured limits, connections that begin and end. Out: a [`ConnectionPermit`] for each connection that may
//! be proxied, wake-ups for listeners that wait for one, and a count that other threads can read.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Notify, watch};

use super::stats::{Origin, Stats};

/// Descriptors of a busy connection: two sockets and, for each direction, a pipe with two ends.
const BUSY: usize = 6;
/// Descriptors of an idle connection: its sockets. With more connections than this allows, no pipe could ever be made.
const IDLE: usize = 2;
/// Descriptors for the rest of the daemon: watches, probes of each apiserver, netlink, dials that race, and clients of
/// the daemon's own endpoints.
const RESERVE: usize = 96;
/// What an unlimited process is assumed to have: the default of fs.nr_open.
const UNLIMITED: usize = 1 << 20;

/// How many connections there may be, in total and from one client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) connections: usize,
    pub(super) per_client: usize,
}

impl Limits {
    /// Raises the soft limit of descriptors to the hard one, derives from it the limits that were not configured, and
    /// caps those that were.
    pub(super) fn resolve(connections: Option<usize>, per_client: Option<usize>) -> Self {
        let descriptors = raise_descriptors();
        let open = fs::read_dir("/proc/self/fd").map_or(RESERVE, Iterator::count);
        let connections = match connections {
            Some(wanted) => wanted.clamp(1, affordable(descriptors, open, IDLE)),
            None => affordable(descriptors, open, BUSY),
        };
        Self { connections, per_client: per_client.unwrap_or(connections / 2).max(1) }
    }
}

fn affordable(descriptors: usize, open: usize, each: usize) -> usize {
    descriptors.saturating_sub(open + RESERVE).max(each) / each
}

fn raise_descriptors() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // If this is refused, fewer connections are accepted.
    let current = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    current.and_then(|count| usize::try_from(count).ok()).unwrap_or(UNLIMITED)
}

/// The open connections of the proxy's thread, and the listeners that wait until something changes.
pub(super) struct ConnectionTable {
    limits: Limits,
    stats: Arc<Stats>,
    through_vips: ConnectionCount,
    open: Cell<usize>,
    clients: RefCell<HashMap<IpAddr, usize>>,
    emptied: Notify,
    parked_listeners: RefCell<Vec<Waker>>,
}

impl ConnectionTable {
    pub(super) fn new(limits: Limits, stats: Arc<Stats>, through_vips: ConnectionCount) -> Self {
        Self {
            limits,
            stats,
            through_vips,
            open: Cell::default(),
            clients: RefCell::default(),
            emptied: Notify::new(),
            parked_listeners: RefCell::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.get()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limits.connections
    }

    /// Waits until no connection is open.
    pub(super) async fn emptied(&self) {
        while self.len() > 0 {
            self.emptied.notified().await;
        }
    }

    /// Counts one more user of the virtual IPs until the guard is dropped.
    pub(super) fn hold_vips(&self) -> ConnectionCountGuard {
        self.through_vips.hold()
    }

    /// Wakes this listener when routes change or, if the table is full, when a connection ends.
    pub(super) fn park_listener(&self, cx: &Context<'_>) {
        let mut parked = self.parked_listeners.borrow_mut();
        if !parked.iter().any(|waker| waker.will_wake(cx.waker())) {
            parked.push(cx.waker().clone());
        }
    }

    pub(super) fn wake_listeners(&self) {
        self.parked_listeners.take().into_iter().for_each(Waker::wake);
    }
}

/// One connection's place in the table, until it is dropped.
pub(super) struct ConnectionPermit {
    client: IpAddr,
    origin: Origin,
    table: Rc<ConnectionTable>,
    _vip_guard: Option<ConnectionCountGuard>,
}

impl ConnectionPermit {
    /// None: this client has as many connections as one client may have.
    pub(super) fn acquire(table: &Rc<ConnectionTable>, origin: Origin, client: IpAddr) -> Option<Self> {
        let mut clients = table.clients.borrow_mut();
        let count = clients.entry(client).or_default();
        if *count >= table.limits.per_client {
            return None;
        }
        *count += 1;
        table.open.update(|open| open + 1);
        table.stats.opened(origin);
        let vip_guard = (origin == Origin::Vip).then(|| table.hold_vips());
        Some(Self { client, origin, table: Rc::clone(table), _vip_guard: vip_guard })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let table = &self.table;
        let was_full = table.is_full();
        table.open.update(|open| open - 1);
        if let Entry::Occupied(mut count) = table.clients.borrow_mut().entry(self.client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        table.stats.closed(self.origin);
        if table.len() == 0 {
            table.emptied.notify_waiters();
        }
        if was_full {
            table.wake_listeners();
        }
    }
}

/// How many users the virtual IPs have on this node: open connections through them, and listeners that are being
/// withdrawn, since the handshake of one more connection may be in progress. Counted on the proxy's thread.
#[derive(Clone, Debug)]
pub(super) struct ConnectionCount {
    count: Arc<AtomicUsize>,
    /// Changes whenever the count drops to zero.
    emptied: watch::Sender<()>,
}

/// The same count, read from another thread.
#[derive(Debug)]
pub(super) struct ConnectionCountReader {
    count: Arc<AtomicUsize>,
    emptied: watch::Receiver<()>,
}

/// Counts as one until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionCountGuard(ConnectionCount);

impl ConnectionCount {
    pub(super) fn new() -> (Self, ConnectionCountReader) {
        let (sender, emptied) = watch::channel(());
        let count = Arc::<AtomicUsize>::default();
        (Self { count: Arc::clone(&count), emptied: sender }, ConnectionCountReader { count, emptied })
    }

    fn hold(&self) -> ConnectionCountGuard {
        self.count.fetch_add(1, Ordering::Relaxed);
        ConnectionCountGuard(self.clone())
    }
}

impl Drop for ConnectionCountGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.emptied.send_replace(());
        }
    }
}

impl ConnectionCountReader {
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The last guard was dropped, and there is none since. Cancel safe.
    pub(super) async fn emptied(&mut self) {
        loop {
            if self.emptied.changed().await.is_err() {
                // The thread has ended; the owner of the handle learns that from its commands.
                std::future::pending::<()>().await;
            }
            if self.count() == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn connection_limit_follows_from_descriptors() {
        assert_eq!(affordable(1024, 20, BUSY), 151);
        assert_eq!(affordable(64, 30, BUSY), 1);
        assert_eq!(affordable(0, 30, IDLE), 1);
        assert!(Limits::resolve(Some(usize::MAX), None).connections < usize::MAX / 2);
    }

    #[test]
    fn one_client_gets_half_of_the_connections_by_default() {
        let limits = Limits::resolve(Some(9), None);
        assert_eq!((limits.connections, limits.per_client), (9, 4));
        let limits = Limits::resolve(Some(1), None);
        assert_eq!((limits.connections, limits.per_client), (1, 1));
        assert!(Limits::resolve(None, Some(3)).connections >= 1);
    }

    #[test]
    fn count_is_emptied_once_when_the_last_guard_is_dropped() {
        let (count, mut reader) = ConnectionCount::new();
        assert!(reader.emptied().now_or_never().is_none(), "there was none");
        let (first, second) = (count.hold(), count.hold());
        drop(first);
        assert!(reader.emptied().now_or_never().is_none() && reader.count() == 1);
        drop(second);
        let third = count.hold();
        assert!(reader.emptied().now_or_never().is_none(), "another one came");
        drop(third);
        assert!(reader.emptied().now_or_never().is_some());
        assert!(reader.emptied().now_or_never().is_none() && reader.count() == 0);
    }
}
