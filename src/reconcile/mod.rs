//! The single owner of the dataplane: takes in health views and changes of the node, programs what follows from them,
//! has the flows of dead backends terminated, retries what failed, and reports.
//!
//! In: views, node events, counter queries. Out: commits, flow orders, and a [`Report`] after each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};

use crate::dataplane::LocalVip;
use crate::dataplane::flows::{FlowKiller, StaleFlows};
use crate::dataplane::{Dataplane, DataplaneError, Host};
use crate::metrics::Metrics;
use crate::model::desired::{DesiredState, FailOpenReason, Policy, compute_desired_state};
use crate::model::health::HealthView;
use crate::model::proxy_routes::proxy_routes;
use crate::model::report::{Phase, Report};
use crate::model::snapshot::Rejection;
use crate::model::types::Backend;
use crate::proxy::Forward;

mod commit;
mod counters;
mod drift;
mod node;
mod path;
mod report;
mod transitions;

use commit::FlowOrders;
use counters::ConnectionTotals;
pub use counters::{TotalsQuery, query_totals};
use drift::DriftRepair;
use node::NodeObserver;
pub use path::{Mode, PathError};
use path::{PathSwitch, RULES_RETRY};
use report::LoggedError;
pub(crate) use report::error_chain;
use transitions::TransitionLog;

/// A refused commit is tried again after this, doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Rare enough to be no load, often enough that a healed kernel is used soon.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Checking for existing rules takes a fraction of a millisecond, unless nf_tables is locked.
const EXISTING_RULES_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a step may go on after a stop. It takes milliseconds, unless a commit waits for another program's.
const LAST_STEP: Duration = Duration::from_millis(300);

type Views = watch::Receiver<Option<HealthView>>;

/// What is still handled while a commit is blocked.
struct DuringCommit<'a> {
    views: Views,
    /// The same, for the time afterwards.
    news: Views,
    queries: &'a mut mpsc::Receiver<TotalsQuery>,
}

/// The inputs of the reconciler.
pub struct Inputs {
    /// What the API publishes and probes say; `None` until the first full list.
    pub views: Views,
    /// Counter queries.
    pub queries: mpsc::Receiver<TotalsQuery>,
    /// Resolves when the daemon is to stop.
    pub stop: watch::Receiver<bool>,
    /// True while another daemon drains, whose connections need the virtual IPs on this node.
    pub predecessor: watch::Receiver<bool>,
}

/// The adapters that the reconciler drives.
pub struct Parts<D, H, F, W> {
    /// Rules.
    pub dataplane: D,
    /// Routes and addresses.
    pub host: H,
    /// Flows of dead backends.
    pub flows: F,
    /// The fallback for rules.
    pub forwarder: W,
}

/// Owns the dataplane.
pub struct Reconciler<D, H, F, W> {
    dataplane: D,
    host: H,
    flows: F,
    forwarder: W,
    path: PathSwitch,
    policy: Policy,
    /// What is in effect, by rules or by the forwarder.
    effective: Option<Arc<DesiredState>>,
    /// What the kernel's rules are.
    applied: Option<Arc<DesiredState>>,
    /// Other programs cannot change these rules (`NFT_TABLE_F_OWNER`).
    owned: bool,
    /// A commit got no reply: the kernel may have, or may get, other rules than `applied`.
    uncertain: bool,
    /// Rules of an earlier run may have stood in the beginning.
    existing_rules: Option<bool>,
    drift_repair: DriftRepair,
    node_observer: NodeObserver,
    /// When the news of the latest view was noticed that is in effect.
    effective_since: Option<Instant>,
    /// Backends whose flows are being ended, or were; `true`: without the help of a rule.
    ending: BTreeMap<Backend, bool>,
    /// What else was ordered.
    flow_orders: FlowOrders,
    /// Backends that died while a commit was blocked: the next commit includes them.
    dead_early: BTreeSet<Backend>,
    /// When the set of dead backends is refreshed in the kernel.
    refresh_at: Instant,
    transitions: TransitionLog,
    totals: ConnectionTotals,
    known_rejections: BTreeSet<Rejection>,
    known_fail_open: Vec<FailOpenReason>,
    logged_error: Option<LoggedError>,
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
            path: PathSwitch::new(mode, inherited),
            policy,
            effective: None,
            applied: None,
            owned: false,
            uncertain: false,
            existing_rules: None,
            drift_repair: DriftRepair::default(),
            node_observer: NodeObserver::default(),
            effective_since: None,
            ending: BTreeMap::new(),
            flow_orders: FlowOrders::default(),
            dead_early: BTreeSet::new(),
            refresh_at: Instant::now(),
            transitions: TransitionLog::default(),
            totals: ConnectionTotals::default(),
            known_rejections: BTreeSet::new(),
            known_fail_open: Vec::new(),
            logged_error: None,
            metrics,
            reports,
        }
    }

    /// Runs until stopped, then returns its parts.
    pub async fn run(mut self, mut inputs: Inputs) -> Parts<D, H, F, W> {
        // The last delay, and the deadline of this one: counter queries meanwhile do not put it off any
        // further.
        let mut retry: Option<(Duration, Instant)> = None;
        let mut feeding = true;
        // The view that was programmed last, if nothing is left to do.
        let mut settled: Option<HealthView> = None;
        loop {
            let mut only_news = false;
            let (wait, routes_wait) = (self.drift_repair.wait(), self.drift_repair.routes_wait());
            let refresh_due = self.refresh_due();
            tokio::select! {
                biased;
                _ = inputs.stop.wait_for(|stop| *stop) => break,
                changed = inputs.views.changed(), if feeding => (feeding, only_news) = (changed.is_ok(), true),
                report = self.flows.finished() => {
                    self.transitions.ended(&report, &self.metrics, &self.reports);
                    continue;
                }
                drift = after(wait, self.dataplane.drifted()) => self.drift_repair.begin(drift),
                () = self.node_observer.lookup_finished() => {}
                () = after(routes_wait, self.host.changed()) => {
                    self.node_observer.request_lookup();
                    if let Some(view) = &*inputs.views.borrow() {
                        self.look_up_node(view);
                    }
                    continue;
                }
                () = self.forwarder.emptied() => {}
                Ok(_) = inputs.predecessor.wait_for(|drains| !*drains), if self.path.waits_for_predecessor => {}
                () = at(self.drift_repair.summary_due()) => {
                    self.drift_repair.log_summaries();
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
            if only_news && settled.as_ref().is_some_and(|last| self.has_same_rules(last, &view)) {
                self.report_view(&view);
                continue;
            }
            self.path.follows(*inputs.predecessor.borrow());
            let (views, news) = (inputs.views.clone(), inputs.views.clone());
            let mut during_commit = DuringCommit { views, news, queries: &mut inputs.queries };
            let outcome = tokio::select! {
                biased;
                outcome = self.reconcile(&view, &mut during_commit) => outcome,
                () = stopped(&mut inputs.stop) => break,
            };
            settled = matches!(outcome, Ok(StepOutcome::Done)).then(|| view.clone());
            let wait = match outcome {
                Ok(StepOutcome::Done) => None,
                Ok(StepOutcome::Incomplete) => Some(Duration::ZERO),
                Ok(StepOutcome::FallbackActive) => Some(RULES_RETRY),
                Err(_) => Some(retry.map_or(RETRY_MIN, |(wait, _)| (wait * 2).clamp(RETRY_MIN, RETRY_MAX))),
            };
            self.look_up_node(&view);
            retry = wait.map(|wait| (wait, tokio::time::Instant::now().into_std() + wait));
        }
        let Self { dataplane, host, flows, forwarder, .. } = self;
        Parts { dataplane, host, flows, forwarder }
    }

    async fn reconcile(
        &mut self,
        view: &HealthView,
        during_commit: &mut DuringCommit<'_>,
    ) -> Result<StepOutcome, PathError> {
        self.note_rejections(&view.snapshot);
        self.transitions.observe(view);
        let outcome = self.program(view, during_commit).await;
        match &outcome {
            Ok(StepOutcome::Done) => match self.logged_error.take() {
                Some(LoggedError { routes: true, .. }) => {
                    tracing::info!(event = %"routes_recovered", "Kernel accepts routes again");
                }
                Some(_) => tracing::info!(event = %"rules_recovered", "Kernel accepts rules again"),
                None => {}
            },
            Ok(StepOutcome::Incomplete | StepOutcome::FallbackActive) => {}
            Err(error) => self.note_failure(view, error),
        }
        outcome
    }

    async fn program(
        &mut self,
        view: &HealthView,
        during_commit: &mut DuringCommit<'_>,
    ) -> Result<StepOutcome, PathError> {
        self.dead_early.clear();
        if self.existing_rules.is_none() {
            self.existing_rules =
                Some(timeout(EXISTING_RULES_TIMEOUT, self.dataplane.is_installed()).await.unwrap_or(true));
        }
        let node = self.node(view).await;
        let (mut desired, fail_open) =
            compute_desired_state(view, self.effective.as_deref(), &node, &self.policy);
        self.note_fail_open(&fail_open);
        // Rules of an earlier run may stand: a first view without backends must not empty them.
        if self.effective.is_none() && desired.frontends.is_empty() {
            self.report(view, Phase::Waiting, None);
            return Ok(StepOutcome::Done);
        }
        self.stop_rerouting(view, &desired);
        self.forwarder.route(Arc::new(proxy_routes(view, &desired)));
        if self.path.mode == Mode::Forwarder {
            self.forward(desired, view, "--mode forwarder").await?;
            return Ok(StepOutcome::Done);
        }
        desired.forwarding = self.path.keeps_proxied_connections();
        // Releasing virtual IPs may take the kernel seconds. A commit that is due does not wait for that.
        let mut routed = Ok(());
        let can_release = self.path.can_release(&self.forwarder);
        let delayed = can_release && self.is_to_commit(&desired);
        if can_release && !delayed {
            routed = self.path.release_local_vips(&mut self.host).await;
            if routed.is_ok() {
                self.flows.delete_stale(StaleFlows::of(&desired));
            }
            desired.forwarding = self.path.keeps_proxied_connections();
        }
        if self.is_to_commit(&desired)
            && let Err(error) = self.commit(desired.clone(), view, &node, during_commit).await
        {
            if !self.path.refused() {
                return Err(error.into());
            }
            self.forward(desired, view, &error_chain(&error)).await?;
            return Ok(StepOutcome::FallbackActive);
        }
        self.took_effect(view);
        let mut interrupted = false;
        if let Some(applied) = self.applied.clone() {
            self.effective = Some(Arc::clone(&applied));
            self.end_flows(&applied, false);
            self.move_and_challenge(view, &applied);
            let made = tokio::select! {
                biased;
                made = self.route(&applied) => Some(made),
                // The next step makes them.
                Ok(()) = during_commit.news.changed() => None,
            };
            interrupted = made.is_none();
            routed = routed.and(made.unwrap_or(Ok(())));
        }
        self.drift_repair.routes(self.host.repaired(), &self.metrics);
        routed.map_err(PathError::Routes)?;
        // Whoever waits for the first time that all is programmed must not go ahead without the routes.
        if !interrupted || self.reports.borrow().phase == Phase::Programmed {
            self.report(view, Phase::Programmed, None);
        }
        Ok(if delayed { StepOutcome::Incomplete } else { StepOutcome::Done })
    }

    /// Whether the kernel has, or may have, other rules than these.
    fn is_to_commit(&self, desired: &DesiredState) -> bool {
        self.applied.as_deref() != Some(desired) || self.uncertain || self.drift_repair.is_due()
    }

    /// Which packets must be delivered locally for the forwarder: where rules exist, their guard must see the local route.
    fn local_packets(&self) -> LocalVip {
        match self.applied.is_some() || self.uncertain || self.existing_rules == Some(true) {
            true => LocalVip::All,
            false => LocalVip::Ports,
        }
    }

    /// Makes the routes that go with the rules: new connections leave the forwarder, and this node's own have a route.
    async fn route(&mut self, applied: &DesiredState) -> Result<(), DataplaneError> {
        self.path.withdraw(&mut self.host, &mut self.forwarder, applied).await?;
        self.host.ensure_routes(applied).await
    }

    /// Lets the forwarder serve `desired`. Flows that earlier rules still send to dead backends are terminated all the same.
    async fn forward(
        &mut self,
        desired: DesiredState,
        view: &HealthView,
        why: &str,
    ) -> Result<(), PathError> {
        self.end_flows(&desired, true);
        self.move_and_challenge(view, &desired);
        let packets = self.local_packets();
        let Self { path, host, forwarder, .. } = self;
        let outcome = path.forward(host, forwarder, &desired, (packets, why)).await;
        if outcome.as_ref().is_err_and(|error| !matches!(error, PathError::Routes(_))) {
            return outcome;
        }
        let before = self.effective.clone();
        self.forget_stale(&desired, before.as_deref(), false);
        self.drift_repair.routes(self.host.repaired(), &self.metrics);
        self.effective = Some(Arc::new(desired));
        self.took_effect(view);
        outcome?;
        self.report(view, Phase::Forwarding, None);
        Ok(())
    }
}

/// Whether the kernel has what it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepOutcome {
    Done,
    /// Something is left to do that could not wait.
    Incomplete,
    /// The forwarder is the fallback: the commit is to be retried.
    FallbackActive,
}

/// Begins withsomething after a while.
async fn after<T>(wait: Duration, what: impl Future<Output = T>) -> T {
    // Even a sleep of no length takes the runtime's timer a millisecond.
    if !wait.is_zero() {
        sleep(wait).await;
    }
    what.await
}

/// Resolves then; never, if there is no such moment.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// Resolves a moment after a stop was requested.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
    sleep(LAST_STEP).await;
}

/// The runtime's clock, which tests stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
