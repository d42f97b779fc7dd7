//! What happens when: at the same time what is received comes before what is overdue, and both in the order in which they were
//! added.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use apivip::model::health::FailReason;

use super::world::{Peer, Time};

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Received by the prober of a node for an apiserver.
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
    /// The keepalive of a kept connection is looked at.
    Look {
        node: usize,
        server: usize,
        kept: u64,
        crashes: u32,
    },
    /// The detector wants to be asked.
    Deadline {
        node: usize,
        number: u64,
    },
    /// Flows are ended, or asked.
    End {
        node: usize,
        server: usize,
        round: u32,
    },
    Ask {
        node: usize,
        server: usize,
        round: u32,
    },
    /// A client hears of its connection's end by a kernel.
    Told {
        flow: usize,
        number: u64,
    },
    Connect {
        flow: usize,
    },
    /// Data are due on a flow, while it is watched.
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
    /// Whoever is not told by now is not told.
    Check {
        server: usize,
        life: Option<usize>,
        died: Time,
    },
    /// One that stood still since then goes on.
    GoesOn {
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
    Shaken {
        began: Time,
        connected: Time,
        peer: Peer,
    },
    Failed {
        began: Time,
        reason: FailReason,
    },
    /// A fresh probe's `/readyz` was answered, or not for so long that it is late.
    Landed {
        began: Time,
        handshake: Time,
        ready: Option<bool>,
        peer: Peer,
    },
    LandedNot {
        began: Time,
        reason: FailReason,
    },
    FreshOverdue {
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
