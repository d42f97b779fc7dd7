//! All backends together: who is tracked, who bears witness for whom, what follows for each. Pure: time and chance are arguments.
//!
//! Two decisions with two prices. Leaving the path follows from weak evidence (`failures`), ending established connections from
//! strong evidence (`silence`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Asked;
use super::directive::{Directive, Pace};
use super::failures::{Deed, Run};
use super::tracker::{Look, Tracker};
use crate::model::health::{BackendHealth, Cue, FailReason, HealthOptions, Outcome, Probe, State};
use crate::model::types::{Backend, Family};

pub use super::tracker::{HOLD_MAX, TIMEOUT_MAX, TIMEOUT_MIN};

/// Longer than it takes to end the flows of one backend, or to give up.
const ENDING: Duration = Duration::from_secs(30);
/// While one is silent, time alone decides: so often it is looked at.
const TICK: Duration = Duration::from_millis(250);
/// Between two looks while one is silent, more than this means that the process did not run: a frozen or moved node.
const ASLEEP: Duration = Duration::from_secs(1);
/// While one is silent, others are asked, and clients' connections to it are.
const ROUND: Duration = Duration::from_secs(1);
/// A withdrawn backend that still has flows is kept for so long more.
const FLOWS_AGAIN: Duration = Duration::from_secs(10);

/// The health of all backends.
#[derive(Debug)]
pub struct Detector {
    options: HealthOptions,
    backends: BTreeMap<Backend, Tracker>,
    seed: u64,
    chances: Chances,
    /// When it was looked last, while one was silent.
    looked: Option<Instant>,
}

/// A stream of numbers from 0 up to, not including, 1, by its seed: SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
struct Chances(u64);

impl Chances {
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
    /// Nothing is tracked yet. `seed` decides how long this node waits where nodes must not march in step, and whom it asks first.
    pub fn new(options: HealthOptions, seed: u64) -> Self {
        Self { options, backends: BTreeMap::new(), seed, chances: Chances(seed), looked: None }
    }

    /// Takes over which backends the control plane publishes. A family of which it publishes none keeps those that
    /// it had: nobody knows better ones.
    pub fn publish(&mut self, published: &BTreeSet<Backend>, now: Instant) {
        let has = |family| published.iter().any(|b| Family::of(b.ip()) == family);
        let (v4, v6) = (has(Family::V4), has(Family::V6));
        for (backend, tracker) in &mut self.backends {
            let replaced = if backend.is_ipv4() { v4 } else { v6 };
            if replaced && tracker.removed.is_none() && !published.contains(backend) {
                tracker.removed = Some(now);
                if !tracker.state.is_out() {
                    tracker.enter(State::Draining, now);
                }
            }
        }
        for backend in published {
            let tracker = self.backends.entry(*backend).or_insert_with(|| Tracker::new(now));
            if tracker.removed.take().is_some() && tracker.state == State::Draining {
                tracker.enter(if tracker.is_ready(now) { State::Healthy } else { State::Unknown }, now);
            }
        }
    }

    /// Something speaks against a backend: its connection ended, or a ping was not answered.
    pub fn cue(&mut self, backend: Backend, now: Instant, cue: Cue) {
        if let Some(tracker) = self.backends.get_mut(&backend) {
            tracker.cue(now, cue);
        }
    }

    /// A question of that time, over a connection that is kept, is overdue.
    pub fn overdue(&mut self, backend: Backend, asked: Instant, now: Instant, cue: Cue) {
        let chance = self.chances.draw();
        if let Some(tracker) = self.backends.get_mut(&backend) {
            tracker.cue(now, cue);
            tracker.overdue(asked, chance);
        }
        self.look(now);
    }

    /// A dial of that time is overdue, or was given up for a new one. `connected`: TCP came about.
    pub fn dial_overdue(&mut self, backend: Backend, began: Instant, connected: bool, now: Instant) {
        let chance = self.chances.draw();
        if let Some(tracker) = self.backends.get_mut(&backend) {
            tracker.overdue(began, chance).unanswered(began, connected);
            tracker.dial_failed(began, now);
        }
        self.look(now);
    }

    /// TCP and TLS of a fresh connection came about, and the certificate was verified.
    pub fn shook_hands(&mut self, backend: Backend, now: Instant, local: bool) {
        let spread = self.spread();
        if let Some(tracker) = self.backends.get_mut(&backend) {
            tracker.local = local;
            tracker.heard(now, spread);
        }
        for silence in self.near(backend).filter_map(|tracker| tracker.silence.as_mut()) {
            silence.witness_answered(now);
            silence.witness_shook_hands(now);
        }
        self.look(now);
    }

    /// The host of a backend was heard: it acknowledged the kernel's keepalive again, or reset a connection.
    pub fn host_heard(&mut self, backend: Backend, now: Instant) {
        if let Some(tracker) = self.backends.get_mut(&backend) {
            // Nodes ask its host at different times as it is.
            tracker.heard(now, Duration::ZERO);
        }
        self.look(now);
    }

    /// Takes in a finished probe.
    pub fn observe(&mut self, backend: Backend, probe: Probe) {
        let (spread, chance) = (self.spread(), self.chances.draw());
        let options = self.options;
        let Some(tracker) = self.backends.get_mut(&backend) else { return };
        if let Outcome::Failed(FailReason::Timeout | FailReason::Unreachable) = probe.outcome {
            tracker.overdue(probe.started, chance).unanswered(probe.started, false);
        }
        tracker.observe(probe, &options, spread);
        if let Some(deed) = Deed::of(&probe) {
            for (_, tracker) in self.backends.iter_mut().filter(|(other, _)| **other != backend) {
                if let Some(run) = &mut tracker.run {
                    run.witnessed(&probe, deed);
                }
            }
            for silence in self.near(backend).filter_map(|tracker| tracker.silence.as_mut()) {
                silence.witness_answered(probe.finished);
            }
        }
        self.look(probe.finished);
    }

    /// All that arrives from a backend is seen from then on; `None`: not any more, or it cannot be.
    pub fn watched(&mut self, backend: Backend, since: Option<Instant>) {
        if let Some(silence) = self.backends.get_mut(&backend).and_then(|tracker| tracker.silence.as_mut()) {
            silence.observed(since);
        }
    }

    /// A segment arrived from a silent backend on some connection; `data`: with data of its process.
    pub fn arrived(&mut self, backend: Backend, now: Instant, data: bool) {
        let Some(tracker) = self.backends.get_mut(&backend) else { return };
        if let Some(silence) = &mut tracker.silence {
            silence.heard(now, data);
            // Whatever it is that arrives, its end is not proven any more.
            if tracker.state == State::Failed && (data || !silence.connects()) {
                tracker.enter(State::Suspect, now);
            }
        }
        self.look(now);
    }

    /// Clients' connections to a backend are being asked.
    pub fn asking(&mut self, backend: Backend, now: Instant) {
        if let Some(silence) = self.backends.get_mut(&backend).and_then(|tracker| tracker.silence.as_mut()) {
            silence.asking(now);
        }
    }

    /// Clients' connections to a silent backend were asked.
    pub fn asked(&mut self, backend: Backend, now: Instant, found: Asked) {
        let Some(tracker) = self.backends.get_mut(&backend) else { return };
        if let Some(silence) = &mut tracker.silence {
            silence.asked(now, found);
        }
        tracker.keep_until = (found == Asked::Sent).then_some(now + FLOWS_AGAIN);
        if found != Asked::Sent && self.is_over(backend, now) {
            self.backends.remove(&backend);
        }
        self.look(now);
    }

    /// Whose clients' connections are to be asked now: of those that are silent and complete no handshake of TCP, and of withdrawn
    /// ones whose time is over.
    pub fn to_ask(&self, now: Instant) -> Vec<Backend> {
        let is_due = |tracker: &Tracker| match &tracker.silence {
            Some(silence) => {
                let rested = silence.last_asked().is_none_or(|at| now.saturating_duration_since(at) >= ROUND);
                rested && !silence.connects() && now.saturating_duration_since(silence.since) >= ROUND
            }
            None => false,
        };
        self.backends.iter().filter(|(_, tracker)| is_due(tracker)).map(|(backend, _)| *backend).collect()
    }

    /// Withdrawn backends whose time is over unless they still have flows: their clients' connections are to be asked, too.
    pub fn leaving(&mut self, now: Instant) -> Vec<Backend> {
        let all: Vec<Backend> = self.backends.keys().copied().collect();
        let leaving: Vec<Backend> = all.into_iter().filter(|backend| self.is_over(*backend, now)).collect();
        let mut asked = leaving;
        asked.retain(|backend| {
            let tracker = self.backends.get_mut(backend);
            let due = |tracker: &&mut Tracker| tracker.keep_until.is_none_or(|at| now >= at);
            tracker.filter(due).map(|tracker| tracker.keep_until = Some(now + FLOWS_AGAIN)).is_some()
        });
        asked
    }

    fn is_over(&self, backend: Backend, now: Instant) -> bool {
        let removed = self.backends.get(&backend).and_then(|tracker| tracker.removed);
        removed.is_some_and(|removed| now >= removed + self.grace())
    }

    /// Looks at what time has changed. Whoever calls it has read all sockets before.
    pub fn look(&mut self, now: Instant) {
        let asleep = self.looked.is_some_and(|last| now.saturating_duration_since(last) > ASLEEP);
        let believed = self.backends.values().filter(|tracker| tracker.is_believed()).count();
        let options = &self.options;
        for tracker in self.backends.values_mut() {
            if let Some(silence) = tracker.silence.as_mut().filter(|_| asleep) {
                tracing::debug!(since = ?silence.since, "this process did not run: a silence begins anew");
                silence.restart(now);
                // Nor is it known whether what was proven still holds.
                if tracker.state == State::Failed {
                    tracker.enter(State::Suspect, now);
                }
            }
            let others = believed > usize::from(tracker.is_believed());
            tracker.judge(&Look { now, options, others });
        }
        let silent = self.backends.values().any(|tracker| tracker.silence.is_some());
        self.looked = silent.then_some(now);
    }

    /// When [`Self::look`], [`Self::to_ask`], [`Self::leaving`] or [`Self::backends`] will say something new without a probe.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let removals = self.backends.values().filter_map(|t| {
            let removed = t.removed? + self.grace();
            Some(t.keep_until.map_or(removed, |at| at.max(removed)))
        });
        let drains = self.backends.iter().filter(|(_, t)| t.state == State::Draining);
        let cuts = drains.filter_map(|(backend, t)| self.cut(*backend, t)).filter(|at| *at > now);
        let asks = self.backends.values().filter_map(|t| t.ask_due);
        let silent = self.backends.values().any(|t| t.silence.is_some() || t.state == State::Late);
        let tick = silent.then(|| self.looked.unwrap_or(now) + TICK);
        let silences = self.backends.values().filter_map(|t| t.silence.as_ref());
        let decisions = silences.filter_map(|silence| silence.next_decision(now, &self.options));
        removals.chain(cuts).chain(asks).chain(decisions).chain(tick).min()
    }

    /// What the prober of `backend` is to do; `None` if it is not tracked.
    pub fn directive(&self, backend: Backend, now: Instant) -> Option<Directive> {
        let tracker = self.backends.get(&backend)?;
        let others = || self.backends.iter().filter(|(other, _)| **other != backend);
        let runs = others().filter(|(_, t)| !t.state.is_out()).filter_map(|(_, t)| t.run.as_ref());
        let lacking = |run| Some((Run::lacks(run, self.options.fall)?, run.needs()));
        let lacking: Vec<(Instant, Deed)> = runs.filter_map(lacking).collect();
        let withdrawn = tracker.withdrawn_unasked();
        let mut not_before = lacking.iter().map(|(from, _)| *from).chain(withdrawn).max();
        let mut afresh = lacking.iter().any(|(_, deed)| *deed == Deed::ShakesHands);
        let mut ping_not_before = None;
        if let Some(witness) =
            tracker.silence.as_ref().and_then(|silence| silence.wants_dial_after(now, &self.options))
        {
            not_before = not_before.max(Some(witness));
            afresh = true;
        }
        for (other, silent) in others() {
            let Some(silence) = silent.silence.as_ref().filter(|_| is_near(*other, backend, tracker.local))
            else {
                continue;
            };
            ping_not_before = ping_not_before.max(now.checked_sub(ROUND).map(|at| at.max(silence.since)));
            let waited = now.saturating_duration_since(silence.since) >= ROUND * 2;
            if silence.lacks_handshake() && (waited || self.is_chosen_witness(backend, *other)) {
                not_before = not_before.max(Some(silence.since));
                afresh = true;
            }
        }
        Some(Directive {
            pace: match tracker.state {
                _ if tracker.is_pending(&self.options) && tracker.is_refusing() => Pace::Rush,
                _ if tracker.is_pending(&self.options) => Pace::Burst,
                State::Suspect | State::Failed | State::Late => Pace::Watchful,
                _ if tracker.run.is_some() || tracker.is_held_down() => Pace::Watchful,
                _ => Pace::Steady,
            },
            limit: tracker.limit(&self.options),
            not_before,
            afresh,
            ping_not_before,
            watch: tracker.silence.is_some(),
        })
    }

    /// One witness is enough: thousands of nodes must not all shake hands with every other apiserver because one is silent.
    fn is_chosen_witness(&self, witness: Backend, silent: Backend) -> bool {
        let able = self
            .backends
            .iter()
            .filter(|(other, t)| **other != silent && t.is_believed() && is_near(silent, **other, t.local));
        let able: Vec<Backend> = able.map(|(backend, _)| *backend).collect();
        let seed = usize::try_from(self.seed >> 33).unwrap_or_default();
        seed.checked_rem(able.len()).and_then(|at| able.get(at)) == Some(&witness)
    }

    /// Every tracked backend.
    pub fn backends(&self, now: Instant) -> BTreeMap<Backend, BackendHealth> {
        self.backends.iter().map(|(b, t)| (*b, t.health(now, self.is_ending(*b, t, now)))).collect()
    }

    fn is_ending(&self, backend: Backend, tracker: &Tracker, now: Instant) -> bool {
        match tracker.state {
            State::Failed => true,
            State::Draining => self.cut(backend, tracker).is_some_and(|at| now >= at),
            State::Unknown | State::Healthy | State::Late | State::Suspect => false,
        }
    }

    /// When the flows of a backend that drains are to be ended: it drained for so long, beside another one that is healthy and
    /// answers. Time counts from when there was one, and what was said of it before counts for nothing: if all drained, it may be
    /// ready, too, and was only not asked yet.
    fn cut(&self, backend: Backend, tracker: &Tracker) -> Option<Instant> {
        let family = Family::of(backend.ip());
        let others =
            self.backends.iter().filter(|(other, _)| **other != backend && Family::of(other.ip()) == family);
        let up = others.filter(|(_, other)| other.state == State::Healthy && other.run.is_none());
        let from = tracker.since.max(up.map(|(_, other)| other.since).min()?);
        tracker.drains_since(from).then_some(from + self.options.drain_timeout?)
    }

    /// Flows that are to be ended after so long of draining need their backend for as long, and for the ending.
    fn grace(&self) -> Duration {
        let ended = self.options.drain_timeout.map(|timeout| timeout + ENDING);
        self.options.removal_grace.max(ended.unwrap_or_default())
    }

    fn spread(&mut self) -> Duration {
        self.options.kill_spread.mul_f64(self.chances.draw())
    }

    /// Those on whose way `backend` says something.
    fn near(&mut self, backend: Backend) -> impl Iterator<Item = &mut Tracker> {
        let local = self.backends.get(&backend).is_some_and(|tracker| tracker.local);
        let others = self
            .backends
            .iter_mut()
            .filter(move |(other, _)| **other != backend && is_near(**other, backend, local));
        others.map(|(_, tracker)| tracker)
    }
}

/// Whether an answer of `witness`, which may run on this node, says something of the way to another backend: it is reached by the
/// same family, over the network.
fn is_near(silent: Backend, witness: Backend, witness_is_local: bool) -> bool {
    !witness_is_local && Family::of(silent.ip()) == Family::of(witness.ip())
}

#[cfg(test)]
mod tests;
