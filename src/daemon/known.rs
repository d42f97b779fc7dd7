//! What is known before the API answers, and the tasks that keep it.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::AppError;
use crate::bootstrap::saved_state::{self, StateFile};
use crate::bootstrap::seeds;
use crate::bootstrap::{self, Bootstrap};
use crate::config::RunArgs;
use crate::model::merge::LastGood;
use crate::model::published::Published;
use crate::model::report::Report;
use crate::transport::Access;

/// Names that were resolved and not looked at yet; more wait in line.
const RESOLVED_QUEUE: usize = 8;

/// How long the end of the daemon waits for the disk; a write takes some milliseconds.
const KEPT_WITHIN: Duration = Duration::from_secs(2);

/// Seeds and saved state, brought together, and where the latter is kept.
pub(super) struct Known {
    pub bootstrap: Bootstrap,
    file: StateFile,
    saved: Option<LastGood>,
}

impl Known {
    /// Reads the state. The caller holds the lock.
    pub fn new(args: &RunArgs, access: &Access) -> Result<Self, AppError> {
        let mut configured = args.boot.configured(args.table.allow_loopback_endpoints)?;
        if args.kubeconfig.is_none() {
            configured.pod_server = access.server().host.parse().ok();
        }
        let file = StateFile::new(&args.boot.state_dir, &args.table.service);
        let saved = bootstrap::load_saved_state(&file);
        Ok(Self { bootstrap: Bootstrap::new(configured, saved.clone()), file, saved })
    }

    /// Returns the keeper of the state, which ends with the other tasks. A rehearsal keeps nothing.
    pub fn start(
        self,
        args: &RunArgs,
        api: watch::Receiver<Option<Published>>,
        reports: watch::Receiver<Report>,
        tasks: &mut JoinSet<()>,
    ) -> Option<Keeper> {
        let Self { bootstrap, file, saved } = self;
        let (resolved_in, resolved) = mpsc::channel(RESOLVED_QUEUE);
        tasks.spawn(seeds::resolve_all(args.boot.seed.clone(), bootstrap.api_read(), resolved_in));
        let keeper = (!args.dry_run)
            .then(|| Keeper(tokio::spawn(saved_state::save_changes(file, saved, bootstrap.last_good()))));
        tasks.spawn(bootstrap.run(api, resolved, reports));
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
