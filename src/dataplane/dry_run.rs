//! `--dry-run`: a dataplane, a host and a [`FlowKiller`] that log what they would do, and do nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use super::flows::{FlowKiller, FlowOrder, FlowReport, StaleFlows};
use super::{Applied, Dataplane, DataplaneError, Drift, Host, LocalVip};
use crate::model::desired::{DesiredState, NodeView};
use crate::model::types::Backend;

/// Programs nothing and ends no flow.
#[derive(Clone, Copy, Debug)]
pub struct DryRun;

impl Dataplane for DryRun {
    async fn apply(
        &mut self,
        state: &DesiredState,
        _before: Option<&DesiredState>,
    ) -> Result<Applied, DataplaneError> {
        for frontend in &state.frontends {
            tracing::info!(
                event = %"dry_run_rules",
                vip = %frontend.vip, backends = ?frontend.backends, failed_backends = ?frontend.failed,
                "Dry run, would redirect virtual IP to these API servers"
            );
        }
        Ok(Applied { connections_before: BTreeMap::new(), took: Duration::ZERO, steps: 0, owned: false })
    }

    async fn is_installed(&mut self) -> bool {
        false
    }

    async fn refresh(&mut self, _dead: &BTreeSet<Backend>) -> Result<(), DataplaneError> {
        Ok(())
    }

    async fn connections(&mut self, _state: &DesiredState) -> Result<BTreeMap<Backend, u64>, DataplaneError> {
        Ok(BTreeMap::new())
    }

    async fn drifted(&mut self) -> Drift {
        std::future::pending().await
    }

    async fn remove(&mut self) -> Result<bool, DataplaneError> {
        Ok(false)
    }
}

impl FlowKiller for DryRun {
    fn start(&mut self, order: FlowOrder) {
        tracing::info!(
            event = %"dry_run_connections",
            backend = %order.backend, vips = ?order.vips, purpose = order.purpose.label(),
            "Dry run, would act on connections to this API server"
        );
    }

    fn cancel(&mut self, _backend: Backend) {}

    fn stop_rerouting(&mut self, _backend: Backend) {}

    fn delete_stale(&mut self, _stale: Vec<StaleFlows>) {}

    async fn finished(&mut self) -> FlowReport {
        std::future::pending().await
    }
}

/// A host that is read and not changed.
#[derive(Debug)]
pub struct ReadOnlyHost<H>(pub H);

impl<H: Host> Host for ReadOnlyHost<H> {
    fn view(
        &self,
        vips: BTreeSet<IpAddr>,
        backends: BTreeSet<IpAddr>,
    ) -> LocalBoxFuture<'static, Result<NodeView, DataplaneError>> {
        self.0.view(vips, backends)
    }

    async fn ensure_routes(&mut self, _state: &DesiredState) -> Result<(), DataplaneError> {
        Ok(())
    }

    async fn remove_routes(&mut self) -> Result<Vec<IpAddr>, DataplaneError> {
        Ok(Vec::new())
    }

    async fn acquire_local_vips(
        &mut self,
        _state: &DesiredState,
        _packets: LocalVip,
    ) -> Result<(), DataplaneError> {
        Ok(())
    }

    async fn release_local_vips(&mut self) -> Result<bool, DataplaneError> {
        Ok(false)
    }

    fn repaired(&mut self) -> usize {
        0
    }

    async fn changed(&mut self) {
        self.0.changed().await;
    }
}
