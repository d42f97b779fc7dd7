//! A run of failures of one backend, and what other backends say meanwhile: is it the backend, or is it this node?

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::FailReason;

/// Probes in a burst are 50 ms apart; this many starts outlast any decision.
const KEPT: usize = 64;
/// If no other backend answered for so long after the first failure, this node itself was cut off. Other backends
/// are asked at once, and a round trip has a floor of 300 ms: this is beyond it.
const OUTAGE: Duration = Duration::from_millis(750);
/// After such an outage neighbours are found one by one; the kernel asks 3 times, 1 s apart (mcast_solicit,
/// retrans_time_ms in Documentation/networking/ip-sysctl.rst). No flow is ended on evidence from that time.
const SETTLING: Duration = Duration::from_secs(4);

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
    witness: Option<Instant>,
}

impl Run {
    pub fn new(since: Instant) -> Self {
        Self { since, reason: None, failures: 0, starts: VecDeque::new(), witness: None }
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

    /// Another backend answered a probe that began at `started`. The earliest counts.
    pub fn witnessed(&mut self, started: Instant) {
        if started >= self.since && self.witness.is_none_or(|earliest| started < earliest) {
            self.witness = Some(started);
        }
    }

    /// Whether another backend answered since the run began.
    pub fn has_witness(&self) -> bool {
        self.witness.is_some()
    }

    /// Whether `fall` probes failed that began after another backend was seen to answer.
    pub fn is_proven(&self, fall: u32) -> bool {
        self.witness.is_some_and(|witness| self.failed_from(witness) >= fall)
    }

    /// Whether that holds beyond the time in which a node finds its neighbours again.
    pub fn is_certain(&self, fall: u32) -> bool {
        self.witness.is_some_and(|witness| {
            let cut_off = witness.duration_since(self.since) > OUTAGE;
            self.failed_from(if cut_off { witness + SETTLING } else { witness }) >= fall
        })
    }

    fn failed_from(&self, from: Instant) -> u32 {
        u32::try_from(self.starts.iter().filter(|start| **start >= from).count()).unwrap_or(u32::MAX)
    }
}
