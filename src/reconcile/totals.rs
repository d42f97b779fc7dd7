//! Answers to questions for the connections of each backend.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Reconciler, chain};
use crate::dataplane::Dataplane;
use crate::model::types::Backend;

/// Counters are read in a fraction of a millisecond, unless an earlier commit still waits.
const COUNT: Duration = Duration::from_secs(1);

/// A question for the totals of all backends.
pub type TotalsQuery = oneshot::Sender<BTreeMap<Backend, u64>>;

/// Asks the reconciler, which answers also while it waits for the kernel. `None`: it did not within `patience`.
pub async fn ask_totals(
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
        let _ = query.send(self.ledger.totals().clone());
    }

    async fn count(&mut self) {
        let Some(applied) = self.applied.clone() else { return };
        match timeout(COUNT, self.dataplane.connections(&applied)).await {
            Ok(Ok(observed)) => self.ledger.update(&observed),
            Ok(Err(error)) => tracing::debug!(error = %chain(&error), "read the counters"),
            Err(_) => tracing::debug!("nf_tables is busy: the counters are those of before"),
        }
    }
}
