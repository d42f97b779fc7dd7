//! The history of each change of a backend's state, from the first sign to the end of the last flow, told once as one
//! log event and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dataplane::flows::KillReport;
use crate::metrics::{Metrics, Stage};
use crate::model::health::{BackendHealth, Cue, FailReason, HealthView, State};
use crate::model::types::Backend;
use crate::report::{Ended, Transition};

/// So many of the latest changes are kept to be shown: a day of a cluster that is upgraded, and a few kilobytes.
const SHOWN: usize = 64;

/// A change of state whose consequences are under way.
#[derive(Clone, Copy, Debug)]
struct Change {
    from: State,
    to: State,
    reason: Option<FailReason>,
    cue: Cue,
    noticed: Instant,
    decided: Instant,
    committed: Option<Instant>,
}

/// What is known of every backend's changes.
#[derive(Debug, Default)]
pub(super) struct History {
    states: BTreeMap<Backend, State>,
    pending: BTreeMap<Backend, Change>,
    deaths: BTreeMap<Backend, Change>,
    /// Newest first.
    latest: Arc<Vec<Transition>>,
}

impl History {
    /// Takes in what changed since the last view.
    pub fn look(&mut self, view: &HealthView) {
        for (backend, health) in &view.backends {
            // One that is seen for the first time has no history yet, whatever it shares with another port.
            let from = self.states.insert(*backend, health.state).unwrap_or(health.state);
            if from != health.state {
                self.pending.insert(*backend, change(from, health));
            }
        }
        self.states.retain(|backend, _| view.backends.contains_key(backend));
    }

    /// The kernel has what follows from the latest view, as of `at`. `dry`: it would have, were this no rehearsal.
    pub fn committed(&mut self, at: Instant, metrics: &Metrics) {
        for (backend, mut change) in std::mem::take(&mut self.pending) {
            change.committed = Some(at);
            let (decision, commit) = (span(change.noticed, change.decided), span(change.decided, at));
            metrics.changed(change.to, change.reason);
            metrics.stage(Stage::Decision, decision);
            metrics.stage(Stage::Commit, commit);
            metrics.stage(Stage::Reaction, span(change.noticed, at));
            self.keep(Transition {
                backend,
                from: change.from,
                to: change.to,
                reason: change.reason,
                cue: change.cue,
                at: change.decided,
                decision,
                commit,
                ended: None,
            });
            let reason = change.reason.map(FailReason::label);
            let (decision_ms, commit_ms) = (millis(decision), millis(commit));
            let (from, to, cue) = (change.from.label(), change.to.label(), change.cue.label());
            match change.to {
                State::Down => {
                    tracing::warn!(%backend, from, to, reason, cue, decision_ms, commit_ms, "an apiserver does not answer: new connections go to others");
                    self.deaths.insert(backend, change);
                }
                State::Draining => {
                    tracing::warn!(%backend, from, to, reason, cue, decision_ms, commit_ms, "an apiserver drains: it keeps its connections and gets no new ones");
                    self.deaths.insert(backend, change);
                }
                State::Unknown | State::Up => {
                    tracing::info!(%backend, from, to, cue, decision_ms, commit_ms, "an apiserver answers and is ready");
                    self.deaths.remove(&backend);
                }
            }
        }
    }

    /// The latest changes, newest first.
    pub fn latest(&self) -> Arc<Vec<Transition>> {
        Arc::clone(&self.latest)
    }

    fn keep(&mut self, transition: Transition) {
        let latest = Arc::make_mut(&mut self.latest);
        latest.truncate(SHOWN - 1);
        latest.insert(0, transition);
    }

    /// The flows of a backend were ended, as far as that was possible.
    pub fn ended(&mut self, report: &KillReport, metrics: &Metrics) {
        metrics.flows(report);
        // Where the commit waits for another program, clients are told before it.
        let death = self.deaths.remove(&report.backend);
        let death = death.or_else(|| self.pending.get(&report.backend).copied());
        if let Some((death, committed)) = death.and_then(|d| Some((d, d.committed?)))
            && report.flows > 0
            && !report.cancelled
        {
            metrics.stage(Stage::Told, span(death.decided, committed) + report.last_ended);
        }
        let between = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to).map(|(from, to)| millis(span(from, to)))
        };
        let decision_ms = between(death.map(|d| d.noticed), death.map(|d| d.decided));
        let commit_ms = between(death.map(|d| d.decided), death.and_then(|d| d.committed));
        let flows_ms = millis(report.last_ended);
        let remaining: u64 = report.remaining.values().sum();
        let latest = Arc::make_mut(&mut self.latest);
        // It may be up again by now, and that ended nothing.
        let caused = |t: &&mut Transition| {
            t.backend == report.backend && matches!(t.to, State::Down | State::Draining)
        };
        if let Some(transition) = latest.iter_mut().find(caused) {
            transition.ended = Some(Ended { took: report.last_ended, flows: report.flows, remaining });
        }
        let why: Vec<String> =
            report.remaining.iter().map(|(why, n)| format!("{n} {}", why.label())).collect();
        let why = (!why.is_empty()).then(|| why.join(", "));
        let (to, cue) = (death.map(|d| d.to.label()), death.map(|d| d.cue.label()));
        let reason = death.and_then(|d| d.reason).map(FailReason::label);
        tracing::info!(
            backend = %report.backend,
            to,
            reason,
            cue,
            decision_ms,
            commit_ms,
            flows_ms,
            flows = report.flows,
            moved = report.syn_sent,
            sockets = report.sockets,
            nudges = report.nudged,
            rounds = report.rounds,
            remaining,
            why,
            cancelled = report.cancelled,
            degraded = report.degraded,
            "told the clients of an apiserver that is gone"
        );
    }
}

fn change(from: State, health: &BackendHealth) -> Change {
    Change {
        from,
        to: health.state,
        reason: health.failing,
        cue: health.cue,
        noticed: health.noticed,
        decided: health.since,
        committed: None,
    }
}

fn span(from: Instant, to: Instant) -> Duration {
    to.saturating_duration_since(from)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::tests::health;
    use crate::model::snapshot::{ServiceStatus, Snapshot};

    const BACKEND: ([u8; 4], u16) = ([192, 0, 2, 11], 6443);

    #[test]
    fn the_end_of_flows_belongs_to_the_change_that_caused_it() {
        let (mut history, metrics, begin) = (History::default(), Metrics::default(), Instant::now());
        let snapshot = Snapshot {
            generation: 1,
            service: ServiceStatus::Found,
            frontends: Vec::new(),
            rejected: Default::default(),
        };
        let mut view = HealthView::unprobed(Arc::new(snapshot), begin);
        for state in [State::Up, State::Down, State::Up] {
            view.backends.insert(BACKEND.into(), health(state));
            history.look(&view);
            history.committed(begin, &metrics);
        }
        let report = KillReport { flows: 5, cancelled: true, ..KillReport::new(BACKEND.into()) };
        history.ended(&report, &metrics);
        let latest = history.latest();
        let ended: Vec<_> = latest.iter().map(|t| (t.to, t.ended.map(|ended| ended.flows))).collect();
        assert_eq!(ended, [(State::Up, None), (State::Down, Some(5))]);
    }
}
