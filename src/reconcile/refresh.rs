//! Keeps dead backends dead: the kernel forgets by itself whose flows are to be ended, in case nobody is there any more
//! who could take it back. So it is told again while it is meant.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Reconciler, chain};
use crate::dataplane::Dataplane;
use crate::model::types::Backend;

/// A third of the time that the kernel remembers it for.
const EVERY: Duration = Duration::from_secs(20);
/// After one that did not succeed.
const AGAIN: Duration = Duration::from_secs(5);
/// It takes a fraction of a millisecond, unless another program holds nf_tables; then it is done later.
const PATIENCE: Duration = Duration::from_secs(1);

impl<D: Dataplane, H, F, W> Reconciler<D, H, F, W> {
    /// When the kernel is to be told again, if there is anybody dead.
    pub(super) fn refresh_due(&self) -> Option<Instant> {
        let applied = self.applied.as_ref()?;
        applied.frontends.iter().any(|frontend| !frontend.dead.is_empty()).then_some(self.refresh_at)
    }

    /// The kernel has just been told.
    pub(super) fn refreshed(&mut self) {
        self.refresh_at = now() + EVERY;
    }

    /// Tells it. Rules may stand that a later view would not make: whose flows are not ended any more is not dead.
    pub(super) async fn refresh(&mut self) {
        let dead: BTreeSet<Backend> = self.ending.keys().copied().collect();
        match timeout(PATIENCE, self.dataplane.refresh(&dead)).await {
            Ok(Ok(())) => return self.refreshed(),
            Ok(Err(error)) => tracing::debug!(error = %chain(&error), "tell the kernel again who is dead"),
            Err(_) => tracing::debug!("nf_tables is busy: it is told later who is dead"),
        }
        self.refresh_at = now() + AGAIN;
    }
}

/// The runtime's clock, which tests stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
