//! What the forwarder counts. Its thread writes, whoever renders metrics reads; nothing waits for the other.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::guests::Guests;

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
pub enum Way {
    /// From the client to the apiserver.
    Up,
    /// From the apiserver to the client.
    Down,
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
    /// The backend went down while it was dialled.
    Ended,
    /// This node had no descriptor, port or memory. It is tried again, and the backend is not blamed.
    Local,
    /// Anything else.
    Other,
}

/// Why a client's connection was reset by the forwarder's own decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResetCause {
    /// This client has as many connections as one client may have.
    ClientLimit,
    /// Its backend went down.
    BackendDown,
    /// No backend could be reached.
    NoBackend,
}

/// A closed set of label values.
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
labelled!(Way, 2: Up = "up", Down = "down");
labelled!(DialFailure, 6: Refused = "refused", Unreachable = "unreachable", TimedOut = "timed_out",
    Ended = "ended", Local = "local", Other = "other");
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
    guests: Guests,
}

impl Stats {
    /// Clients of virtual IPs whose arrival somebody waits for.
    pub fn guests(&self) -> &Guests {
        &self.guests
    }

    /// Connections that are open now, those whose backend is still being dialled included.
    pub fn open(&self, origin: Origin) -> u64 {
        self.open[origin as usize].load(Relaxed)
    }

    /// Connections taken from clients, those included that were reset at once.
    pub fn accepted(&self, origin: Origin) -> u64 {
        self.accepted[origin as usize].load(Relaxed)
    }

    /// Bytes given to the kernel for the other side.
    pub fn bytes(&self, way: Way) -> u64 {
        self.bytes[way as usize].load(Relaxed)
    }

    /// Dials that failed.
    pub fn dial_failures(&self, reason: DialFailure) -> u64 {
        self.dial_failures[reason as usize].load(Relaxed)
    }

    /// Connections of clients that were reset.
    pub fn resets(&self, cause: ResetCause) -> u64 {
        self.resets[cause as usize].load(Relaxed)
    }

    /// Dials that were started while another one for the same client was still under way.
    pub fn hedged(&self) -> u64 {
        self.hedged.load(Relaxed)
    }

    /// How often a listener stopped accepting: as many connections as may be, or the kernel had nothing to give.
    pub fn accept_pauses(&self) -> u64 {
        self.pauses.load(Relaxed)
    }

    /// Whether a listener waits now for that reason.
    pub fn accept_paused(&self) -> bool {
        self.paused.load(Relaxed) > 0
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

    pub(super) fn count_bytes(&self, way: Way, count: usize) {
        self.bytes[way as usize].fetch_add(count as u64, Relaxed);
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
}
