//! All backends together: which are tracked, which bear witness for which, what follows for each. Pure: time and chance are
//! arguments.
//!
//! Two decisions with two prices. Taking a backend out of the rotation follows from weak evidence
//! (`FailureRun`), ending established connections from strong evidence
//! (`Silence`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::evidence::{ChallengeOutcome, EvidenceLevel, FailureRun};
use super::tracker::{Evaluation, Tracker};
use crate::model::health::{
    BackendHealth, FailReason, HealthOptions, HealthState, ProbeOutcome, ProbeResult, Trigger,
};
use crate::model::types::{Backend, Family};

pub use super::tracker::{HOLD_DOWN_MAX, TIMEOUT_MAX, TIMEOUT_MIN};

/// How a backend is to be probed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The kept-open connection with its pings is enough, and `/readyz` now and then. Without one: a fresh probe at
    /// each interval.
    Steady,
    /// `/readyz` at each interval, over the kept-open connection or, where that is silent, a fresh one: the backend
    /// is out of the path, or waits for its hold-down to end.
    Watchful,
    /// A fresh probe every 50 ms: a decision is near.
    Burst,
    /// A fresh probe every 10 ms: a decision is near, and the last one was refused or reset, which costs the backend's host a
    /// packet.
    Rush,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive {
    /// How often.
    pub pace: Pace,
    /// After how long an answer is overdue: of TCP and TLS together, or of a ping.
    pub limit: Duration,
    /// A probe must have been started at or after this time; if none was, one is due now.
    pub not_before: Option<Instant>,
    /// That must be a fresh one.
    pub fresh_connection: bool,
    /// A ping, or a probe, must have been started at or after this time.
    pub ping_not_before: Option<Instant>,
    /// The backend is silent: packets from it on clients' connections are to be observed.
    pub watch_flows: bool,
}

/// Longer than terminating the flows of one backend takes, or giving up.
const FLOW_TERMINATION: Duration = Duration::from_secs(30);
/// The evaluation interval while a backend is silent.
const TICK: Duration = Duration::from_millis(250);
/// More than this between two evaluations while a backend is silent means that the process did not run: a suspended
/// or migrated node.
const SUSPENDED: Duration = Duration::from_secs(1);
/// While a backend is silent, others are probed and clients' connections to it are challenged at this interval.
const CHALLENGE_INTERVAL: Duration = Duration::from_secs(1);
/// A removed backend that still has flows is kept for so much longer.
const REMOVAL_RECHECK: Duration = Duration::from_secs(10);

/// The health of all backends.
#[derive(Debug)]
pub struct Detector {
    options: HealthOptions,
    backends: BTreeMap<Backend, Tracker>,
    seed: u64,
    random: Random,
    /// The latest evaluation, while a backend was silent.
    evaluated: Option<Instant>,
}

/// A stream of numbers from 0 up to, not including, 1, by its seed: SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 32 bits are more than enough, and exact.
        f64::from(u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or_default()) / (f64::from(u32::MAX) + 1.0)
    }
}

impl Detector {
    /// Nothing is tracked yet. `seed` decides how long this node waits where nodes must not act in step, and which
    /// witness it probes first.
    pub fn new(options: HealthOptions, seed: u64) -> Self {
        Self { options, backends: BTreeMap::new(), seed, random: Random(seed), evaluated: None }
    }

    /// Takes over which backends the control plane publishes. A family of which it publishes none keeps those that
    /// it had: there are no better ones.
    pub fn publish(&mut self, published: &BTreeSet<Backend>, now: Instant) {
        let has = |family| published.iter().any(|b| Family::of(b.ip()) == family);
        let (v4, v6) = (has(Family::V4), has(Family::V6));
        for (backend, tracker) in &mut self.backends {
            let replaced = if backend.is_ipv4() { v4 } else { v6 };
            if replaced && tracker.removed.is_none() && !published.contains(backend) {
                tracker.removed = Some(now);
                if !tracker.state.is_out() {
                    tracker.enter(HealthState::Draining, now);
                }
            }
        }
        for backend in published {
            let tracker = self.backends.entry(*backend).or_insert_with(|| Tracker::new(now));
            if tracker.removed.take().is_some() && tracker.state == HealthState::Draining {
                tracker.enter(
                    if tracker.is_ready(now) { HealthState::Healthy } else { HealthState::Unknown },
                    now,
                );
            }
        }
    }

    /// There is a sign of failure: the connection ended, or a ping was not answered.
    pub fn suspect(&mut self, backend: Backend, now: Instant, trigger: Trigger) {
        if let Some(tracker) = self.backends.get_mut(&backend) {
            tracker.suspect(now, trigger);
        }
    }

    /// A request of that time, over the kept-open connection, is overdue.
    pub fn request_overdue(&mut self, backend: Backend, asked: Instant, now: Instant, trigger: Trigger) {
        let chance = self.random.draw();
        if let Some(tracker) = self.backends.get_mut(&backend) {
            tracker.suspect(now, trigger);
            tracker.overdue(asked, chance);
        }
        self.evaluate(now);
    }

    /// A connection attempt of that time is overdue, or was aborted for a new one. `connected`: TCP was established.
    pub fn connect_overdue(&mut self, backend: Backend, began: Instant, connected: bool, now: Instant) {
        let chance = self.random.draw();
        if let Some(tracker) = self.backends.get_mut(&backend) {
            tracker.overdue(began, chance).unanswered(began, connected);
            tracker.connect_failed(began, now);
        }
        self.evaluate(now);
    }

    /// A fresh connection completed TCP and TLS, and the certificate was verified.
    pub fn handshake_completed(&mut self, backend: Backend, now: Instant, local: bool) {
        let spread = self.spread();
        if let Some(tracker) = self.backends.get_mut(&backend) {
            tracker.local = local;
            tracker.heard(now, spread);
        }
        for silence in self.same_path(backend).filter_map(|tracker| tracker.silence.as_mut()) {
            silence.witness_answered(now);
            silence.witness_completed_handshake(now);
        }
        self.evaluate(now);
    }

    /// The host of a backend responded: it acknowledged TCP keepalive again, or reset a connection.
    pub fn host_responded(&mut self, backend: Backend, now: Instant) {
        if let Some(tracker) = self.backends.get_mut(&backend) {
            // Nodes send keepalive to its host at different times anyway.
            tracker.heard(now, Duration::ZERO);
        }
        self.evaluate(now);
    }

    /// Takes in a finished probe.
    pub fn observe(&mut self, backend: Backend, probe: ProbeResult) {
        let (spread, chance) = (self.spread(), self.random.draw());
        let options = self.options;
        let Some(tracker) = self.backends.get_mut(&backend) else { return };
        if let ProbeOutcome::Failed(FailReason::Timeout | FailReason::Unreachable) = probe.outcome {
            tracker.overdue(probe.started, chance).unanswered(probe.started, false);
        }
        tracker.observe(probe, &options, spread);
        if let Some(level) = EvidenceLevel::of(&probe) {
            for (_, tracker) in self.backends.iter_mut().filter(|(other, _)| **other != backend) {
                if let Some(run) = &mut tracker.failures {
                    run.witnessed(&probe, level);
                }
            }
            for silence in self.same_path(backend).filter_map(|tracker| tracker.silence.as_mut()) {
                silence.witness_answered(probe.finished);
            }
        }
        self.evaluate(probe.finished);
    }

    /// All that arrives from a backend is seen from then on; `None`: not any more, or it cannot be.
    pub fn watching_since(&mut self, backend: Backend, since: Option<Instant>) {
        if let Some(silence) = self.backends.get_mut(&backend).and_then(|tracker| tracker.silence.as_mut()) {
            silence.watching(since);
        }
    }

    /// A segment arrived from a silent backend on some connection; `data`: with data of its process.
    pub fn segment_received(&mut self, backend: Backend, now: Instant, data: bool) {
        let Some(tracker) = self.backends.get_mut(&backend) else { return };
        if let Some(silence) = &mut tracker.silence {
            silence.heard(now, data);
            // Whatever arrives, it is no longer proven dead.
            if tracker.state == HealthState::Failed && (data || !silence.host_answers_syn()) {
                tracker.enter(HealthState::Suspect, now);
            }
        }
        self.evaluate(now);
    }

    /// Clients' connections to a backend are being challenged.
    pub fn challenge_started(&mut self, backend: Backend, now: Instant) {
        if let Some(silence) = self.backends.get_mut(&backend).and_then(|tracker| tracker.silence.as_mut()) {
            silence.challenge_started(now);
        }
    }

    /// Clients' connections to a silent backend were challenged.
    pub fn challenge_finished(&mut self, backend: Backend, now: Instant, found: ChallengeOutcome) {
        let Some(tracker) = self.backends.get_mut(&backend) else { return };
        if let Some(silence) = &mut tracker.silence {
            silence.challenge_finished(now, found);
        }
        tracker.keep_until = (found == ChallengeOutcome::Sent).then_some(now + REMOVAL_RECHECK);
        if found != ChallengeOutcome::Sent && self.is_removal_due(backend, now) {
            self.backends.remove(&backend);
        }
        self.evaluate(now);
    }

    /// Backends whose clients' connections are to be challenged now: those that are silent and complete no TCP
    /// handshake, and removed ones whose time is over.
    pub fn challenges_due(&self, now: Instant) -> Vec<Backend> {
        let is_due = |tracker: &Tracker| match &tracker.silence {
            Some(silence) => {
                let rested = silence
                    .last_challenge()
                    .is_none_or(|at| now.saturating_duration_since(at) >= CHALLENGE_INTERVAL);
                rested
                    && !silence.host_answers_syn()
                    && now.saturating_duration_since(silence.since) >= CHALLENGE_INTERVAL
            }
            None => false,
        };
        self.backends.iter().filter(|(_, tracker)| is_due(tracker)).map(|(backend, _)| *backend).collect()
    }

    /// Removed backends whose grace period is over unless they still have flows: their clients' connections are to be
    /// challenged, too.
    pub fn removals_due(&mut self, now: Instant) -> Vec<Backend> {
        let all: Vec<Backend> = self.backends.keys().copied().collect();
        let leaving: Vec<Backend> =
            all.into_iter().filter(|backend| self.is_removal_due(*backend, now)).collect();
        let mut asked = leaving;
        asked.retain(|backend| {
            let tracker = self.backends.get_mut(backend);
            let due = |tracker: &&mut Tracker| tracker.keep_until.is_none_or(|at| now >= at);
            tracker.filter(due).map(|tracker| tracker.keep_until = Some(now + REMOVAL_RECHECK)).is_some()
        });
        asked
    }

    fn is_removal_due(&self, backend: Backend, now: Instant) -> bool {
        let removed = self.backends.get(&backend).and_then(|tracker| tracker.removed);
        removed.is_some_and(|removed| now >= removed + self.grace())
    }

    /// Evaluates what follows from the passing of time. The caller has read all sockets before.
    pub fn evaluate(&mut self, now: Instant) {
        let suspended = self.evaluated.is_some_and(|last| now.saturating_duration_since(last) > SUSPENDED);
        let presumed_alive = self.backends.values().filter(|tracker| tracker.is_presumed_alive()).count();
        let options = &self.options;
        for tracker in self.backends.values_mut() {
            if let Some(silence) = tracker.silence.as_mut().filter(|_| suspended) {
                tracing::debug!(
                    event = %"process_suspended", since = ?silence.since,
                    "Process was suspended, silence of API server begins again"
                );
                silence.restart(now);
                // Nor is it known whether the proof still holds.
                if tracker.state == HealthState::Failed {
                    tracker.enter(HealthState::Suspect, now);
                }
            }
            let others = presumed_alive > usize::from(tracker.is_presumed_alive());
            tracker.evaluate(&Evaluation { now, options, other_alive: others });
        }
        let silent = self.backends.values().any(|tracker| tracker.silence.is_some());
        self.evaluated = silent.then_some(now);
    }

    /// When [`Self::evaluate`], [`Self::challenges_due`], [`Self::removals_due`] or [`Self::backends`] will say
    /// something new without a probe.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let removals = self.backends.values().filter_map(|t| {
            let removed = t.removed? + self.grace();
            Some(t.keep_until.map_or(removed, |at| at.max(removed)))
        });
        let drains = self.backends.iter().filter(|(_, t)| t.state == HealthState::Draining);
        let cuts = drains.filter_map(|(backend, t)| self.drain_deadline(*backend, t)).filter(|at| *at > now);
        let asks = self.backends.values().filter_map(|t| t.challenge_due);
        let silent = self.backends.values().any(|t| t.silence.is_some() || t.state == HealthState::Late);
        let tick = silent.then(|| self.evaluated.unwrap_or(now) + TICK);
        let silences = self.backends.values().filter_map(|t| t.silence.as_ref());
        let decisions = silences.filter_map(|silence| silence.next_decision(now, &self.options));
        removals.chain(cuts).chain(asks).chain(decisions).chain(tick).min()
    }

    /// The directive for the prober of `backend`; `None` if it is not tracked.
    pub fn directive(&self, backend: Backend, now: Instant) -> Option<Directive> {
        let tracker = self.backends.get(&backend)?;
        let others = || self.backends.iter().filter(|(other, _)| **other != backend);
        let runs = others().filter(|(_, t)| !t.state.is_out()).filter_map(|(_, t)| t.failures.as_ref());
        let lacking = |run| Some((FailureRun::lacks(run, self.options.fall)?, run.needs()));
        let lacking: Vec<(Instant, EvidenceLevel)> = runs.filter_map(lacking).collect();
        let withdrawn = tracker.removed_and_unprobed();
        let mut not_before = lacking.iter().map(|(from, _)| *from).chain(withdrawn).max();
        let mut fresh_connection =
            lacking.iter().any(|(_, level)| *level == EvidenceLevel::CompletesHandshake);
        let mut ping_not_before = None;
        if let Some(witness) =
            tracker.silence.as_ref().and_then(|silence| silence.wants_connect_after(now, &self.options))
        {
            not_before = not_before.max(Some(witness));
            fresh_connection = true;
        }
        for (other, silent) in others() {
            let Some(silence) =
                silent.silence.as_ref().filter(|_| is_on_same_path(*other, backend, tracker.local))
            else {
                continue;
            };
            ping_not_before =
                ping_not_before.max(now.checked_sub(CHALLENGE_INTERVAL).map(|at| at.max(silence.since)));
            let waited = now.saturating_duration_since(silence.since) >= CHALLENGE_INTERVAL * 2;
            if silence.lacks_handshake() && (waited || self.is_chosen_witness(backend, *other)) {
                not_before = not_before.max(Some(silence.since));
                fresh_connection = true;
            }
        }
        Some(Directive {
            pace: match tracker.state {
                _ if tracker.is_decision_pending(&self.options) && tracker.is_refusing() => Pace::Rush,
                _ if tracker.is_decision_pending(&self.options) => Pace::Burst,
                HealthState::Suspect | HealthState::Failed | HealthState::Late => Pace::Watchful,
                _ if tracker.failures.is_some() || tracker.is_held_down() => Pace::Watchful,
                _ => Pace::Steady,
            },
            limit: tracker.limit(&self.options),
            not_before,
            fresh_connection,
            ping_not_before,
            watch_flows: tracker.silence.is_some(),
        })
    }

    /// One witness is enough: thousands of nodes must not all open connections to every other API server because one is silent.
    fn is_chosen_witness(&self, witness: Backend, silent: Backend) -> bool {
        let able = self.backends.iter().filter(|(other, t)| {
            **other != silent && t.is_presumed_alive() && is_on_same_path(silent, **other, t.local)
        });
        let able: Vec<Backend> = able.map(|(backend, _)| *backend).collect();
        let seed = usize::try_from(self.seed >> 33).unwrap_or_default();
        seed.checked_rem(able.len()).and_then(|at| able.get(at)) == Some(&witness)
    }

    /// Every tracked backend.
    pub fn backends(&self, now: Instant) -> BTreeMap<Backend, BackendHealth> {
        self.backends.iter().map(|(b, t)| (*b, t.health(now, self.ends_flows(*b, t, now)))).collect()
    }

    fn ends_flows(&self, backend: Backend, tracker: &Tracker, now: Instant) -> bool {
        match tracker.state {
            HealthState::Failed => true,
            HealthState::Draining => self.drain_deadline(backend, tracker).is_some_and(|at| now >= at),
            HealthState::Unknown | HealthState::Healthy | HealthState::Late | HealthState::Suspect => false,
        }
    }

    /// When the flows of a backend that drains are to be ended: it drained for so long, beside another one that is
    /// healthy and answers. Time counts from when there was one, and what was said of it before counts for nothing:
    /// if all drained, it may be ready, too, and was only not probed yet.
    fn drain_deadline(&self, backend: Backend, tracker: &Tracker) -> Option<Instant> {
        let family = Family::of(backend.ip());
        let others =
            self.backends.iter().filter(|(other, _)| **other != backend && Family::of(other.ip()) == family);
        let up = others.filter(|(_, other)| other.state == HealthState::Healthy && other.failures.is_none());
        let from = tracker.since.max(up.map(|(_, other)| other.since).min()?);
        tracker.drains_since(from).then_some(from + self.options.drain_timeout?)
    }

    /// Flows that are to be ended after so long of draining need their backend for as long, and for the ending.
    fn grace(&self) -> Duration {
        let ended = self.options.drain_timeout.map(|timeout| timeout + FLOW_TERMINATION);
        self.options.removal_grace.max(ended.unwrap_or_default())
    }

    fn spread(&mut self) -> Duration {
        self.options.reset_jitter.mul_f64(self.random.draw())
    }

    /// Backends for whose network path `backend` is a witness.
    fn same_path(&mut self, backend: Backend) -> impl Iterator<Item = &mut Tracker> {
        let local = self.backends.get(&backend).is_some_and(|tracker| tracker.local);
        let others = self
            .backends
            .iter_mut()
            .filter(move |(other, _)| **other != backend && is_on_same_path(**other, backend, local));
        others.map(|(_, tracker)| tracker)
    }
}

/// Whether an answer of `witness`, which may run on this node, says something about the network path to another
/// backend: it is reached by the same family, over the network.
fn is_on_same_path(silent: Backend, witness: Backend, witness_is_local: bool) -> bool {
    !witness_is_local && Family::of(silent.ip()) == Family::of(witness.ip())
}

#[cfg(test)]
mod tests;
