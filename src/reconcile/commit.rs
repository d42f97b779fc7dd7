//! Commits: one commit, the flow orders that follow from it or that cannot wait for it, and the refresh of the set of dead
//! backends.
//!
//! In: views and what is in effect. Out: the kernel's rules; orders to move, check or end flows, each once for what a view
//! says, and cancellations of those that are no longer due.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::drift::LogDecision;
use super::path::{COMMIT_BOUND, Mode};
use super::{DuringCommit, Reconciler, error_chain, now};
use crate::dataplane::flows::{FlowKiller, FlowOrder, Purpose, StaleFlows};
use crate::dataplane::{Applied, Dataplane, DataplaneError, Host};
use crate::model::desired::{DesiredState, NodeView, compute_desired_state};
use crate::model::health::HealthView;
use crate::model::proxy_routes::proxy_routes;
use crate::model::report::{Phase, TrafficPath};
use crate::model::types::{Backend, Vip};
use crate::proxy::Forward;

/// A commit that takes longer is blocked by another program's transaction. Flows of a dead backend are terminated without it.
const COMMIT_PATIENCE: Duration = Duration::from_millis(500);
/// Why the forwarder takes over while a commit is still under way.
const COMMIT_BLOCKED: &str = "another program has locked nf_tables for longer than 10 s";

impl<D: Dataplane, H: Host, F: FlowKiller, W: Forward> Reconciler<D, H, F, W> {
    pub(super) async fn commit(
        &mut self,
        desired: DesiredState,
        view: &HealthView,
        node: &NodeView,
        during_commit: &mut DuringCommit<'_>,
    ) -> Result<(), DataplaneError> {
        let applied = match self.apply(&desired, node, during_commit).await {
            Ok(applied) => applied,
            Err(error) => {
                self.metrics.commit_failed(error.label());
                self.uncertain |= error.leaves_unknown();
                self.end_flows(&desired, true);
                return Err(error);
            }
        };
        // What is made again, later, is no reaction to this view.
        let is_first = self.effective_since != Some(view.noticed);
        self.metrics.committed(applied.took, is_first.then(|| view.noticed.elapsed()));
        self.totals.update(&applied.connections_before);
        let is_repair = self.drift_repair.is_due();
        let is_summarized = self
            .drift_repair
            .applied(&self.metrics)
            .is_some_and(|decision| decision != LogDecision::Individually);
        // A rehearsal takes no step.
        if applied.steps > 0 && !is_summarized {
            tracing::info!(
                event = %"rules_programmed",
                generation = view.snapshot.generation,
                frontends = desired.frontends.len(),
                backends = desired.frontends.iter().map(|f| f.backends.len()).sum::<usize>(),
                messages = applied.steps,
                duration_us = u64::try_from(applied.took.as_micros()).unwrap_or(u64::MAX),
                "Programmed rules"
            );
        }
        if is_repair {
            // A client that connected while there were no rules would keep sending SYNs to the virtual IP itself.
            self.flows.delete_stale(StaleFlows::of(&desired));
        } else {
            let before = self.applied.clone();
            self.forget_stale(&desired, before.as_deref(), !desired.forwarding);
        }
        self.applied = Some(Arc::new(desired));
        self.owned = applied.owned;
        self.uncertain = false;
        self.refreshed();
        Ok(())
    }

    /// The same holds for a client that connected before a virtual IP, a port or a family was served for the first time.
    pub(super) fn forget_stale(&mut self, state: &DesiredState, before: Option<&DesiredState>, ended: bool) {
        let begun = StaleFlows::newly_translated(state, before, ended);
        if !begun.is_empty() {
            self.flows.delete_stale(begun);
        }
    }

    /// Waits for the commit. If that takes long, flows of backends that are dead now, or die meanwhile, are
    /// terminated without it.
    async fn apply(
        &mut self,
        desired: &DesiredState,
        node: &NodeView,
        during_commit: &mut DuringCommit<'_>,
    ) -> Result<Applied, DataplaneError> {
        let (before, last, packets) = (self.applied.clone(), self.effective.clone(), self.local_packets());
        let Self {
            dataplane,
            flows,
            ending,
            dead_early,
            policy,
            path,
            host,
            forwarder,
            reports,
            totals,
            transitions,
            metrics,
            ..
        } = self;
        let DuringCommit { views, queries, .. } = during_commit;
        let mut apply = std::pin::pin!(dataplane.apply(desired, before.as_deref()));
        let mut patience = std::pin::pin!(sleep(COMMIT_PATIENCE));
        let mut late = std::pin::pin!(sleep(COMMIT_PATIENCE + COMMIT_BOUND));
        let (mut waits, mut watching) = (false, true);
        let mut fallback_active = path.in_use == TrafficPath::Forwarder;
        loop {
            tokio::select! {
                biased;
                outcome = &mut apply => return outcome,
                Some(query) = queries.recv() => {
                    // The kernel's counters wait with the commit. The asker may have left.
                    let _ = query.send(totals.totals().clone());
                    continue;
                }
                report = flows.finished() => {
                    transitions.ended(&report, metrics, reports);
                    continue;
                }
                () = &mut patience, if !waits => {
                    waits = true;
                    tracing::warn!(
                        event = %"nftables_busy",
                        "Another program holds nf_tables, waiting to program rules"
                    );
                    order(flows, ending, &desired.failed(), true);
                }
                changed = views.changed(), if watching && waits => watching = changed.is_ok(),
                () = &mut late, if !fallback_active && path.mode == Mode::Auto => {
                    fallback_active = true;
                    match path.forward(host, forwarder, desired, (packets, COMMIT_BLOCKED)).await {
                        Ok(()) => reports.send_modify(|report| {
                            report.phase = Phase::Forwarding;
                            report.path = Some(path.report());
                        }),
                        Err(error) => {
                            tracing::error!(
                                event = %"forwarder_failed", error = %error_chain(&error),
                                "Failed to activate forwarder"
                            );
                        }
                    }
                }
            }
            let view = views.borrow_and_update().clone();
            if let Some(view) = view {
                transitions.preview(&view);
                let latest = compute_desired_state(&view, last.as_deref(), node, policy).0;
                forwarder.route(Arc::new(proxy_routes(&view, &latest)));
                let dead = latest.failed();
                order(flows, ending, &dead, true);
                *dead_early = dead.into_keys().collect();
            }
        }
    }
}

/// What was ordered besides ends.
#[derive(Debug, Default)]
pub(super) struct FlowOrders {
    /// Connections that were being opened to these were moved when they left the path.
    moved: BTreeSet<Backend>,
    /// When the flows of these were last to be challenged.
    challenged: BTreeMap<Backend, Instant>,
}

impl<D: Dataplane, H: Host, F: FlowKiller, W: Forward> Reconciler<D, H, F, W> {
    /// Orders the termination of flows of `state`'s dead backends, each once, and cancels it for backends that are no
    /// longer dead.
    pub(super) fn end_flows(&mut self, state: &DesiredState, own_reset: bool) {
        let dead = state.failed();
        let stays = |backend: &Backend| dead.contains_key(backend) || self.dead_early.contains(backend);
        for backend in self.ending.keys().filter(|backend| !stays(backend)) {
            self.flows.cancel(*backend);
        }
        self.ending.retain(|backend, _| stays(backend));
        order(&mut self.flows, &mut self.ending, &dead, own_reset);
    }

    /// A backend that responds again completes the connections that are being opened to it: they must not be moved any more.
    pub(super) fn stop_rerouting(&mut self, view: &HealthView, desired: &DesiredState) {
        let used = desired.backends();
        let is_silent =
            |backend: &Backend| view.backends.get(backend).is_some_and(|h| h.silent_since.is_some());
        for backend in
            self.flow_orders.moved.iter().filter(|backend| used.contains(backend) || !is_silent(backend))
        {
            self.flows.stop_rerouting(*backend);
        }
    }

    /// Backends that left the rotation lose the connections that are being opened (SYN_SENT), and flows that are due
    /// are challenged. New connections go to other backends already.
    pub(super) fn move_and_challenge(&mut self, view: &HealthView, state: &DesiredState) {
        let used = state.backends();
        let FlowOrders { moved, challenged } = &mut self.flow_orders;
        let is_out = |backend: &Backend| view.backends.get(backend).is_some_and(|h| h.state.is_out());
        moved.retain(is_out);
        challenged.retain(|backend, _| view.backends.contains_key(backend));
        for (backend, health) in &view.backends {
            // Where no backend answered, one that stayed in use leaves the rotation when the first one responds: it
            // may respond, too, in a moment.
            let leaves = is_out(backend) && moved.insert(*backend);
            let moves = leaves && !used.contains(backend) && !self.ending.contains_key(backend);
            let challenges =
                health.challenge_at.filter(|at| challenged.insert(*backend, *at) != Some(*at)).is_some();
            let purpose = match (challenges, moves) {
                (true, _) => Purpose::Challenge,
                (false, true) => Purpose::Reroute,
                (false, false) => continue,
            };
            let vips = state.vips().into_iter().collect();
            self.flows.start(FlowOrder { backend: *backend, vips, purpose });
        }
    }
}

/// Orders the end of the flows of those that are not in `ending` yet, or are there without a rule and now have one.
pub(super) fn order<F: FlowKiller>(
    flows: &mut F,
    ending: &mut BTreeMap<Backend, bool>,
    dead: &BTreeMap<Backend, Vec<Vip>>,
    own_reset: bool,
) {
    for (backend, vips) in dead {
        let under_way = ending.get(backend).is_some_and(|without_rule| own_reset || !without_rule);
        if !under_way {
            ending.insert(*backend, own_reset);
            let purpose = Purpose::Reset { own_reset };
            flows.start(FlowOrder { backend: *backend, vips: vips.clone(), purpose });
        }
    }
}

/// A third of the time that the kernel remembers it for.
const REFRESH_INTERVAL: Duration = Duration::from_secs(20);
/// After one that did not succeed.
const REFRESH_RETRY: Duration = Duration::from_secs(5);
/// It takes a fraction of a millisecond, unless another program holds nf_tables; then it is done later.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(1);

impl<D: Dataplane, H, F, W> Reconciler<D, H, F, W> {
    /// When the set is to be refreshed, if it is not empty.
    pub(super) fn refresh_due(&self) -> Option<Instant> {
        let applied = self.applied.as_ref()?;
        applied.frontends.iter().any(|frontend| !frontend.failed.is_empty()).then_some(self.refresh_at)
    }

    /// The set was just refreshed.
    pub(super) fn refreshed(&mut self) {
        self.refresh_at = now() + REFRESH_INTERVAL;
    }

    /// Refreshes the set. Rules may be older than the latest view: backends whose flows are not being terminated any
    /// more are left out.
    pub(super) async fn refresh(&mut self) {
        let dead: BTreeSet<Backend> = self.ending.keys().copied().collect();
        match timeout(REFRESH_TIMEOUT, self.dataplane.refresh(&dead)).await {
            Ok(Ok(())) => return self.refreshed(),
            Ok(Err(error)) => {
                tracing::debug!(
                    event = %"failed_set_refresh_failed", error = %error_chain(&error),
                    "Failed to refresh set of failed API servers"
                );
            }
            Err(_) => tracing::debug!(
                event = %"failed_set_refresh_timeout",
                "Timed out refreshing set of failed API servers"
            ),
        }
        self.refresh_at = now() + REFRESH_RETRY;
    }
}
