//! One commit, and the ends of flows that follow from it, or that cannot wait for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::orders::order;
use super::path::{COMMIT_BOUND, Mode};
use super::telling::Told;
use super::{Meanwhile, Reconciler, chain};
use crate::dataplane::flows::{FlowKiller, StaleFlows};
use crate::dataplane::{Applied, Dataplane, DataplaneError, Host};
use crate::model::desired::{DesiredState, NodeView, desire};
use crate::model::forwarding::routes;
use crate::model::health::HealthView;
use crate::model::report::{InUse, Phase};
use crate::proxy::Forward;

/// A commit that takes longer waits for another program's. The clients of a dead backend do not wait with it.
const PATIENCE: Duration = Duration::from_millis(500);
/// Why the forwarder takes over while a commit is still under way.
const WAITS: &str = "another program holds nf_tables for longer than 10 s";

impl<D: Dataplane, H: Host, F: FlowKiller, W: Forward> Reconciler<D, H, F, W> {
    pub(super) async fn commit(
        &mut self,
        desired: DesiredState,
        view: &HealthView,
        node: &NodeView,
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<(), DataplaneError> {
        let applied = match self.apply(&desired, node, meanwhile).await {
            Ok(applied) => applied,
            Err(error) => {
                self.metrics.commit_failed(error.label());
                self.uncertain |= error.leaves_unknown();
                self.end_flows(&desired, true);
                return Err(error);
            }
        };
        // What is made again, later, is no reaction to this view.
        let is_first = self.answered != Some(view.noticed);
        self.metrics.committed(applied.took, is_first.then(|| view.noticed.elapsed()));
        self.ledger.update(&applied.connections_before);
        let is_repair = self.mender.is_due();
        let is_summed_up = self.mender.applied(&self.metrics).is_some_and(|told| told != Told::Alone);
        // A rehearsal takes no step.
        if applied.steps > 0 && !is_summed_up {
            tracing::info!(
                generation = view.snapshot.generation,
                frontends = desired.frontends.len(),
                backends = desired.frontends.iter().map(|f| f.backends.len()).sum::<usize>(),
                messages = applied.steps,
                commit_us = u64::try_from(applied.took.as_micros()).unwrap_or(u64::MAX),
                "programmed table inet apivip"
            );
        }
        if is_repair {
            // Who dialled while there were no rules would go on dialling the virtual IP itself.
            self.flows.delete_stale(StaleFlows::of(&desired));
        } else {
            let before = self.applied.clone();
            self.forget_begun(&desired, before.as_deref(), !desired.forwarding);
        }
        self.applied = Some(Arc::new(desired));
        self.owned = applied.owned;
        self.uncertain = false;
        self.refreshed();
        Ok(())
    }

    /// So would who dialled before a virtual IP, a port or a family was served for the first time.
    pub(super) fn forget_begun(&mut self, state: &DesiredState, before: Option<&DesiredState>, ended: bool) {
        let begun = StaleFlows::newly_translated(state, before, ended);
        if !begun.is_empty() {
            self.flows.delete_stale(begun);
        }
    }

    /// Waits for the commit. If that takes long, flows of those that are dead now, or die meanwhile, are ended without.
    async fn apply(
        &mut self,
        desired: &DesiredState,
        node: &NodeView,
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<Applied, DataplaneError> {
        let (before, last, claim) = (self.applied.clone(), self.effective.clone(), self.claim());
        let Self {
            dataplane,
            flows,
            ending,
            foreseen,
            policy,
            path,
            host,
            forwarder,
            reports,
            ledger,
            history,
            metrics,
            ..
        } = self;
        let Meanwhile { views, queries, .. } = meanwhile;
        let mut apply = std::pin::pin!(dataplane.apply(desired, before.as_deref()));
        let mut patience = std::pin::pin!(sleep(PATIENCE));
        let mut late = std::pin::pin!(sleep(PATIENCE + COMMIT_BOUND));
        let (mut waits, mut watching) = (false, true);
        let mut standing_in = path.in_use == InUse::Forwarder;
        loop {
            tokio::select! {
                biased;
                outcome = &mut apply => return outcome,
                Some(query) = queries.recv() => {
                    // The kernel's counters wait with the commit. The asker may have left.
                    let _ = query.send(ledger.totals().clone());
                    continue;
                }
                report = flows.finished() => {
                    history.ended(&report, metrics, reports);
                    continue;
                }
                () = &mut patience, if !waits => {
                    waits = true;
                    tracing::warn!("another program holds nf_tables: the rules wait for it");
                    order(flows, ending, &desired.dead(), true);
                }
                changed = views.changed(), if watching && waits => watching = changed.is_ok(),
                () = &mut late, if !standing_in && path.mode == Mode::Auto => {
                    standing_in = true;
                    match path.forward(host, forwarder, desired, (claim, WAITS)).await {
                        Ok(()) => reports.send_modify(|report| {
                            report.phase = Phase::Forwarding;
                            report.path = Some(path.report());
                        }),
                        Err(error) => {
                            tracing::error!(error = %chain(&error), "the forwarder cannot take over");
                        }
                    }
                }
            }
            let view = views.borrow_and_update().clone();
            if let Some(view) = view {
                history.foresee(&view);
                let latest = desire(&view, last.as_deref(), node, policy).0;
                forwarder.route(Arc::new(routes(&view, &latest)));
                let dead = latest.dead();
                order(flows, ending, &dead, true);
                *foreseen = dead.into_keys().collect();
            }
        }
    }
}
