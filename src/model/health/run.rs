//! A run of failures of one backend, and what other backends say meanwhile: is it the backend, or is it this node?

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{FailReason, Outcome, Probe};

/// Probes in a burst are 50 ms apart; this many starts outlast any decision.
const KEPT: usize = 64;
/// If no other backend answered for so long after the first failure, this node itself was cut off. Other backends
/// are asked at once, and a round trip has a floor of 300 ms: this is beyond it.
const OUTAGE: Duration = Duration::from_millis(750);
/// After such an outage neighbours are found one by one; the kernel asks 3 times, 1 s apart (mcast_solicit,
/// retrans_time_ms in Documentation/networking/ip-sysctl.rst). No flow is ended on evidence from that time.
const SETTLING: Duration = Duration::from_secs(4);

/// An answer that took less was not sent again by any kernel (TCP_RTO_MIN): the way there was open when it was asked.
/// A later one may have been asked while all was lost, and crossed the end of that by a retransmission.
const AT_ONCE: Duration = Duration::from_millis(200);

/// What another backend was seen to do. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    /// It answered a PING: the way there works, and its process runs.
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
    /// enough against one that no handshake and no PING gets through to, and against no other. A connection that was
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
    seen: [Option<Instant>; 3],
}

impl Run {
    pub fn new(since: Instant) -> Self {
        Self { since, reason: None, failures: 0, starts: VecDeque::new(), seen: [None; 3] }
    }

    /// A probe that began at `started` failed.
    pub fn failed(&mut self, started: Instant, reason: FailReason) {
        self.reason = Some(reason);
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
            for seen in &mut self.seen[..=deed as usize] {
                *seen = Some(seen.map_or(from, |earliest| earliest.min(from)));
            }
        }
    }

    /// What a witness must do.
    pub fn needs(&self) -> Deed {
        Deed::missed_by(self.reason)
    }

    fn witness(&self) -> Option<Instant> {
        self.seen[self.needs() as usize]
    }

    /// Whether another backend was seen to do what this one does not, since the run began.
    pub fn has_witness(&self) -> bool {
        self.witness().is_some()
    }

    /// Whether `fall` probes failed that began after the witness's.
    pub fn is_proven(&self, fall: u32) -> bool {
        self.witness().is_some_and(|witness| self.failed_from(witness) >= fall)
    }

    /// Whether that holds beyond the time in which a node finds its neighbours again.
    pub fn is_certain(&self, fall: u32) -> bool {
        self.witness().is_some_and(|witness| {
            let cut_off = witness.duration_since(self.since) > OUTAGE;
            self.failed_from(if cut_off { witness + SETTLING } else { witness }) >= fall
        })
    }

    fn failed_from(&self, from: Instant) -> u32 {
        u32::try_from(self.starts.iter().filter(|start| **start >= from).count()).unwrap_or(u32::MAX)
    }
}
