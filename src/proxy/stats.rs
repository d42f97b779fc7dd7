//! What the forwarder counts. Its thread writes, the metrics, the status and the self-test read; neither waits for the
//! other for longer than it takes to look up a backend.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::types::Backend;

/// Where a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Through a virtual IP.
    Vip,
    /// Through a node-local endpoint (`--listen`).
    Listen,
}

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the client to the apiserver.
    ToUpstream,
    /// From the apiserver to the client.
    ToDownstream,
}

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DialFailure {
    /// Nothing listens there.
    Refused,
    /// No route, or a router said that there is none.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The backend went down while it was dialed.
    BackendDown,
    /// This node had no descriptor, port or memory. The dial is repeated, and not reported to the health checks.
    Local,
    /// Anything else.
    Other,
}

/// Why a client's connection was reset by the forwarder's own decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResetCause {
    /// The client has as many connections as one client may have.
    ClientLimit,
    /// Its backend went down.
    BackendDown,
    /// No backend could be reached.
    NoBackend,
}

/// A closed set of label values, in the order of declaration.
macro_rules! labelled {
    ($name:ident, $count:literal: $($variant:ident = $label:literal),+) => {
        impl $name {
            /// Every value, in the order of their declaration.
            pub const ALL: [Self; $count] = [$(Self::$variant),+];

            /// As a metric's label.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

labelled!(Origin, 2: Vip = "vip", Listen = "listen");
labelled!(Direction, 2: ToUpstream = "up", ToDownstream = "down");
labelled!(DialFailure, 6: Refused = "refused", Unreachable = "unreachable", TimedOut = "timed_out",
    BackendDown = "ended", Local = "local", Other = "other");
labelled!(ResetCause, 3: ClientLimit = "client_limit", BackendDown = "backend_down", NoBackend = "no_backend");

/// All counts since the start, and how many there are now.
#[derive(Debug, Default)]
pub struct Stats {
    open: [AtomicU64; 2],
    accepted: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
    dial_failures: [AtomicU64; 6],
    resets: [AtomicU64; 3],
    hedged: AtomicU64,
    pauses: AtomicU64,
    paused: AtomicU64,
    backends: Mutex<BTreeMap<Backend, Arc<BackendCounts>>>,
    expected_peers: ExpectedPeers,
}

/// The connections of one backend.
#[derive(Debug, Default)]
struct BackendCounts {
    total: AtomicU64,
    open: AtomicU64,
}

/// The connections that are forwarded to one backend, through virtual IPs and `--listen`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardedConnections {
    /// Connections since the start, or since the backend became known.
    pub total: u64,
    /// Connections that are open now.
    pub open: u64,
}

/// One connection to a backend. It counts as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<BackendCounts>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Stats {
    /// Clients of virtual IPs whose connections the self-test waits for.
    pub fn expected_peers(&self) -> &ExpectedPeers {
        &self.expected_peers
    }

    /// Connections that are open now, including those whose backend is still being dialed.
    pub fn open(&self, origin: Origin) -> u64 {
        self.open[origin as usize].load(Relaxed)
    }

    /// Accepted connections, including those that were reset at once.
    pub fn accepted(&self, origin: Origin) -> u64 {
        self.accepted[origin as usize].load(Relaxed)
    }

    /// Bytes written to the other side.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.bytes[direction as usize].load(Relaxed)
    }

    /// Dials that failed.
    pub fn dial_failures(&self, reason: DialFailure) -> u64 {
        self.dial_failures[reason as usize].load(Relaxed)
    }

    /// Connections of clients that were reset.
    pub fn resets(&self, cause: ResetCause) -> u64 {
        self.resets[cause as usize].load(Relaxed)
    }

    /// Dials that were started while another one for the same client was in flight.
    pub fn hedged(&self) -> u64 {
        self.hedged.load(Relaxed)
    }

    /// How often a listener stopped accepting: the connection limit was reached, or the kernel had no descriptor or memory.
    pub fn accept_pauses(&self) -> u64 {
        self.pauses.load(Relaxed)
    }

    /// Whether a listener waits now for that reason.
    pub fn accept_paused(&self) -> bool {
        self.paused.load(Relaxed) > 0
    }

    /// The connections that are forwarded to each backend, as far as there were any.
    pub fn forwarded(&self) -> BTreeMap<Backend, ForwardedConnections> {
        let of = |counts: &BackendCounts| ForwardedConnections {
            total: counts.total.load(Relaxed),
            open: counts.open.load(Relaxed),
        };
        self.backends().iter().map(|(backend, counts)| (*backend, of(counts))).collect()
    }

    /// A connection to this backend was established, and is forwarded from now on.
    pub fn count_forwarded(&self, backend: Backend) -> OpenConnection {
        let counts = Arc::clone(self.backends().entry(backend).or_default());
        counts.total.fetch_add(1, Relaxed);
        counts.open.fetch_add(1, Relaxed);
        OpenConnection(counts)
    }

    /// Removes the counts of backends that no longer exist, except those with open connections.
    pub(super) fn retain_backends(&self, exists: impl Fn(&Backend) -> bool) {
        self.backends().retain(|backend, counts| exists(backend) || counts.open.load(Relaxed) > 0);
    }

    fn backends(&self) -> MutexGuard<'_, BTreeMap<Backend, Arc<BackendCounts>>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn opened(&self, origin: Origin) {
        self.open[origin as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn closed(&self, origin: Origin) {
        self.open[origin as usize].fetch_sub(1, Relaxed);
    }

    pub(super) fn count_accepted(&self, origin: Origin) {
        self.accepted[origin as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_bytes(&self, direction: Direction, count: usize) {
        self.bytes[direction as usize].fetch_add(count as u64, Relaxed);
    }

    pub(super) fn count_dial_failure(&self, reason: DialFailure) {
        self.dial_failures[reason as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_reset(&self, cause: ResetCause) {
        self.resets[cause as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_hedged(&self) {
        self.hedged.fetch_add(1, Relaxed);
    }

    pub(super) fn pause_begins(&self) {
        self.pauses.fetch_add(1, Relaxed);
        self.paused.fetch_add(1, Relaxed);
    }

    pub(super) fn pause_ends(&self) {
        self.paused.fetch_sub(1, Relaxed);
    }
}

/// Connections to virtual IPs that the self-test is about to open, by their local port, which is known before the dial.
/// Shared between the proxy's thread and the self-test.
#[derive(Debug, Default)]
pub struct ExpectedPeers {
    /// How many are expected: reading this is all that other connections cost.
    count: AtomicUsize,
    ports: Mutex<BTreeMap<u16, Option<SocketAddr>>>,
}

impl ExpectedPeers {
    /// A client is about to dial a virtual IP from this port. Ends with [`ExpectedPeers::take`].
    pub fn expect(&self, port: u16) {
        let mut ports = self.ports();
        ports.insert(port, None);
        self.count.store(ports.len(), Relaxed);
    }

    /// The client whose connection from this port was accepted since it was expected.
    pub fn take(&self, port: u16) -> Option<SocketAddr> {
        let mut ports = self.ports();
        let client = ports.remove(&port).flatten();
        self.count.store(ports.len(), Relaxed);
        client
    }

    /// A connection to a virtual IP was accepted.
    pub(super) fn accepted(&self, client: SocketAddr) {
        if self.count.load(Relaxed) > 0
            && let Some(peer) = self.ports().get_mut(&client.port())
        {
            *peer = Some(client);
        }
    }

    fn ports(&self) -> MutexGuard<'_, BTreeMap<u16, Option<SocketAddr>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_in_order() {
        for (at, reason) in DialFailure::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
            assert!(DialFailure::ALL[..at].iter().all(|other| other.label() != reason.label()));
        }
        let stats = Stats::default();
        stats.count_dial_failure(DialFailure::Other);
        assert_eq!(DialFailure::ALL.map(|reason| stats.dial_failures(reason)), [0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn backend_that_no_longer_exists_is_removed_after_its_last_connection() {
        let [kept, gone] = [1, 2].map(|last| Backend::from(([192, 0, 2, last], 6443)));
        let stats = Stats::default();
        drop(stats.count_forwarded(kept));
        let open = [kept, gone].map(|backend| stats.count_forwarded(backend));
        let counts = |total, open| ForwardedConnections { total, open };
        stats.retain_backends(|backend| *backend == kept);
        assert_eq!(stats.forwarded(), [(kept, counts(2, 1)), (gone, counts(1, 1))].into());
        drop(open);
        stats.retain_backends(|backend| *backend == kept);
        assert_eq!(stats.forwarded(), [(kept, counts(2, 0))].into());
    }

    #[test]
    fn only_an_expected_peer_is_remembered() {
        let peers = ExpectedPeers::default();
        let (expected, other) = (([192, 0, 2, 1], 40_000).into(), ([192, 0, 2, 1], 40_001).into());
        peers.accepted(expected);
        peers.expect(40_000);
        peers.accepted(other);
        assert_eq!(peers.take(40_000), None);
        peers.expect(40_000);
        peers.accepted(expected);
        assert_eq!(peers.take(40_000), Some(expected));
        assert_eq!(peers.take(40_000), None);
    }
}
