//! The single owner of the dataplane: takes in health views and changes of the node, programs what follows from them,
//! has the flows of dead backends ended, retries what failed, and reports.
//!
//! In: views, node events, questions about counters. Out: commits, kill orders, and a [`Report`] after each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use crate::dataplane::flows::FlowKiller;
use crate::dataplane::{Dataplane, DataplaneError, Host};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::model::desired::{DesiredState, Hold, Policy, desire};
use crate::model::health::HealthView;
use crate::model::snapshot::{Rejection, Snapshot};
use crate::model::types::Backend;
use crate::report::{Phase, Report};

mod commit;
mod history;

use history::History;

/// A refused commit is tried again after this, doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Rare enough to be no load, often enough that a healed kernel is used soon.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A question for the totals of all backends.
pub type TotalsQuery = oneshot::Sender<BTreeMap<Backend, u64>>;

type Views = watch::Receiver<Option<HealthView>>;

/// What the reconciler is fed with.
pub struct Inputs {
    /// What the API publishes and probes say; `None` until the first full list.
    pub views: Views,
    /// Questions about counters.
    pub queries: mpsc::Receiver<TotalsQuery>,
    /// Resolves when the daemon is to stop.
    pub stop: watch::Receiver<bool>,
}

/// Owns the dataplane.
pub struct Reconciler<D, H, F> {
    dataplane: D,
    host: H,
    flows: F,
    policy: Policy,
    applied: Option<Arc<DesiredState>>,
    /// Backends whose flows are being ended, or were; `true`: without the help of a rule.
    ending: BTreeMap<Backend, bool>,
    history: History,
    ledger: Ledger,
    known_rejections: BTreeSet<Rejection>,
    known_holds: Vec<Hold>,
    logged_error: Option<String>,
    metrics: Arc<Metrics>,
    reports: watch::Sender<Report>,
}

impl<D: Dataplane, H: Host, F: FlowKiller> Reconciler<D, H, F> {
    /// A reconciler that has programmed nothing yet.
    pub fn new(
        dataplane: D,
        host: H,
        flows: F,
        policy: Policy,
        metrics: Arc<Metrics>,
        reports: watch::Sender<Report>,
    ) -> Self {
        Self {
            dataplane,
            host,
            flows,
            policy,
            applied: None,
            ending: BTreeMap::new(),
            history: History::default(),
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
                changed = inputs.views.changed(), if feeding => feeding = changed.is_ok(),
                report = self.flows.finished() => {
                    self.history.ended(&report, &self.metrics);
                    continue;
                }
                () = self.host.changed() => {}
                () = sleep(retry.unwrap_or(RETRY_MAX)), if retry.is_some() => {}
                Some(query) = inputs.queries.recv() => {
                    self.answer(query).await;
                    continue;
                }
            }
            let view = inputs.views.borrow_and_update().clone();
            let Some(view) = view else { continue };
            let mut later = inputs.views.clone();
            retry = match self.reconcile(&view, &mut later).await {
                Ok(()) => None,
                Err(_) => Some(retry.map_or(RETRY_MIN, |wait: Duration| (wait * 2).min(RETRY_MAX))),
            };
        }
    }

    async fn reconcile(&mut self, view: &HealthView, later: &mut Views) -> Result<(), DataplaneError> {
        self.note_rejections(&view.snapshot);
        self.history.look(view);
        let outcome = self.program(view, later).await;
        match &outcome {
            Ok(()) => {
                if self.logged_error.take().is_some() {
                    tracing::info!("the kernel takes the rules again");
                }
            }
            Err(error) => self.note_failure(view, error),
        }
        outcome
    }

    async fn program(&mut self, view: &HealthView, later: &mut Views) -> Result<(), DataplaneError> {
        let (vips, backends) = self.addresses(view);
        let node = self.host.view(&vips, &backends).await?;
        let (desired, holds) = desire(view, self.applied.as_deref(), &node, &self.policy);
        self.note_holds(&holds);
        // Rules of an earlier run may stand: a first view without backends must not empty them.
        if self.applied.is_none() && desired.frontends.is_empty() {
            self.report(view, Phase::Waiting);
            return Ok(());
        }
        if self.applied.as_deref() != Some(&desired) {
            self.commit(desired, view, &node, later).await?;
        }
        self.history.committed(Instant::now(), &self.metrics);
        if let Some(applied) = self.applied.clone() {
            self.end_flows(&applied, false);
            self.host.ensure_routes(&applied).await?;
        }
        self.report(view, Phase::Programmed);
        Ok(())
    }

    /// Every address that the desired state may hold: published now, or programmed earlier and perhaps kept.
    fn addresses(&self, view: &HealthView) -> (BTreeSet<IpAddr>, BTreeSet<IpAddr>) {
        let mut vips = view.snapshot.vip_addresses();
        let mut backends: BTreeSet<IpAddr> = view.snapshot.backends().iter().map(|b| b.ip()).collect();
        backends.extend(view.backends.keys().map(|b| b.ip()));
        if let Some(applied) = &self.applied {
            vips.extend(applied.frontends.iter().map(|f| f.vip.ip()));
            backends.extend(applied.backends().iter().map(|b| b.ip()));
        }
        (vips, backends)
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

    fn note_failure(&mut self, view: &HealthView, error: &DataplaneError) {
        let text = chain(error);
        if self.logged_error.as_ref() != Some(&text) {
            tracing::error!(error = %text, "cannot program the kernel; what stood before still stands");
        }
        self.reports.send_modify(|report| {
            report.phase = Phase::Failed;
            report.view = Some(view.clone());
            report.last_error = Some(text.clone());
        });
        self.logged_error = Some(text);
    }

    fn report(&self, view: &HealthView, phase: Phase) {
        let report = Report {
            phase,
            view: Some(view.clone()),
            programmed: self.applied.clone(),
            holds: self.known_holds.clone(),
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
