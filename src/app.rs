//! The only place where the daemon's parts are wired together.
//!
//! [`Bound::new`] takes everything that can fail for a reason that an operator must mend; [`Bound::run`] then works
//! until it is told to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::{self, AdminError, Sources};
use crate::apiserver::{self, Access, ApiConfig, Connection, Published};
use crate::config::RunArgs;
use crate::dataplane::host::Node;
use crate::dataplane::nftables::Nftables;
use crate::dataplane::{Dataplane, DataplaneError, Host};
use crate::lock::{Lock, LockError};
use crate::metrics::Metrics;
use crate::reconcile::{Inputs, Reconciler};
use crate::report::Report;

/// Askers that wait for the reconciler; more wait in line.
const QUERY_QUEUE: usize = 8;

/// Why the daemon could not start or end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Another daemon runs, or the run folder is unusable.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The status socket.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The kernel.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
}

/// A daemon that holds the node's lock and its sockets, and has touched nothing else yet.
pub struct Bound {
    args: RunArgs,
    access: Access,
    dataplane: Nftables,
    host: Node,
    admin: UnixListener,
    // Declared last: the lock is dropped after everything that it guards.
    lock: Lock,
}

impl Bound {
    /// Takes the lock, binds the status socket and opens the sockets to the kernel.
    pub fn new(args: RunArgs, access: Access) -> Result<Self, AppError> {
        let lock = Lock::take(&args.run_dir)?;
        let admin = admin::bind(&args.run_dir)?;
        let dataplane = Nftables::open()?;
        let host = Node::open()?;
        Ok(Self { args, access, dataplane, host, admin, lock })
    }

    /// The folder with lock and socket.
    pub fn run_dir(&self) -> &PathBuf {
        &self.args.run_dir
    }

    /// Works until `stop` is true. Rules stay unless `--cleanup-on-exit` was given.
    pub async fn run(self, stop: watch::Receiver<bool>) -> Result<(), AppError> {
        let Self { args, access, dataplane, host, admin, lock } = self;
        let (snapshots_in, snapshots) = watch::channel::<Option<Published>>(None);
        let (connection_in, connection) = watch::channel(Connection::default());
        let (report_in, report) = watch::channel(Report::default());
        let (totals, queries) = mpsc::channel(QUERY_QUEUE);
        let metrics = Arc::new(Metrics::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(apiserver::run(
            ApiConfig {
                access,
                service: args.table.service.clone(),
                snapshot: args.table.snapshot_options(),
            },
            snapshots_in,
            connection_in,
        ));
        let sources = Sources {
            service: args.table.service.clone(),
            started: SystemTime::now(),
            report,
            connection,
            metrics: Arc::clone(&metrics),
            totals,
        };
        tasks.spawn(admin::serve(admin, sources));
        let reconciler = Reconciler::new(dataplane, host, args.table.policy(), metrics, report_in);
        let (mut dataplane, mut host) = reconciler.run(Inputs { snapshots, queries, stop }).await;
        tasks.shutdown().await;
        if args.cleanup_on_exit {
            let table = dataplane.remove().await?;
            let routes = host.remove_routes().await?;
            tracing::info!(table, ?routes, "removed what apivip made on this node");
        }
        drop(lock);
        Ok(())
    }
}
