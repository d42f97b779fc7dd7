//! A run of failures of one backend, and what other backends say meanwhile: is it the backend, or is it this node?

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{FailReason, Outcome, Probe};

/// Probes in a burst are 50 ms apart, or 10 ms and decided at once; this many starts outlast any decision.
const KEPT: usize = 64;
/// If no other backend answered for so long after the first failure, this node itself was cut off. Other backends
/// are asked at once, and a round trip has a floor of 300 ms: this is beyond it.
const OUTAGE: Duration = Duration::from_millis(750);
/// After such an outage neighbours are found one by one; the kernel asks 3 times, 1 s apart (mcast_solicit,
/// retrans_time_ms in Documentation/networking/ip-sysctl.rst). No flow is ended on evidence from that time.
const SETTLING: Duration = Duration::from_secs(4);

/// Whoever does not answer for so long, while only others do that are no proof of the way there (see [`Eyes`]), is given up.
const GIVEN_UP: Duration = Duration::from_secs(30);

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

/// How much a witness says of the way from this node to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eyes {
    /// It is reached as the failing one is: on another node, by the same address family.
    Near,
    /// It runs on this node itself, or is reached by the other family: its answer is none of the way that failed.
    Elsewhere,
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
    /// The same of those that are [`Eyes::Near`].
    near: [Option<Instant>; 3],
    /// When the last probe began that saw so.
    last: [Option<Instant>; 3],
    /// Until when others are still on their way back after an outage of all, of all whose answers count, and of those that
    /// are [`Eyes::Near`].
    settling: [Option<Instant>; 2],
    proven: bool,
}

impl Run {
    pub fn new(since: Instant) -> Self {
        let (first, near, last, settling) = Default::default();
        let (reason, failures, starts) = (None, 0, VecDeque::new());
        Self { since, reason, failures, starts, first, near, last, settling, proven: false }
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
    pub fn witnessed(&mut self, probe: &Probe, deed: Deed, eyes: Eyes) {
        if probe.started >= self.since {
            let took = probe.finished.saturating_duration_since(probe.started);
            let from = if took < AT_ONCE { probe.started } else { probe.finished };
            let near = if eyes == Eyes::Near { &mut self.near[..=deed as usize] } else { &mut [] };
            for first in self.first[..=deed as usize].iter_mut().chain(near) {
                *first = Some(first.map_or(from, |first| first.min(from)));
            }
            for last in &mut self.last[..=deed as usize] {
                *last = (*last).max(Some(probe.started));
            }
        }
    }

    /// Another backend answers at `now`, where nobody had since these moments: of all others, and of those that are
    /// [`Eyes::Near`]. Whoever went a moment later than this one has borne witness against it before.
    pub fn relit(&mut self, now: Instant, dark: [Option<Instant>; 2]) {
        for (settling, dark) in self.settling.iter_mut().zip(dark) {
            if dark.is_some_and(|dark| now.saturating_duration_since(dark.max(self.since)) > OUTAGE) {
                settling.get_or_insert(now + SETTLING);
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

    /// Whether it is proven that not this node is cut off, nor was a moment ago, when it finds its neighbours one by one, and
    /// apiservers that all were away come back one by one.
    pub fn is_certain(&self, fall: u32) -> bool {
        // Whoever refuses was reached.
        let reached = !matches!(self.reason, None | Some(FailReason::Timeout | FailReason::Unreachable));
        let (witness, settling) = match reached {
            true => (self.witness(), self.settling[0]),
            false => (self.near[self.needs() as usize], self.settling[1]),
        };
        let from = match witness {
            Some(witness) if witness.duration_since(self.since) > OUTAGE => witness + SETTLING,
            Some(witness) => witness,
            None => self.since + GIVEN_UP,
        };
        self.proven && self.failed_from(from.max(settling.unwrap_or(from))) >= fall
    }

    fn failed_from(&self, from: Instant) -> u32 {
        u32::try_from(self.starts.iter().filter(|start| **start >= from).count()).unwrap_or(u32::MAX)
    }
}
