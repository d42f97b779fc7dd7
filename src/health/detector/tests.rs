//! The state machine on a synthetic clock: what is common here, single stories by what they are about below, random ones in
//! `histories`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::*;
use crate::model::health::TerminationBlocker;

mod draining;
mod evidence;
mod histories;
mod recovery;
mod rotation;

const A: u8 = 11;
const B: u8 = 12;
const C: u8 = 13;

fn backend(last: u8) -> Backend {
    Backend::from(([192, 0, 2, last], 6443))
}

/// No spread, so that times are what they are.
fn options() -> HealthOptions {
    HealthOptions {
        fall: 2,
        rise: 2,
        removal_grace: Duration::from_secs(180),
        drain_timeout: None,
        silence_timeout: Duration::from_secs(5),
        reset_jitter: Duration::ZERO,
    }
}

/// A detector and its clock, in milliseconds.
struct Story {
    detector: Detector,
    begin: Instant,
}

impl Story {
    fn new(options: HealthOptions, backends: &[u8]) -> Self {
        // Far from the beginning of the clock, whatever is subtracted.
        let begin = Instant::now() + Duration::from_secs(3600);
        let mut story = Self { detector: Detector::new(options, 1), begin };
        story.publish(0, backends);
        story
    }

    /// These answered once.
    fn healthy(options: HealthOptions, backends: &[u8]) -> Self {
        let mut story = Self::new(options, backends);
        for last in backends {
            assert_eq!((story.state(*last), story.pace(*last, 0)), (HealthState::Unknown, Pace::Burst));
            story.shakes(*last, 0, false);
            assert_eq!((story.state(*last), story.pace(*last, 1)), (HealthState::Healthy, Pace::Steady));
        }
        story
    }

    fn at(&self, ms: u64) -> Instant {
        self.begin + Duration::from_millis(ms)
    }

    fn publish(&mut self, ms: u64, backends: &[u8]) {
        let published: BTreeSet<Backend> = backends.iter().map(|last| backend(*last)).collect();
        self.detector.publish(&published, self.at(ms));
    }

    fn probe(&mut self, last: u8, started: u64, finished: u64, outcome: ProbeOutcome) {
        let probe = bare(self.at(started), self.at(finished), outcome);
        self.detector.observe(backend(last), probe);
    }

    /// A fresh probe that is answered as ready within a millisecond.
    fn shakes(&mut self, last: u8, ms: u64, local: bool) {
        self.detector.handshake_completed(backend(last), self.at(ms), local);
        let probe = bare(self.at(ms), self.at(ms + 1), ProbeOutcome::Ready);
        let (handshake, local) = (Some(Duration::from_millis(1)), Some(local));
        self.detector.observe(backend(last), ProbeResult { handshake, local, ..probe });
    }

    fn refuse(&mut self, last: u8, ms: u64) {
        self.probe(last, ms, ms + 1, ProbeOutcome::Failed(FailReason::Refused));
    }

    fn pong(&mut self, last: u8, ms: u64) {
        self.probe(last, ms, ms + 1, ProbeOutcome::Alive);
    }

    fn overdue(&mut self, last: u8, asked: u64, now: u64) {
        self.detector.request_overdue(backend(last), self.at(asked), self.at(now), Trigger::PingTimeout);
    }

    fn connect_overdue(&mut self, last: u8, began: u64, connected: bool, now: u64) {
        self.detector.connect_overdue(backend(last), self.at(began), connected, self.at(now));
    }

    /// Time passes, as the scheduler lets it: it looks whenever the detector wants it to.
    fn pass(&mut self, from: u64, to: u64) {
        let mut now = self.at(from);
        while let Some(at) = self.detector.next_deadline(now).filter(|at| *at <= self.at(to)) {
            now = now.max(at);
            self.detector.evaluate(now);
        }
        self.detector.evaluate(self.at(to));
    }

    fn health(&self, last: u8, ms: u64) -> BackendHealth {
        self.detector.backends(self.at(ms))[&backend(last)]
    }

    fn state(&self, last: u8) -> HealthState {
        self.health(last, 0).state
    }

    fn directive(&self, last: u8, ms: u64) -> Directive {
        self.detector.directive(backend(last), self.at(ms)).unwrap()
    }

    fn pace(&self, last: u8, ms: u64) -> Pace {
        self.directive(last, ms).pace
    }
}

fn bare(started: Instant, finished: Instant, outcome: ProbeOutcome) -> ProbeResult {
    let (round_trip, handshake, local, answered) = Default::default();
    ProbeResult { started, finished, outcome, round_trip, handshake, local, readyz: answered }
}

fn both() -> Story {
    Story::healthy(options(), &[A, B])
}
