//! A run of failures of one backend, and what other backends say meanwhile: is it the backend, or is it this node? Pure.
//!
//! It decides about the path only. What it takes to end established connections is in `silence`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::model::health::{FailReason, Outcome, Probe};

/// Probes in a burst are 50 ms apart, or 10 ms and decided at once; this many starts outlast any decision.
const KEPT: usize = 64;
/// If no other backend answered for so long after the first failure, this node itself was cut off. Other backends
/// are asked at once, and a round trip has a floor of 300 ms: this is beyond it.
const OUTAGE: Duration = Duration::from_millis(750);
/// An answer that took less was not sent again by any kernel (TCP_RTO_MIN): the way there was open when it was asked.
/// A later one may have been asked while all was lost, and crossed the end of that by a retransmission.
const AT_ONCE: Duration = Duration::from_millis(200);

/// What another backend was seen to do. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    /// It answered a ping: the way there works, and its process runs.
    Lives,
    /// It answered `/readyz`.
    Answers,
    /// It did so on a fresh connection, with a certificate that was looked at now.
    ShakesHands,
}

impl Deed {
    /// What a probe saw; `None` if it failed.
    pub fn of(probe: &Probe) -> Option<Self> {
        match probe.outcome {
            Outcome::Alive => Some(Self::Lives),
            Outcome::Ready | Outcome::Unready if probe.handshake.is_some() => Some(Self::ShakesHands),
            Outcome::Ready | Outcome::Unready => Some(Self::Answers),
            Outcome::Failed(_) => None,
        }
    }

    /// What another one must do to speak against a backend that fails like this: what this one cannot. A PONG is
    /// enough against one that no handshake and no ping gets through to, and against no other. A connection that was
    /// open before says nothing of certificates: with a wrong clock, or after a change of the CA, all go on there.
    fn missed_by(reason: Option<FailReason>) -> Self {
        use FailReason as Why;
        match reason {
            None | Some(Why::Refused | Why::Timeout | Why::Unreachable) => Self::Lives,
            Some(Why::Reset | Why::Protocol) => Self::Answers,
            Some(Why::Tls | Why::BadCertificate) => Self::ShakesHands,
        }
    }
}

/// Failures in a row.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// When the first failure, or the first sign of one, was noticed.
    pub since: Instant,
    /// Why the latest probe failed; `None` while there is only a sign.
    pub reason: Option<FailReason>,
    /// Failed probes, without bound.
    pub failures: u32,
    starts: VecDeque<Instant>,
    /// Since when another backend was first seen to do this, or more, by [`Deed`].
    first: [Option<Instant>; 3],
    /// When the last probe began that saw so.
    last: [Option<Instant>; 3],
    proven: bool,
}

impl Run {
    pub fn new(since: Instant) -> Self {
        let (first, last) = Default::default();
        Self { since, reason: None, failures: 0, starts: VecDeque::new(), first, last, proven: false }
    }

    /// A probe that began at `started` failed, or is overdue, or both, one after the other.
    pub fn failed(&mut self, started: Instant, reason: FailReason) {
        self.reason = Some(reason);
        if self.starts.contains(&started) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.starts.len() == KEPT {
            self.starts.pop_front();
        }
        self.starts.push_back(started);
    }

    /// A probe saw another backend do this.
    pub fn witnessed(&mut self, probe: &Probe, deed: Deed) {
        if probe.started >= self.since {
            let took = probe.finished.saturating_duration_since(probe.started);
            let from = if took < AT_ONCE { probe.started } else { probe.finished };
            for first in &mut self.first[..=deed as usize] {
                *first = Some(first.map_or(from, |first| first.min(from)));
            }
            for last in &mut self.last[..=deed as usize] {
                *last = (*last).max(Some(probe.started));
            }
        }
    }

    /// What a witness must do.
    pub fn needs(&self) -> Deed {
        Deed::missed_by(self.reason)
    }

    fn witness(&self) -> Option<Instant> {
        self.first[self.needs() as usize]
    }

    /// When the probe began that completed `fall` failures under the eyes of a witness.
    fn complete(&self, fall: u32) -> Option<Instant> {
        let witness = self.witness()?;
        let mut starts: Vec<Instant> =
            self.starts.iter().copied().filter(|start| *start >= witness).collect();
        starts.sort_unstable();
        starts.get(usize::try_from(fall).ok()?.checked_sub(1)?).copied()
    }

    /// From when on a probe of another backend must begin to bear witness, if one must. There must be one before the
    /// failures and one after: whoever answered a moment earlier may have died of the same.
    pub fn lacks(&self, fall: u32) -> Option<Instant> {
        if self.proven {
            return None;
        }
        if self.witness().is_none() {
            return Some(self.since);
        }
        self.complete(fall).filter(|complete| self.last[self.needs() as usize] < Some(*complete))
    }

    /// Whether `fall` probes failed between two witnesses; once is enough.
    pub fn is_proven(&mut self, fall: u32) -> bool {
        self.proven |= self.complete(fall).is_some() && self.lacks(fall).is_none();
        self.proven
    }

    /// Whether a witness answered so soon that this node was not cut off: whoever comes back a moment later than another one after
    /// an outage of this node did not flap.
    pub fn is_its_own(&self) -> bool {
        self.witness().is_some_and(|witness| witness.duration_since(self.since) <= OUTAGE)
    }

    /// Whether it fails by silence, and not by an answer that is none.
    pub fn is_silent(&self) -> bool {
        matches!(self.reason, None | Some(FailReason::Timeout | FailReason::Unreachable))
    }
}
