//! News from which nothing follows: round trips that changed where nobody goes by them. They are shown, and that is all.

use std::sync::Arc;

use super::Reconciler;
use crate::model::health::{BackendHealth, HealthView};

impl<D, H, F, W> Reconciler<D, H, F, W> {
    /// Whether the same rules follow from `new` as from `old`.
    pub(super) fn follows_the_same(&self, old: &HealthView, new: &HealthView) -> bool {
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
    pub(super) fn show(&mut self, view: &HealthView) {
        // What is programmed later is no reaction to this.
        self.answered = Some(view.noticed);
        self.reports.send_modify(|report| report.view = Some(view.clone()));
        self.metrics.state(&self.reports.borrow());
    }
}
