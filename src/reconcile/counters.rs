//! Connection counters: totals for each backend that never go backwards, and the answers to queries for them.
//!
//! The kernel's counters do go backwards: anyone may reset them, and a flush of the table starts them anew. In: what the
//! kernel says now. Out: what was counted since this daemon first read them, together with what it found then.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Reconciler, error_chain};
use crate::dataplane::Dataplane;
use crate::model::types::Backend;

/// Backends whose totals are kept. The model admits 64 at a time; the rest is the past.
const MAX_BACKENDS: usize = 256;

/// Totals by backend.
#[derive(Clone, Debug, Default)]
pub struct ConnectionTotals {
    totals: BTreeMap<Backend, u64>,
    last_seen: BTreeMap<Backend, u64>,
}

impl ConnectionTotals {
    /// Takes in what the kernel's counters say now. A value below the last one means that it was reset in between.
    pub fn update(&mut self, observed: &BTreeMap<Backend, u64>) {
        for (backend, value) in observed {
            let before = self.last_seen.get(backend).copied().unwrap_or(0);
            let new = if *value >= before { value - before } else { *value };
            if self.totals.len() < MAX_BACKENDS || self.totals.contains_key(backend) {
                let total = self.totals.entry(*backend).or_default();
                *total = total.saturating_add(new);
            }
        }
        // A backend that is gone has lost its counter: if it comes back, that one starts at 0.
        self.last_seen.clone_from(observed);
    }

    /// The totals, also of backends that are gone.
    pub fn totals(&self) -> &BTreeMap<Backend, u64> {
        &self.totals
    }
}

/// Counters are read in a fraction of a millisecond, unless an earlier commit still waits.
const COUNT: Duration = Duration::from_secs(1);

/// A query for the totals of all backends.
pub type TotalsQuery = oneshot::Sender<BTreeMap<Backend, u64>>;

/// Asks the reconciler, which answers also while it waits for the kernel. `None`: it did not within `patience`.
pub async fn query_totals(
    reconciler: &mpsc::Sender<TotalsQuery>,
    patience: Duration,
) -> Option<BTreeMap<Backend, u64>> {
    let (query, answer) = oneshot::channel();
    let asked = async {
        reconciler.send(query).await.ok()?;
        answer.await.ok()
    };
    timeout(patience, asked).await.ok().flatten()
}

impl<D: Dataplane, H, F, W> Reconciler<D, H, F, W> {
    pub(super) async fn answer(&mut self, query: TotalsQuery) {
        self.count().await;
        // The asker may have left.
        let _ = query.send(self.totals.totals().clone());
    }

    async fn count(&mut self) {
        let Some(applied) = self.applied.clone() else { return };
        match timeout(COUNT, self.dataplane.connections(&applied)).await {
            Ok(Ok(observed)) => self.totals.update(&observed),
            Ok(Err(error)) => tracing::debug!(
                event = %"counters_read_failed", error = %error_chain(&error),
                "Failed to read counters"
            ),
            Err(_) => tracing::debug!(
                event = %"counters_read_timeout",
                "Timed out reading counters, using the last ones"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(n: u8) -> Backend {
        Backend::from(([192, 0, 2, n], 6443))
    }

    #[test]
    fn a_reset_counter_does_not_lower_the_total() {
        let mut totals = ConnectionTotals::default();
        for value in [5, 9, 2, 4] {
            totals.update(&BTreeMap::from([(backend(11), value)]));
        }
        assert_eq!(totals.totals()[&backend(11)], 9 + 4);
    }

    #[test]
    fn a_backend_that_left_and_came_back_goes_on_counting() {
        let mut totals = ConnectionTotals::default();
        totals.update(&BTreeMap::from([(backend(11), 5)]));
        totals.update(&BTreeMap::new());
        totals.update(&BTreeMap::from([(backend(11), 7)]));
        assert_eq!(totals.totals()[&backend(11)], 12);
    }

    proptest::proptest! {
        #[test]
        fn totals_never_fall(values in proptest::collection::vec(0u64..1000, 1..50)) {
            let mut totals = ConnectionTotals::default();
            let mut before = 0;
            for value in values {
                totals.update(&BTreeMap::from([(backend(11), value)]));
                let total = totals.totals()[&backend(11)];
                proptest::prop_assert!(total >= before);
                before = total;
            }
        }
    }
}
