//! What the reconciler says: each piece of news once to the log, the whole state to the rest of the daemon.

use std::time::Instant;

use super::{PathError, Reconciler};
use crate::model::desired::Hold;
use crate::model::health::HealthView;
use crate::model::report::{InUse, Phase, Report};
use crate::model::snapshot::Snapshot;

/// The error that was logged last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logged {
    /// Of routes, while the rules are in effect.
    pub routes: bool,
    text: String,
}

impl<D, H, F, W> Reconciler<D, H, F, W> {
    pub(super) fn note_rejections(&mut self, snapshot: &Snapshot) {
        for rejection in snapshot.rejected.difference(&self.known_rejections) {
            tracing::warn!(address = %rejection.address, port = rejection.port, reason = %rejection.reason, "left out an address that the API publishes");
            self.metrics.rejected(rejection.reason);
        }
        self.known_rejections.clone_from(&snapshot.rejected);
    }

    pub(super) fn note_holds(&mut self, holds: &[Hold]) {
        for hold in holds.iter().filter(|hold| !self.known_holds.contains(hold)) {
            tracing::warn!(service = %self.policy.service, "{hold}");
        }
        if holds.is_empty() && !self.known_holds.is_empty() {
            tracing::info!(service = %self.policy.service, "the API publishes endpoints again");
        }
        self.known_holds = holds.to_vec();
    }

    /// What follows from this view serves new connections.
    pub(super) fn in_effect(&mut self, view: &HealthView) {
        self.answered = Some(view.noticed);
        self.history.committed(Instant::now(), &self.metrics);
    }

    pub(super) fn note_failure(&mut self, view: &HealthView, error: &PathError) {
        let text = chain(error);
        let routes = matches!(error, PathError::Routes(_));
        let logged = Logged { routes, text: text.clone() };
        let is_news = self.logged_error.replace(logged.clone()) != Some(logged);
        if routes {
            if is_news {
                tracing::error!(error = %text, "connections are led; routes or routing rules that go with that could not be made");
            }
            self.report(view, Phase::Unrouted, Some(text));
        } else {
            if is_news {
                tracing::error!(error = %text, "cannot program the kernel; what stood before still stands");
            }
            self.reports.send_modify(|report| {
                report.phase = Phase::Failed;
                report.path = Some(self.path.report());
                report.view = Some(view.clone());
                report.repairs = self.mender.report();
                report.transitions = self.history.latest();
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
            repairs: self.mender.report(),
            transitions: self.history.latest(),
            holds: self.known_holds.clone(),
            last_error,
        };
        let way = |report: &Report| report.path.as_ref().map_or(InUse::None, |path| path.in_use);
        let (before, now) = (way(&self.reports.borrow()), way(&report));
        if before != now && before != InUse::None {
            self.metrics.switched(now);
        }
        self.metrics.state(&report);
        self.reports.send_replace(report);
    }
}

/// An error and its sources as one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
