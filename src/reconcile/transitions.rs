//! State transitions of backends, from the first sign to the termination of the last flow, each logged once as one
//! log event and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::dataplane::flows::FlowReport;
use crate::metrics::{Metrics, Stage};
use crate::model::health::{BackendHealth, FailReason, HealthState, HealthView, Trigger};
use crate::model::report::{FlowsEnded, HealthTransition, Report};
use crate::model::types::Backend;

/// So many of the latest changes are kept to be shown: a day of a cluster that is upgraded, and a few kilobytes.
const SHOWN: usize = 64;

/// A change of state that is not in effect yet.
#[derive(Clone, Copy, Debug)]
struct PendingTransition {
    from: HealthState,
    to: HealthState,
    reason: Option<FailReason>,
    trigger: Trigger,
    /// Its answer does not tell readiness (401, 403).
    readiness_unknown: bool,
    noticed: Instant,
    decided: Instant,
    /// Where the commit is blocked by another program, flows are terminated before it.
    ended: Option<FlowsEnded>,
}

/// The transitions of all backends.
#[derive(Debug, Default)]
pub(super) struct TransitionLog {
    states: BTreeMap<Backend, HealthState>,
    pending: BTreeMap<Backend, PendingTransition>,
    /// Changes of a view that came while the commit of an earlier one waits.
    coming: BTreeMap<Backend, PendingTransition>,
    /// Newest first.
    latest: Arc<Vec<HealthTransition>>,
}

impl TransitionLog {
    /// Records what changed since the last view.
    pub fn observe(&mut self, view: &HealthView) {
        for (backend, health) in &view.backends {
            // One that is seen for the first time has no history yet, whatever it shares with another port.
            let from = self.states.insert(*backend, health.state).unwrap_or(health.state);
            if from != health.state {
                let ended = self.coming.get(backend).filter(|c| c.to == health.state).and_then(|c| c.ended);
                self.pending.insert(*backend, PendingTransition { ended, ..change(from, health) });
            }
        }
        self.coming.clear();
        self.states.retain(|backend, _| view.backends.contains_key(backend));
    }

    /// A view that is reconciled later: flows may already be terminated because of it.
    pub fn preview(&mut self, view: &HealthView) {
        for (backend, health) in &view.backends {
            let from = self.states.get(backend).copied().unwrap_or(health.state);
            if from == health.state {
                self.coming.remove(backend);
            } else if self.coming.get(backend).is_none_or(|coming| coming.to != health.state) {
                self.coming.insert(*backend, change(from, health));
            }
        }
    }

    /// The rules that follow from the latest view are in effect, as of `at`.
    pub fn committed(&mut self, at: Instant, metrics: &Metrics) {
        for (backend, change) in std::mem::take(&mut self.pending) {
            let (decision, commit) = (span(change.noticed, change.decided), span(change.decided, at));
            metrics.changed(change.to, change.reason);
            metrics.stage(Stage::Decision, decision);
            metrics.stage(Stage::Commit, commit);
            metrics.stage(Stage::Reaction, span(change.noticed, at));
            self.keep(HealthTransition {
                backend,
                from: change.from,
                to: change.to,
                reason: change.reason,
                trigger: change.trigger,
                at: change.decided,
                decision,
                commit,
                ended: change.ended,
            });
            let reason = change.reason.map(FailReason::label);
            let (decision_ms, commit_ms) = (millis(decision), millis(commit));
            let (from, to, trigger) = (change.from.label(), change.to.label(), change.trigger.label());
            match change.to {
                HealthState::Suspect => {
                    tracing::warn!(
                        event = %"backend_state_changed",
                        %backend, from, to, reason, trigger, decision_ms, commit_ms,
                        "API server does not answer, new connections go to others"
                    );
                }
                HealthState::Failed => {
                    tracing::warn!(
                        event = %"backend_state_changed",
                        %backend, from, to, reason, trigger, decision_ms, commit_ms,
                        "API server has failed, resetting its connections"
                    );
                }
                HealthState::Late => {
                    tracing::warn!(
                        event = %"backend_state_changed",
                        %backend, from, to, reason, trigger, decision_ms, commit_ms,
                        "API server answers late"
                    );
                }
                HealthState::Draining => {
                    tracing::warn!(
                        event = %"backend_state_changed",
                        %backend, from, to, reason, trigger, decision_ms, commit_ms,
                        "API server drains, it keeps its connections and gets no new ones"
                    );
                }
                HealthState::Unknown | HealthState::Healthy if change.readiness_unknown => {
                    tracing::info!(
                        event = %"backend_state_changed",
                        %backend, from, to, trigger, decision_ms, commit_ms,
                        "API server answers without its readiness, treating it as ready"
                    );
                }
                HealthState::Unknown | HealthState::Healthy => {
                    tracing::info!(
                        event = %"backend_state_changed",
                        %backend, from, to, trigger, decision_ms, commit_ms,
                        "API server answers and is ready"
                    );
                }
            }
        }
    }

    /// The latest changes, newest first.
    pub fn latest(&self) -> Arc<Vec<HealthTransition>> {
        Arc::clone(&self.latest)
    }

    fn keep(&mut self, transition: HealthTransition) {
        let latest = Arc::make_mut(&mut self.latest);
        latest.truncate(SHOWN - 1);
        latest.insert(0, transition);
    }

    /// Records the result of a flow order, and reports it. Termination is logged once: an order that was repeated under
    /// later rules is logged a second time only if there were more flows by then.
    pub fn ended(&mut self, report: &FlowReport, metrics: &Metrics, shown: &watch::Sender<Report>) {
        metrics.flows(report);
        if report.ended > 0 {
            let FlowReport { backend, challenged, ended, .. } = report;
            tracing::info!(
                event = %"connections_challenged", %backend, challenged, ended,
                "Challenged connections to API server, some had ended"
            );
        }
        if !report.purpose.ends() {
            return;
        }
        let cause = self.cause(report.backend);
        let before = cause.as_ref().and_then(|cause| *cause.ended);
        if let Some(cause) = &cause
            && report.flows > 0
            && !report.cancelled
            && before.is_none()
        {
            // An order may come before the commit, or a time to drain after it.
            let ordered = span(cause.decided, report.started).min(cause.commit.unwrap_or(Duration::MAX));
            metrics.stage(Stage::Notified, ordered + report.last_ended);
        }
        if before.is_none() || report.flows + report.syn_sent > 0 {
            log_flows_ended(report, cause.as_ref(), before.is_some());
        }
        if let Some(cause) = cause {
            *cause.ended = Some(sum(before, report));
        }
        shown.send_modify(|shown| shown.transitions = self.latest());
    }

    /// The change that flows of a backend are ended for. It may be up again by now, and that ended nothing.
    fn cause(&mut self, backend: Backend) -> Option<FlowEndCause<'_>> {
        let coming = self.coming.get_mut(&backend).filter(|change| ends_flows(change.to));
        let pending = self.pending.get_mut(&backend).filter(|change| ends_flows(change.to));
        if let Some(change) = coming.or(pending) {
            let PendingTransition { to, reason, trigger, noticed, decided, .. } = *change;
            let (decision, ended) = (span(noticed, decided), &mut change.ended);
            return Some(FlowEndCause { to, reason, trigger, decided, decision, commit: None, ended });
        }
        let latest = Arc::make_mut(&mut self.latest);
        let transition = latest.iter_mut().find(|t| t.backend == backend && ends_flows(t.to))?;
        let HealthTransition { to, reason, trigger, at: decided, decision, commit, .. } = *transition;
        let (commit, ended) = (Some(commit), &mut transition.ended);
        Some(FlowEndCause { to, reason, trigger, decided, decision, commit, ended })
    }
}

/// The transition that flows are terminated for, and where to record the result.
struct FlowEndCause<'a> {
    to: HealthState,
    reason: Option<FailReason>,
    trigger: Trigger,
    decided: Instant,
    decision: Duration,
    commit: Option<Duration>,
    ended: &'a mut Option<FlowsEnded>,
}

fn ends_flows(state: HealthState) -> bool {
    matches!(state, HealthState::Failed | HealthState::Draining)
}

/// The result for all flows, with those of an order that was logged before. Flows that that one left open are counted
/// by the new one.
fn sum(before: Option<FlowsEnded>, report: &FlowReport) -> FlowsEnded {
    let (flows, took) = before.map_or((0, Duration::ZERO), |b| (b.flows.saturating_sub(b.remaining), b.took));
    let took = if report.flows > 0 || before.is_none() { took.max(report.last_ended) } else { took };
    FlowsEnded { took, flows: flows + report.flows, remaining: report.remaining.values().sum() }
}

fn log_flows_ended(report: &FlowReport, cause: Option<&FlowEndCause<'_>>, repeated: bool) {
    let reasons: Vec<String> =
        report.remaining.iter().map(|(why, n)| format!("{n} {}", why.label())).collect();
    let remaining_reasons = (!reasons.is_empty()).then(|| reasons.join(", "));
    tracing::info!(
        event = %"connections_reset",
        backend = %report.backend,
        to = cause.map(|c| c.to.label()),
        reason = cause.and_then(|c| c.reason).map(FailReason::label),
        trigger = cause.map(|c| c.trigger.label()),
        decision_ms = cause.map(|c| millis(c.decision)),
        commit_ms = cause.and_then(|c| c.commit).map(millis),
        flows_ms = millis(report.last_ended),
        flows = report.flows,
        moved = report.syn_sent,
        sockets = report.sockets,
        challenge_syns = report.challenge_syns,
        rounds = report.rounds,
        remaining = report.remaining.values().sum::<u64>(),
        remaining_reasons,
        cancelled = report.cancelled,
        degraded = report.degraded,
        repeated,
        "Reset connections to failed API server"
    );
}

fn change(from: HealthState, health: &BackendHealth) -> PendingTransition {
    PendingTransition {
        from,
        to: health.state,
        reason: health.failure,
        trigger: health.trigger,
        readiness_unknown: health.readyz.is_some_and(|answered| !answered.readiness_known),
        noticed: health.noticed,
        decided: health.since,
        ended: None,
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
    use crate::dataplane::flows::{Purpose, Remaining};
    use crate::model::health::sample as health;
    use crate::model::snapshot::{ServiceStatus, Snapshot};

    const BACKEND: ([u8; 4], u16) = ([192, 0, 2, 11], 6443);

    fn show(transitions: &mut TransitionLog, state: HealthState) {
        let snapshot = Snapshot {
            generation: 1,
            service: ServiceStatus::Found,
            frontends: Vec::new(),
            rejected: Default::default(),
        };
        let mut view = HealthView::unprobed(Arc::new(snapshot), Instant::now());
        view.backends.insert(BACKEND.into(), health(state));
        transitions.observe(&view);
    }

    fn ended(transitions: &mut TransitionLog, flows: u64, remaining: u64, cancelled: bool) {
        let remaining = std::iter::once((Remaining::NoAnswer, remaining)).filter(|(_, n)| *n > 0).collect();
        let new = FlowReport::new(BACKEND.into(), Purpose::Reset { own_reset: false });
        let report = FlowReport { flows, remaining, cancelled, ..new };
        let (shown, _) = watch::channel(Report::default());
        transitions.ended(&report, &Metrics::default(), &shown);
        assert_eq!(shown.borrow().transitions.len(), transitions.latest().len());
    }

    /// Whereto, and how many flows there were and remain.
    fn reported(transitions: &TransitionLog) -> Vec<(HealthState, Option<(u64, u64)>)> {
        let latest = transitions.latest();
        latest.iter().map(|t| (t.to, t.ended.map(|ended| (ended.flows, ended.remaining)))).collect()
    }

    #[test]
    fn flow_report_belongs_to_the_transition_that_caused_it() {
        let (mut transitions, metrics) = (TransitionLog::default(), Metrics::default());
        for state in [HealthState::Healthy, HealthState::Failed, HealthState::Healthy] {
            show(&mut transitions, state);
            transitions.committed(Instant::now(), &metrics);
        }
        ended(&mut transitions, 5, 0, true);
        assert_eq!(
            reported(&transitions),
            [(HealthState::Healthy, None), (HealthState::Failed, Some((5, 0)))]
        );
    }

    #[test]
    fn challenged_flows_are_not_reported_as_ended() {
        let (mut transitions, metrics) = (TransitionLog::default(), Metrics::default());
        for state in [HealthState::Healthy, HealthState::Failed] {
            show(&mut transitions, state);
            transitions.committed(Instant::now(), &metrics);
        }
        for purpose in [Purpose::Reroute, Purpose::Challenge] {
            let (flows, asked, ended) = (7, 7, 2);
            let report =
                FlowReport { flows, challenged: asked, ended, ..FlowReport::new(BACKEND.into(), purpose) };
            transitions.ended(&report, &metrics, &watch::channel(Report::default()).0);
        }
        assert_eq!(reported(&transitions), [(HealthState::Failed, None)]);
        ended(&mut transitions, 5, 0, false);
        assert_eq!(reported(&transitions), [(HealthState::Failed, Some((5, 0)))]);
    }

    #[test]
    fn flow_report_before_the_commit_belongs_to_the_pending_transition() {
        let (mut transitions, metrics) = (TransitionLog::default(), Metrics::default());
        for state in [HealthState::Healthy, HealthState::Failed, HealthState::Healthy] {
            show(&mut transitions, state);
            transitions.committed(Instant::now(), &metrics);
        }
        show(&mut transitions, HealthState::Failed);
        ended(&mut transitions, 7, 2, false);
        let earlier = (HealthState::Failed, None);
        assert_eq!(reported(&transitions), [(HealthState::Healthy, None), earlier], "it waits");
        transitions.committed(Instant::now(), &metrics);
        assert_eq!(
            reported(&transitions),
            [(HealthState::Failed, Some((7, 2))), (HealthState::Healthy, None), earlier]
        );
        // The order begins again: it finds what was left, and one more.
        ended(&mut transitions, 3, 0, false);
        assert_eq!(reported(&transitions)[0], (HealthState::Failed, Some((8, 0))));
        ended(&mut transitions, 0, 0, false);
        assert_eq!(reported(&transitions)[0], (HealthState::Failed, Some((8, 0))), "nothing is news");
    }
}
