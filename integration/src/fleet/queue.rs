//! What happens when: at the same time what is received comes before what is overdue, and both in the order in which they were
//! added.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use apivip::model::health::FailReason;

use super::world::{Peer, Time};

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Received by the prober of a node for an API server.
    Received {
        node: usize,
        server: usize,
        crashes: u32,
        what: Received,
    },
    /// A prober has something due.
    Wake {
        node: usize,
        server: usize,
        number: u64,
        crashes: u32,
    },
    /// The keepalive of a kept connection is checked.
    Keepalive {
        node: usize,
        server: usize,
        kept: u64,
        crashes: u32,
    },
    /// A deadline of the detector.
    Deadline {
        node: usize,
        number: u64,
    },
    /// Flows are ended, or get challenge SYNs.
    End {
        node: usize,
        server: usize,
        round: u32,
    },
    Challenge {
        node: usize,
        server: usize,
        round: u32,
    },
    /// A kernel ends a connection at its client.
    Closed {
        flow: usize,
        number: u64,
    },
    Connect {
        flow: usize,
    },
    /// Data are due on a flow, while the daemon observes it.
    Data {
        flow: usize,
        number: u64,
        watch: u64,
    },
    Publish {
        node: usize,
    },
    Crash {
        node: usize,
    },
    /// A client that is not notified by now counts as not notified.
    Check {
        server: usize,
        life: Option<usize>,
        failed_at: Time,
    },
    /// An API server that was stopped since then continues.
    Resumed {
        server: usize,
        since: Time,
    },
}

/// What a prober receives.
#[derive(Clone, Copy, Debug)]
pub enum Received {
    Connected {
        began: Time,
    },
    Handshake {
        began: Time,
        connected: Time,
        peer: Peer,
    },
    Failed {
        began: Time,
        reason: FailReason,
    },
    /// `/readyz` of a new connection was answered.
    Readyz {
        began: Time,
        handshake: Time,
        ready: Option<bool>,
        peer: Peer,
    },
    ReadyzFailed {
        began: Time,
        reason: FailReason,
    },
    ReadyzOverdue {
        began: Time,
    },
    Pong {
        kept: u64,
        sent: Time,
    },
    Answer {
        kept: u64,
        asked: Time,
        ready: bool,
    },
    Ended {
        kept: u64,
        reset: bool,
    },
    Arrived {
        data: bool,
    },
}

struct Entry {
    at: Time,
    late: bool,
    number: u64,
    event: Event,
}

impl Entry {
    fn key(&self) -> (Time, bool, u64) {
        (self.at, self.late, self.number)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// See the module.
#[derive(Default)]
pub struct Queue {
    entries: BinaryHeap<Reverse<Entry>>,
    number: u64,
}

impl Queue {
    pub fn push(&mut self, at: Time, event: Event) {
        let late = !matches!(event, Event::Received { .. });
        self.number += 1;
        self.entries.push(Reverse(Entry { at, late, number: self.number, event }));
    }

    pub fn pop(&mut self) -> Option<(Time, Event)> {
        self.entries.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}
