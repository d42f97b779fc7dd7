//! All backends together: who is tracked, who bears witness for whom, what follows for each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::run::{Deed, Eyes, Run};
use super::tracker::{Thresholds, Tracker};
use super::{BackendHealth, Cue, Probe, State};
use crate::model::types::{Backend, Family};

pub use super::tracker::{HOLD_MAX, TIMEOUT_MAX, TIMEOUT_MIN};

/// Longer than it takes to end the flows of one backend, or to give up.
const ENDING: Duration = Duration::from_secs(30);

/// What the operator configured.
#[derive(Clone, Copy, Debug)]
pub struct HealthOptions {
    /// Failed probes in a row before a backend is Down, or unready ones before it drains. At least 1.
    pub fall: u32,
    /// Answered probes in a row before a backend is Up again. At least 1.
    pub rise: u32,
    /// How long a backend that is no longer published is probed on.
    pub removal_grace: Duration,
    /// After how long of draining the remaining flows are ended; `None`: never.
    pub drain_timeout: Option<Duration>,
}

/// How a backend is to be probed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The kept-open connection with its pings is enough, and `/readyz` now and then. Without one: a fresh probe at
    /// each interval.
    Steady,
    /// `/readyz` at each interval, over the kept-open connection or a fresh one: the backend is Down, or waits for its
    /// hold-down to end.
    Watchful,
    /// A fresh probe every 50 ms: a decision is near.
    Burst,
    /// A fresh probe every 10 ms: a decision is near, and the last one was refused, which costs the backend's host a packet.
    Rush,
}

/// What the prober of one backend is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive {
    /// How often.
    pub pace: Pace,
    /// How long TCP and TLS together, or a ping, may take.
    pub timeout: Duration,
    /// A probe must have been started at or after this time; if none was, one is due now.
    pub not_before: Option<Instant>,
    /// That must be a fresh one.
    pub afresh: bool,
}

/// The health of all backends.
#[derive(Debug)]
pub struct Health {
    options: HealthOptions,
    backends: BTreeMap<Backend, Tracker>,
}

impl Health {
    /// Nothing is tracked yet.
    pub fn new(options: HealthOptions) -> Self {
        Self { options, backends: BTreeMap::new() }
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
                if tracker.state != State::Down {
                    tracker.enter(State::Draining, now);
                }
            }
        }
        for backend in published {
            let tracker = self.backends.entry(*backend).or_insert_with(|| Tracker::new(now));
            if tracker.removed.take().is_some() && tracker.state == State::Draining {
                tracker.enter(if tracker.is_ready(now) { State::Up } else { State::Unknown }, now);
            }
        }
    }

    /// Something speaks against a backend: its connection ended, or a ping was not answered.
    pub fn cue(&mut self, backend: Backend, now: Instant, cue: Cue) {
        if let Some(tracker) = self.backends.get_mut(&backend) {
            tracker.cue(now, cue);
        }
    }

    /// Takes in a finished probe.
    pub fn observe(&mut self, backend: Backend, probe: Probe) {
        let thresholds = self.thresholds();
        let dark = self.dark();
        let Some(tracker) = self.backends.get_mut(&backend) else { return };
        tracker.observe(probe, thresholds);
        let elsewhere = tracker.local;
        if let Some(deed) = Deed::of(&probe) {
            for (other, tracker) in self.backends.iter_mut().filter(|(other, _)| **other != backend) {
                if let Some(run) = &mut tracker.run {
                    let eyes = eyes(*other, backend, elsewhere);
                    let [all, near] = dark.get(other).copied().unwrap_or_default();
                    run.relit(probe.finished, [all, near.filter(|_| eyes == Eyes::Near)]);
                    run.witnessed(&probe, deed, eyes);
                }
            }
        }
        for tracker in self.backends.values_mut() {
            tracker.judge(probe.finished, thresholds);
        }
    }

    /// Since when nobody else has answered, by backend that does not answer itself: of all others, and of those that are near
    /// it. `None`: somebody does, or there is nobody else who ever did.
    fn dark(&self) -> BTreeMap<Backend, [Option<Instant>; 2]> {
        let failing = self.backends.iter().filter(|(_, t)| t.run.is_some()).map(|(backend, _)| *backend);
        let since = |backend: Backend, near: bool| -> Option<Instant> {
            let others = self.backends.iter().filter(|(other, t)| {
                let counts = !near || eyes(backend, **other, t.local) == Eyes::Near;
                **other != backend && t.has_answered() && counts
            });
            let since: Option<Vec<Instant>> = others.map(|(_, t)| Some(t.run.as_ref()?.since)).collect();
            since?.into_iter().max()
        };
        failing.map(|backend| (backend, [since(backend, false), since(backend, true)])).collect()
    }

    /// Forgets backends whose grace after their removal is over.
    pub fn expire(&mut self, now: Instant) {
        let grace = self.grace();
        self.backends.retain(|_, tracker| tracker.removed.is_none_or(|removed| now < removed + grace));
    }

    /// Flows that are to be ended after so long of draining need their backend for as long, and for the ending.
    fn grace(&self) -> Duration {
        let ended = self.options.drain_timeout.map(|timeout| timeout + ENDING);
        self.options.removal_grace.max(ended.unwrap_or_default())
    }

    /// When [`Self::expire`] or [`Self::backends`] will say something new without a probe.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let removals = self.backends.values().filter_map(|t| Some(t.removed? + self.grace()));
        let drains = self.backends.iter().filter(|(_, t)| t.state == State::Draining);
        let cuts = drains.filter_map(|(backend, t)| self.cut(*backend, t)).filter(|at| *at > now);
        removals.chain(cuts).min()
    }

    /// What the prober of `backend` is to do; `None` if it is not tracked.
    pub fn directive(&self, backend: Backend) -> Option<Directive> {
        let tracker = self.backends.get(&backend)?;
        let others = self.backends.iter().filter(|(other, t)| **other != backend && t.state != State::Down);
        let runs = others.filter_map(|(_, t)| t.run.as_ref());
        let lacking = |run| Some((Run::lacks(run, self.options.fall)?, run.needs()));
        let lacking: Vec<(Instant, Deed)> = runs.filter_map(lacking).collect();
        let withdrawn = tracker.withdrawn_unasked();
        Some(Directive {
            pace: match tracker.state {
                _ if tracker.is_pending(self.thresholds()) && tracker.is_refusing() => Pace::Rush,
                _ if tracker.is_pending(self.thresholds()) => Pace::Burst,
                State::Down => Pace::Watchful,
                _ if tracker.run.is_some() || tracker.is_held_down() => Pace::Watchful,
                _ => Pace::Steady,
            },
            timeout: tracker.timeout(self.thresholds()),
            not_before: lacking.iter().map(|(from, _)| *from).chain(withdrawn).max(),
            afresh: lacking.iter().any(|(_, deed)| *deed == Deed::ShakesHands),
        })
    }

    /// Every tracked backend.
    pub fn backends(&self, now: Instant) -> BTreeMap<Backend, BackendHealth> {
        self.backends.iter().map(|(b, t)| (*b, t.health(now, self.is_ending(*b, t, now)))).collect()
    }

    fn is_ending(&self, backend: Backend, tracker: &Tracker, now: Instant) -> bool {
        match tracker.state {
            State::Down => tracker.run.as_ref().is_some_and(|run| run.is_certain(self.options.fall)),
            State::Draining => self.cut(backend, tracker).is_some_and(|at| now >= at),
            State::Unknown | State::Up => false,
        }
    }

    /// When the flows of a backend that drains are to be ended: it drained for so long, beside another one that is up and
    /// answers. Time counts from when there was one, and what was said of it before counts for nothing: if all drained, it may be
    /// ready, too, and was only not asked yet.
    fn cut(&self, backend: Backend, tracker: &Tracker) -> Option<Instant> {
        let family = Family::of(backend.ip());
        let others =
            self.backends.iter().filter(|(other, _)| **other != backend && Family::of(other.ip()) == family);
        let up = others.filter(|(_, other)| other.state == State::Up && other.run.is_none());
        let from = tracker.since.max(up.map(|(_, other)| other.since).min()?);
        tracker.drains_since(from).then_some(from + self.options.drain_timeout?)
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds { fall: self.options.fall, rise: self.options.rise }
    }
}

/// What a witness, which may run on this node, says of the way to another backend.
fn eyes(other: Backend, witness: Backend, is_local: bool) -> Eyes {
    let apart = is_local || Family::of(other.ip()) != Family::of(witness.ip());
    if apart { Eyes::Elsewhere } else { Eyes::Near }
}
