//! The single owner of the dataplane: takes in health views and changes of the node, programs what follows from them,
//! has the flows of dead backends ended, retries what failed, and reports.
//!
//! In: views, node events, questions about counters. Out: commits, kill orders, and a [`Report`] after each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::dataplane::flows::FlowKiller;
use crate::dataplane::{Dataplane, Host};
use crate::forwarder::Forward;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::model::desired::{DesiredState, Hold, Policy, desire};
use crate::model::forwarding::routes;
use crate::model::health::HealthView;
use crate::model::snapshot::Rejection;
use crate::model::types::Backend;
use crate::report::{Phase, Report};

mod commit;
mod damper;
mod history;
mod node;
mod path;
mod refresh;
mod repair;
mod tell;
mod telling;
mod totals;
mod wait;

use history::History;
use node::Seen;
pub use path::{Mode, PathError};
use path::{PROMOTE, Path};
use repair::Mender;
use tell::chain;
pub use totals::{TotalsQuery, ask_totals};
use wait::{after, at, stopped};

/// A refused commit is tried again after this, doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Rare enough to be no load, often enough that a healed kernel is used soon.
const RETRY_MAX: Duration = Duration::from_secs(5);

type Views = watch::Receiver<Option<HealthView>>;

/// What goes on while a commit waits.
struct Meanwhile<'a> {
    views: Views,
    queries: &'a mut mpsc::Receiver<TotalsQuery>,
}

/// What the reconciler is fed with.
pub struct Inputs {
    /// What the API publishes and probes say; `None` until the first full list.
    pub views: Views,
    /// Questions about counters.
    pub queries: mpsc::Receiver<TotalsQuery>,
    /// Resolves when the daemon is to stop.
    pub stop: watch::Receiver<bool>,
    /// True while another daemon drains, whose connections need the virtual IPs on this node.
    pub predecessor: watch::Receiver<bool>,
}

/// What the reconciler acts upon.
pub struct Parts<D, H, F, W> {
    /// Rules.
    pub dataplane: D,
    /// Routes and addresses.
    pub host: H,
    /// Flows of dead backends.
    pub flows: F,
    /// What stands in for rules.
    pub forwarder: W,
}

/// Owns the dataplane.
pub struct Reconciler<D, H, F, W> {
    dataplane: D,
    host: H,
    flows: F,
    forwarder: W,
    path: Path,
    policy: Policy,
    /// What is in effect, by rules or by the forwarder.
    effective: Option<Arc<DesiredState>>,
    /// What the kernel's rules are.
    applied: Option<Arc<DesiredState>>,
    /// No other program may change these rules.
    owned: bool,
    mender: Mender,
    /// The node as it was seen last, unless it may have changed since.
    seen: Option<Seen>,
    /// When the news of the latest view was noticed that is in effect.
    answered: Option<Instant>,
    /// Backends whose flows are being ended, or were; `true`: without the help of a rule.
    ending: BTreeMap<Backend, bool>,
    /// Backends that died while a commit waited: it knows nothing of them, and the next one does.
    foreseen: BTreeSet<Backend>,
    /// When the kernel is told again who is dead.
    refresh_at: Instant,
    history: History,
    ledger: Ledger,
    known_rejections: BTreeSet<Rejection>,
    known_holds: Vec<Hold>,
    logged_error: Option<String>,
    metrics: Arc<Metrics>,
    reports: watch::Sender<Report>,
}

impl<D: Dataplane, H: Host, F: FlowKiller, W: Forward> Reconciler<D, H, F, W> {
    /// A reconciler that has programmed nothing yet. `inherited`: the forwarder took listeners of virtual IPs over.
    pub fn new(
        parts: Parts<D, H, F, W>,
        (mode, inherited): (Mode, bool),
        policy: Policy,
        metrics: Arc<Metrics>,
        reports: watch::Sender<Report>,
    ) -> Self {
        let Parts { dataplane, host, flows, forwarder } = parts;
        Self {
            dataplane,
            host,
            flows,
            forwarder,
            path: Path::new(mode, inherited),
            policy,
            effective: None,
            applied: None,
            owned: false,
            mender: Mender::default(),
            seen: None,
            answered: None,
            ending: BTreeMap::new(),
            foreseen: BTreeSet::new(),
            refresh_at: Instant::now(),
            history: History::default(),
            ledger: Ledger::default(),
            known_rejections: BTreeSet::new(),
            known_holds: Vec::new(),
            logged_error: None,
            metrics,
            reports,
        }
    }

    /// Works until told to stop, then hands its parts back.
    pub async fn run(mut self, mut inputs: Inputs) -> Parts<D, H, F, W> {
        // How long it was waited for the last time, and until when this time: whoever asks for counters meanwhile puts it off no
        // further.
        let mut retry: Option<(Duration, Instant)> = None;
        let mut feeding = true;
        loop {
            let (wait, routes_wait) = (self.mender.wait(), self.mender.routes_wait());
            let refresh_due = self.refresh_due();
            tokio::select! {
                biased;
                _ = inputs.stop.wait_for(|stop| *stop) => break,
                changed = inputs.views.changed(), if feeding => feeding = changed.is_ok(),
                report = self.flows.finished() => {
                    self.history.ended(&report, &self.metrics, &self.reports);
                    continue;
                }
                drift = after(wait, self.dataplane.drifted()) => self.mender.begin(drift),
                () = after(routes_wait, self.host.changed()) => self.seen = None,
                () = self.forwarder.emptied() => {}
                Ok(_) = inputs.predecessor.wait_for(|drains| !*drains), if self.path.waits_for_predecessor => {}
                () = at(self.mender.sums_due()) => {
                    self.mender.tell_sums();
                    continue;
                }
                () = at(refresh_due) => {
                    self.refresh().await;
                    continue;
                }
                () = at(retry.map(|(_, due)| due)) => {}
                Some(query) = inputs.queries.recv() => {
                    self.answer(query).await;
                    continue;
                }
            }
            let view = inputs.views.borrow_and_update().clone();
            let Some(view) = view else { continue };
            self.path.follows(*inputs.predecessor.borrow());
            let mut meanwhile = Meanwhile { views: inputs.views.clone(), queries: &mut inputs.queries };
            let outcome = tokio::select! {
                biased;
                outcome = self.reconcile(&view, &mut meanwhile) => outcome,
                () = stopped(&mut inputs.stop) => break,
            };
            let wait = match outcome {
                Ok(Settled::Yes) => None,
                Ok(Settled::OnTheForwarder) => Some(PROMOTE),
                Err(_) => Some(retry.map_or(RETRY_MIN, |(wait, _)| (wait * 2).min(RETRY_MAX))),
            };
            retry = wait.map(|wait| (wait, tokio::time::Instant::now().into_std() + wait));
        }
        let Self { dataplane, host, flows, forwarder, .. } = self;
        Parts { dataplane, host, flows, forwarder }
    }

    async fn reconcile(
        &mut self,
        view: &HealthView,
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<Settled, PathError> {
        self.note_rejections(&view.snapshot);
        self.history.look(view);
        let outcome = self.program(view, meanwhile).await;
        match &outcome {
            Ok(Settled::Yes) => {
                if self.logged_error.take().is_some() {
                    tracing::info!("the kernel takes the rules again");
                }
            }
            Ok(Settled::OnTheForwarder) => {}
            Err(error) => self.note_failure(view, error),
        }
        outcome
    }

    async fn program(
        &mut self,
        view: &HealthView,
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<Settled, PathError> {
        self.foreseen.clear();
        let node = self.node(view).await?;
        let (mut desired, holds) = desire(view, self.effective.as_deref(), &node, &self.policy);
        self.note_holds(&holds);
        // Rules of an earlier run may stand: a first view without backends must not empty them.
        if self.effective.is_none() && desired.frontends.is_empty() {
            self.report(view, Phase::Waiting);
            return Ok(Settled::Yes);
        }
        self.forwarder.route(Arc::new(routes(view, &desired)));
        if self.path.mode == Mode::Forwarder {
            self.forward(desired, view, "--mode forwarder").await?;
            return Ok(Settled::Yes);
        }
        if self.path.settle(&mut self.host, &self.forwarder).await? {
            self.flows.forget(desired.vips());
        }
        desired.forwarding = self.path.spares_connections();
        if (self.applied.as_deref() != Some(&desired) || self.mender.is_due())
            && let Err(error) = self.commit(desired.clone(), view, &node, meanwhile).await
        {
            if !self.path.refused() {
                return Err(error.into());
            }
            self.forward(desired, view, &chain(&error)).await?;
            return Ok(Settled::OnTheForwarder);
        }
        self.in_effect(view);
        if let Some(applied) = self.applied.clone() {
            self.path.withdraw(&mut self.host, &mut self.forwarder, &applied).await?;
            self.effective = Some(Arc::clone(&applied));
            self.end_flows(&applied, false);
            self.host.ensure_routes(&applied).await?;
        }
        self.mender.routes(self.host.repaired(), &self.metrics);
        self.report(view, Phase::Programmed);
        Ok(Settled::Yes)
    }

    /// Lets the forwarder serve `desired`. Flows that rules of before still lead to dead backends are ended all the same.
    async fn forward(
        &mut self,
        desired: DesiredState,
        view: &HealthView,
        why: &str,
    ) -> Result<(), PathError> {
        let Self { path, host, forwarder, .. } = self;
        path.forward(host, forwarder, &desired, why).await?;
        self.end_flows(&desired, true);
        self.mender.routes(self.host.repaired(), &self.metrics);
        self.effective = Some(Arc::new(desired));
        self.in_effect(view);
        self.report(view, Phase::Forwarding);
        Ok(())
    }
}

/// Whether the kernel has what it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Yes,
    /// The forwarder stands in: rules are to be tried again.
    OnTheForwarder,
}

#[cfg(test)]
mod tests;
