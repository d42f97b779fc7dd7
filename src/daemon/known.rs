//! What is known before the API answers, and the tasks that keep it.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::AppError;
use crate::bootstrap::gather::{self, Gather};
use crate::bootstrap::seeds;
use crate::bootstrap::state::{self, StateFile};
use crate::config::RunArgs;
use crate::kube::{Access, PublishedSnapshot};
use crate::model::report::Report;
use crate::model::sources::LastKnownGood;

/// Names that were resolved and not looked at yet; more wait in line.
const RESOLVED_QUEUE: usize = 8;

/// How long the end of the daemon waits for the disk; a write takes some milliseconds.
const KEPT_WITHIN: Duration = Duration::from_secs(2);

/// Seeds and saved state, brought together, and where the latter is kept.
pub(super) struct Known {
    pub gather: Gather,
    file: StateFile,
    saved: Option<LastKnownGood>,
}

impl Known {
    /// Reads the state. The caller holds the lock.
    pub fn new(args: &RunArgs, access: &Access) -> Result<Self, AppError> {
        let mut configured = args.boot.configured(args.table.allow_loopback_endpoints)?;
        if args.kubeconfig.is_none() {
            configured.pod_server = access.server().host.parse().ok();
        }
        let file = StateFile::new(&args.boot.state_dir, &args.table.service);
        let saved = gather::load(&file);
        Ok(Self { gather: Gather::new(configured, saved.clone()), file, saved })
    }

    /// Returns the keeper of the state, which ends with the other tasks. A rehearsal keeps nothing.
    pub fn start(
        self,
        args: &RunArgs,
        api: watch::Receiver<Option<PublishedSnapshot>>,
        reports: watch::Receiver<Report>,
        tasks: &mut JoinSet<()>,
    ) -> Option<Keeper> {
        let Self { gather, file, saved } = self;
        let (resolved_in, resolved) = mpsc::channel(RESOLVED_QUEUE);
        tasks.spawn(seeds::follow(args.boot.seed.clone(), gather.read(), resolved_in));
        let keeper =
            (!args.dry_run).then(|| Keeper(tokio::spawn(state::keep(file, saved, gather.last_good()))));
        tasks.spawn(gather.run(api, resolved, reports));
        keeper
    }
}

/// The task that keeps the last good state.
pub(super) struct Keeper(JoinHandle<()>);

impl Keeper {
    /// Once the other tasks have ended: waits until what was learnt last is kept.
    pub async fn finish(self) {
        if timeout(KEPT_WITHIN, self.0).await.is_err() {
            tracing::warn!("the disk takes too long: what was learnt last is not kept");
        }
    }
}
