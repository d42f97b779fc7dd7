//! The single owner of the dataplane: takes in snapshots and changes of the node, programs what follows from them,
//! retries what failed, and reports.
//!
//! In: snapshots, node events, questions about counters. Out: commits, and a [`Report`] after each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use crate::apiserver::Published;
use crate::dataplane::{Dataplane, DataplaneError, Host};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::model::desired::{DesiredState, Hold, Policy, desire};
use crate::model::snapshot::{Rejection, Snapshot};
use crate::model::types::Backend;
use crate::report::{Phase, Report};

/// A refused commit is tried again after this, doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Rare enough to be no load, often enough that a healed kernel is used soon.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A question for the totals of all backends.
pub type TotalsQuery = oneshot::Sender<BTreeMap<Backend, u64>>;

/// What the reconciler is fed with.
pub struct Inputs {
    /// The API's view; `None` until the first full list.
    pub snapshots: watch::Receiver<Option<Published>>,
    /// Questions about counters.
    pub queries: mpsc::Receiver<TotalsQuery>,
    /// Resolves when the daemon is to stop.
    pub stop: watch::Receiver<bool>,
}

/// Owns the dataplane.
pub struct Reconciler<D, H> {
    dataplane: D,
    host: H,
    policy: Policy,
    applied: Option<Arc<DesiredState>>,
    ledger: Ledger,
    known_rejections: BTreeSet<Rejection>,
    known_holds: Vec<Hold>,
    logged_error: Option<String>,
    metrics: Arc<Metrics>,
    reports: watch::Sender<Report>,
}

impl<D: Dataplane, H: Host> Reconciler<D, H> {
    /// A reconciler that has programmed nothing yet.
    pub fn new(
        dataplane: D,
        host: H,
        policy: Policy,
        metrics: Arc<Metrics>,
        reports: watch::Sender<Report>,
    ) -> Self {
        Self {
            dataplane,
            host,
            policy,
            applied: None,
            ledger: Ledger::default(),
            known_rejections: BTreeSet::new(),
            known_holds: Vec::new(),
            logged_error: None,
            metrics,
            reports,
        }
    }

    /// Works until told to stop, then hands dataplane and host back.
    pub async fn run(mut self, mut inputs: Inputs) -> (D, H) {
        let mut retry = None;
        let mut feeding = true;
        loop {
            tokio::select! {
                biased;
                _ = inputs.stop.wait_for(|stop| *stop) => return (self.dataplane, self.host),
                changed = inputs.snapshots.changed(), if feeding => feeding = changed.is_ok(),
                () = self.host.changed() => {}
                () = sleep(retry.unwrap_or(RETRY_MAX)), if retry.is_some() => {}
                Some(query) = inputs.queries.recv() => {
                    self.answer(query).await;
                    continue;
                }
            }
            let published = inputs.snapshots.borrow_and_update().clone();
            let Some(published) = published else { continue };
            retry = match self.reconcile(&published).await {
                Ok(()) => None,
                Err(_) => Some(retry.map_or(RETRY_MIN, |wait: Duration| (wait * 2).min(RETRY_MAX))),
            };
        }
    }

    async fn reconcile(&mut self, published: &Published) -> Result<(), DataplaneError> {
        let snapshot = &published.snapshot;
        self.note_rejections(snapshot);
        let outcome = self.program(published).await;
        match &outcome {
            Ok(()) => {
                if self.logged_error.take().is_some() {
                    tracing::info!("the kernel takes the rules again");
                }
            }
            Err(error) => self.note_failure(error),
        }
        outcome
    }

    async fn program(&mut self, published: &Published) -> Result<(), DataplaneError> {
        let snapshot = &published.snapshot;
        let (vips, backends) = self.addresses(snapshot);
        let node = self.host.view(&vips, &backends).await?;
        let (desired, holds) = desire(snapshot, self.applied.as_deref(), &node, &self.policy);
        self.note_holds(&holds);
        // Rules of an earlier run may stand: a first view without backends must not empty them.
        if self.applied.is_none() && desired.frontends.is_empty() {
            self.report(snapshot, Phase::Waiting);
            return Ok(());
        }
        if self.applied.as_deref() != Some(&desired) {
            self.commit(desired, published).await?;
        }
        if let Some(applied) = self.applied.clone() {
            self.host.ensure_routes(&applied).await?;
        }
        self.report(snapshot, Phase::Programmed);
        Ok(())
    }

    /// Every address that the desired state may hold: published now, or programmed earlier and perhaps kept.
    fn addresses(&self, snapshot: &Snapshot) -> (BTreeSet<IpAddr>, BTreeSet<IpAddr>) {
        let mut vips = snapshot.vip_addresses();
        let mut backends: BTreeSet<IpAddr> = snapshot.backends().iter().map(|b| b.ip()).collect();
        if let Some(applied) = &self.applied {
            vips.extend(applied.frontends.iter().map(|f| f.vip.ip()));
            backends.extend(applied.backends().iter().map(|b| b.ip()));
        }
        (vips, backends)
    }

    async fn commit(&mut self, desired: DesiredState, published: &Published) -> Result<(), DataplaneError> {
        let applied = match self.dataplane.apply(&desired, self.applied.as_deref()).await {
            Ok(applied) => applied,
            Err(error) => {
                self.metrics.commit_failed();
                return Err(error);
            }
        };
        self.metrics.committed(applied.took, published.received.elapsed());
        self.ledger.update(&applied.connections_before);
        tracing::info!(
            generation = published.snapshot.generation,
            frontends = desired.frontends.len(),
            backends = desired.frontends.iter().map(|f| f.backends.len()).sum::<usize>(),
            messages = applied.steps,
            commit_us = u64::try_from(applied.took.as_micros()).unwrap_or(u64::MAX),
            "programmed table inet apivip"
        );
        self.applied = Some(Arc::new(desired));
        Ok(())
    }

    async fn answer(&mut self, query: TotalsQuery) {
        self.count().await;
        // The asker may have left.
        let _ = query.send(self.ledger.totals().clone());
    }

    async fn count(&mut self) {
        let Some(applied) = self.applied.clone() else { return };
        match self.dataplane.connections(&applied).await {
            Ok(observed) => self.ledger.update(&observed),
            Err(error) => tracing::debug!(error = %chain(&error), "read the counters"),
        }
    }

    fn note_rejections(&mut self, snapshot: &Snapshot) {
        for rejection in snapshot.rejected.difference(&self.known_rejections) {
            tracing::warn!(address = %rejection.address, port = rejection.port, reason = %rejection.reason, "left out an address that the API publishes");
            self.metrics.rejected(rejection.reason);
        }
        self.known_rejections.clone_from(&snapshot.rejected);
    }

    fn note_holds(&mut self, holds: &[Hold]) {
        for hold in holds.iter().filter(|hold| !self.known_holds.contains(hold)) {
            tracing::warn!(service = %self.policy.service, "{hold}");
        }
        if holds.is_empty() && !self.known_holds.is_empty() {
            tracing::info!(service = %self.policy.service, "the API publishes endpoints again");
        }
        self.known_holds = holds.to_vec();
    }

    fn note_failure(&mut self, error: &DataplaneError) {
        let text = chain(error);
        if self.logged_error.as_ref() != Some(&text) {
            tracing::error!(error = %text, "cannot program the kernel; what stood before still stands");
        }
        self.reports.send_modify(|report| {
            report.phase = Phase::Failed;
            report.last_error = Some(text.clone());
        });
        self.logged_error = Some(text);
    }

    fn report(&self, snapshot: &Snapshot, phase: Phase) {
        let report = Report {
            phase,
            generation: snapshot.generation,
            programmed: self.applied.clone(),
            holds: self.known_holds.clone(),
            rejected: snapshot.rejected.clone(),
            last_error: None,
        };
        self.metrics.state(&report);
        self.reports.send_replace(report);
    }
}

/// An error and its sources as one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
