//! The single owner of the dataplane: takes in health views and changes of the node, programs what follows from them,
//! has the flows of dead backends ended, retries what failed, and reports.
//!
//! In: views, node events, questions about counters. Out: commits, kill orders, and a [`Report`] after each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::dataplane::flows::{FlowKiller, StaleFlows};
use crate::dataplane::{Dataplane, DataplaneError, Host, LocalVip};
use crate::metrics::Metrics;
use crate::model::desired::{DesiredState, Hold, Policy, desire};
use crate::model::forwarding::routes;
use crate::model::health::HealthView;
use crate::model::report::{Phase, Report};
use crate::model::snapshot::Rejection;
use crate::model::types::Backend;
use crate::proxy::Forward;
use crate::reconcile::ledger::Ledger;

mod commit;
mod damper;
mod history;
mod ledger;
mod news;
mod node;
mod orders;
mod path;
mod refresh;
mod repair;
mod tell;
mod telling;
mod totals;
mod wait;

use history::History;
use node::Sight;
use orders::Ordered;
pub use path::{Mode, PathError};
use path::{PROMOTE, Path};
use repair::Mender;
use tell::{Logged, chain};
pub use totals::{TotalsQuery, ask_totals};
use wait::{after, at, stopped};

/// A refused commit is tried again after this, doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Rare enough to be no load, often enough that a healed kernel is used soon.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// To look whether there are rules takes a fraction of a millisecond, unless the kernel is kept from it.
const STOOD: Duration = Duration::from_secs(1);

type Views = watch::Receiver<Option<HealthView>>;

/// What goes on while a commit waits.
struct Meanwhile<'a> {
    views: Views,
    /// The same, for the time afterwards.
    news: Views,
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
    /// A commit got no answer: the kernel may have, or come to have, other rules than `applied`.
    uncertain: bool,
    /// Rules of an earlier run may have stood in the beginning.
    stood: Option<bool>,
    mender: Mender,
    sight: Sight,
    /// When the news of the latest view was noticed that is in effect.
    answered: Option<Instant>,
    /// Backends whose flows are being ended, or were; `true`: without the help of a rule.
    ending: BTreeMap<Backend, bool>,
    /// What else was ordered.
    ordered: Ordered,
    /// Backends that died while a commit waited: it knows nothing of them, and the next one does.
    foreseen: BTreeSet<Backend>,
    /// When the kernel is told again who is dead.
    refresh_at: Instant,
    history: History,
    ledger: Ledger,
    known_rejections: BTreeSet<Rejection>,
    known_holds: Vec<Hold>,
    logged_error: Option<Logged>,
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
            uncertain: false,
            stood: None,
            mender: Mender::default(),
            sight: Sight::default(),
            answered: None,
            ending: BTreeMap::new(),
            ordered: Ordered::default(),
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
        // What was programmed last, if that is all that there is to do.
        let mut settled: Option<HealthView> = None;
        loop {
            let mut only_news = false;
            let (wait, routes_wait) = (self.mender.wait(), self.mender.routes_wait());
            let refresh_due = self.refresh_due();
            tokio::select! {
                biased;
                _ = inputs.stop.wait_for(|stop| *stop) => break,
                changed = inputs.views.changed(), if feeding => (feeding, only_news) = (changed.is_ok(), true),
                report = self.flows.finished() => {
                    self.history.ended(&report, &self.metrics, &self.reports);
                    continue;
                }
                drift = after(wait, self.dataplane.drifted()) => self.mender.begin(drift),
                () = self.sight.looked() => {}
                () = after(routes_wait, self.host.changed()) => {
                    self.sight.is_due();
                    if let Some(view) = &*inputs.views.borrow() {
                        self.look(view);
                    }
                    continue;
                }
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
            if only_news && settled.as_ref().is_some_and(|last| self.follows_the_same(last, &view)) {
                self.show(&view);
                continue;
            }
            self.path.follows(*inputs.predecessor.borrow());
            let (views, news) = (inputs.views.clone(), inputs.views.clone());
            let mut meanwhile = Meanwhile { views, news, queries: &mut inputs.queries };
            let outcome = tokio::select! {
                biased;
                outcome = self.reconcile(&view, &mut meanwhile) => outcome,
                () = stopped(&mut inputs.stop) => break,
            };
            settled = matches!(outcome, Ok(Settled::Yes)).then(|| view.clone());
            let wait = match outcome {
                Ok(Settled::Yes) => None,
                Ok(Settled::NotAll) => Some(Duration::ZERO),
                Ok(Settled::OnTheForwarder) => Some(PROMOTE),
                Err(_) => Some(retry.map_or(RETRY_MIN, |(wait, _)| (wait * 2).clamp(RETRY_MIN, RETRY_MAX))),
            };
            self.look(&view);
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
            Ok(Settled::Yes) => match self.logged_error.take() {
                Some(Logged { routes: true, .. }) => tracing::info!("the kernel takes the routes again"),
                Some(_) => tracing::info!("the kernel takes the rules again"),
                None => {}
            },
            Ok(Settled::NotAll | Settled::OnTheForwarder) => {}
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
        if self.stood.is_none() {
            self.stood = Some(timeout(STOOD, self.dataplane.is_installed()).await.unwrap_or(true));
        }
        let node = self.node(view).await;
        let (mut desired, holds) = desire(view, self.effective.as_deref(), &node, &self.policy);
        self.note_holds(&holds);
        // Rules of an earlier run may stand: a first view without backends must not empty them.
        if self.effective.is_none() && desired.frontends.is_empty() {
            self.report(view, Phase::Waiting, None);
            return Ok(Settled::Yes);
        }
        self.settle(view, &desired);
        self.forwarder.route(Arc::new(routes(view, &desired)));
        if self.path.mode == Mode::Forwarder {
            self.forward(desired, view, "--mode forwarder").await?;
            return Ok(Settled::Yes);
        }
        desired.forwarding = self.path.spares_connections();
        // Giving virtual IPs back may take the kernel seconds. A commit that is due does not wait for that.
        let mut routed = Ok(());
        let is_over = self.path.is_over(&self.forwarder);
        let delayed = is_over && self.is_to_commit(&desired);
        if is_over && !delayed {
            routed = self.path.settle(&mut self.host).await;
            if routed.is_ok() {
                self.flows.delete_stale(StaleFlows::of(&desired));
            }
            desired.forwarding = self.path.spares_connections();
        }
        if self.is_to_commit(&desired)
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
            self.effective = Some(Arc::clone(&applied));
            self.end_flows(&applied, false);
            self.move_and_ask(view, &applied);
            let made = tokio::select! {
                biased;
                made = self.route(&applied) => Some(made),
                // The next step makes them.
                Ok(()) = meanwhile.news.changed() => None,
            };
            routed = routed.and(made.unwrap_or(Ok(())));
        }
        self.mender.routes(self.host.repaired(), &self.metrics);
        routed.map_err(PathError::Routes)?;
        self.report(view, Phase::Programmed, None);
        Ok(if delayed { Settled::NotAll } else { Settled::Yes })
    }

    /// Whether the kernel has, or may have, other rules than these.
    fn is_to_commit(&self, desired: &DesiredState) -> bool {
        self.applied.as_deref() != Some(desired) || self.uncertain || self.mender.is_due()
    }

    /// Which packets the forwarder needs: where rules stand, their guard must see that it serves.
    fn claim(&self) -> LocalVip {
        match self.applied.is_some() || self.uncertain || self.stood == Some(true) {
            true => LocalVip::All,
            false => LocalVip::Ports,
        }
    }

    /// Makes what goes with the rules: new connections leave the forwarder, and this node's own have a route.
    async fn route(&mut self, applied: &DesiredState) -> Result<(), DataplaneError> {
        self.path.withdraw(&mut self.host, &mut self.forwarder, applied).await?;
        self.host.ensure_routes(applied).await
    }

    /// Lets the forwarder serve `desired`. Flows that rules of before still lead to dead backends are ended all the same.
    async fn forward(
        &mut self,
        desired: DesiredState,
        view: &HealthView,
        why: &str,
    ) -> Result<(), PathError> {
        self.end_flows(&desired, true);
        self.move_and_ask(view, &desired);
        let claim = self.claim();
        let Self { path, host, forwarder, .. } = self;
        let outcome = path.forward(host, forwarder, &desired, (claim, why)).await;
        if outcome.as_ref().is_err_and(|error| !matches!(error, PathError::Routes(_))) {
            return outcome;
        }
        let before = self.effective.clone();
        self.forget_begun(&desired, before.as_deref(), false);
        self.mender.routes(self.host.repaired(), &self.metrics);
        self.effective = Some(Arc::new(desired));
        self.in_effect(view);
        outcome?;
        self.report(view, Phase::Forwarding, None);
        Ok(())
    }
}

/// Whether the kernel has what it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Yes,
    /// Something is left that was not to be waited for.
    NotAll,
    /// The forwarder stands in: rules are to be tried again.
    OnTheForwarder,
}

#[cfg(test)]
mod tests;
