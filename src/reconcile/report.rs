//! What the reconciler reports: each piece of news once to the log, the whole state to the rest of the daemon.

use std::sync::Arc;
use std::time::Instant;

use super::{PathError, Reconciler};
use crate::model::desired::FailOpenReason;
use crate::model::health::{BackendHealth, FailReason, HealthView};
use crate::model::report::{Phase, Report, TrafficPath};
use crate::model::snapshot::Snapshot;
use crate::model::types::ServiceKey;

/// The error that was logged last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoggedError {
    /// Of routes, while the rules are in effect.
    pub routes: bool,
    text: String,
}

impl<D, H, F, W> Reconciler<D, H, F, W> {
    pub(super) fn note_rejections(&mut self, snapshot: &Snapshot) {
        for rejection in snapshot.rejected.difference(&self.known_rejections) {
            tracing::warn!(
                event = %"endpoint_address_rejected",
                address = %rejection.address, port = rejection.port, reason = %rejection.reason,
                "Rejected an address that the API publishes"
            );
            self.metrics.rejected(rejection.reason);
        }
        self.known_rejections.clone_from(&snapshot.rejected);
    }

    pub(super) fn note_fail_open(&mut self, fail_open: &[FailOpenReason]) {
        for hold in fail_open.iter().filter(|hold| !self.known_fail_open.contains(hold)) {
            log_fail_open(&self.policy.service, hold);
        }
        if fail_open.is_empty() && !self.known_fail_open.is_empty() {
            tracing::info!(
                event = %"fail_open_ended", service = %self.policy.service,
                "Usable API servers are known again"
            );
        }
        self.known_fail_open = fail_open.to_vec();
    }

    /// What follows from this view serves new connections.
    pub(super) fn took_effect(&mut self, view: &HealthView) {
        self.effective_since = Some(view.noticed);
        self.transitions.committed(Instant::now(), &self.metrics);
    }

    pub(super) fn note_failure(&mut self, view: &HealthView, error: &PathError) {
        let text = error_chain(error);
        let routes = matches!(error, PathError::Routes(_));
        let logged = LoggedError { routes, text: text.clone() };
        let is_news = self.logged_error.replace(logged.clone()) != Some(logged);
        if routes {
            if is_news {
                tracing::error!(
                    event = %"routes_failed", error = %text,
                    "Failed to program routes or routing rules"
                );
            }
            self.report(view, Phase::Unrouted, Some(text));
        } else {
            if is_news {
                tracing::error!(
                    event = %"rules_failed", error = %text,
                    "Failed to program rules, earlier rules stay in effect"
                );
            }
            self.reports.send_modify(|report| {
                report.phase = Phase::Failed;
                report.path = Some(self.path.report());
                report.view = Some(view.clone());
                report.repairs = self.drift_repair.report();
                report.transitions = self.transitions.latest();
                report.last_error = Some(text);
            });
        }
    }

    pub(super) fn report(&self, view: &HealthView, phase: Phase, last_error: Option<String>) {
        let report = Report {
            phase,
            view: Some(view.clone()),
            path: Some(self.path.report()),
            programmed: self.effective.clone(),
            owned: self.owned,
            repairs: self.drift_repair.report(),
            transitions: self.transitions.latest(),
            fail_open: self.known_fail_open.clone(),
            last_error,
        };
        let path_of = |report: &Report| report.path.as_ref().map_or(TrafficPath::None, |path| path.in_use);
        let (before, now) = (path_of(&self.reports.borrow()), path_of(&report));
        if before != now && before != TrafficPath::None {
            self.metrics.switched(now);
        }
        self.metrics.state(&report);
        self.reports.send_replace(report);
    }
}

/// Logs why something stays in use that neither the API nor probes confirm.
fn log_fail_open(service: &ServiceKey, fail_open: &FailOpenReason) {
    let missing = |reason: &str| {
        tracing::warn!(
            event = %"fail_open_started", %service, reason,
            "Service is missing or unusable, keeping the last rules"
        );
    };
    match fail_open {
        FailOpenReason::ServiceMissing => missing("service_missing"),
        FailOpenReason::ServiceHeadless => missing("service_headless"),
        FailOpenReason::ServiceUnusable => missing("service_unusable"),
        FailOpenReason::NoEndpoints { vip, kept: true } => tracing::warn!(
            event = %"fail_open_started", %service, reason = "no_endpoints", %vip, kept = true,
            "API publishes no endpoints, keeping the last API servers"
        ),
        FailOpenReason::NoEndpoints { vip, kept: false } => tracing::warn!(
            event = %"fail_open_started", %service, reason = "no_endpoints", %vip, kept = false,
            "No API server is known, leaving the virtual IP alone"
        ),
        FailOpenReason::NoneReady { vip } => tracing::warn!(
            event = %"fail_open_started", %service, reason = "none_ready", %vip,
            "No API server is ready, using those that answer"
        ),
        FailOpenReason::NoneAnswers { vip, reason } => tracing::warn!(
            event = %"fail_open_started", %service, reason = "none_answers", %vip,
            failure = reason.map(FailReason::label),
            "No API server answers probes, keeping the last ones"
        ),
    }
}

/// An error and its sources as one line.
pub(crate) fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl<D, H, F, W> Reconciler<D, H, F, W> {
    /// Whether the same rules follow from `new` as from `old`.
    pub(super) fn has_same_rules(&self, old: &HealthView, new: &HealthView) -> bool {
        let rest = |health: &BackendHealth| BackendHealth { round_trip: None, ..*health };
        let is_same = |((a, old), (b, new)): ((_, &BackendHealth), (_, &BackendHealth))| {
            a == b && rest(old) == rest(new)
        };
        !self.policy.balance.goes_by_round_trips()
            && Arc::ptr_eq(&old.snapshot, &new.snapshot)
            && old.backends.len() == new.backends.len()
            && old.backends.iter().zip(&new.backends).all(is_same)
    }

    /// Shows a view without doing anything else.
    pub(super) fn report_view(&mut self, view: &HealthView) {
        // What is programmed later is no reaction to this.
        self.effective_since = Some(view.noticed);
        self.reports.send_modify(|report| report.view = Some(view.clone()));
        self.metrics.state(&self.reports.borrow());
    }
}
