//! The only place where the daemon's parts are wired together.
//!
//! [`Bound::new`] takes everything that can fail for a reason that an operator must mend; [`Bound::run`] then works
//! until it is told to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::{self, AdminError, Sources};
use crate::apiserver::{self, Access, ApiConfig, Connection, Published};
use crate::config::RunArgs;
use crate::dataplane::dry_run::{DryRun, Rehearsal};
use crate::dataplane::flows::{FlowError, FlowOptions, Flows};
use crate::dataplane::host::Node;
use crate::dataplane::nftables::Nftables;
use crate::dataplane::{Dataplane, DataplaneError, Host};
use crate::lock::{Lock, LockError};
use crate::metrics::Metrics;
use crate::probe::{self, Observer, ProbeConfig};
use crate::reconcile::{Inputs, Reconciler};
use crate::report::Report;

/// Askers that wait for the reconciler; more wait in line.
const QUERY_QUEUE: usize = 8;

/// How often `/readyz` is asked where nothing speaks against an apiserver: so that 5,000 nodes cost it little.
const READYZ_INTERVAL: Duration = Duration::from_secs(10);

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
    /// The kernel's flows.
    #[error(transparent)]
    Flows(#[from] FlowError),
    /// The CA can no longer be read.
    #[error("read the cluster's CA, {ca}: {cause}")]
    Trust {
        /// Where it is.
        ca: String,
        /// One line.
        cause: String,
    },
    /// `--probe-server-name`.
    #[error("--probe-server-name {0:?} is neither a DNS name nor an IP address")]
    ServerName(String),
}

/// A daemon that holds the node's lock and its sockets, and has touched nothing else yet.
pub struct Bound {
    args: RunArgs,
    access: Access,
    trust: rustls::ClientConfig,
    probes: ProbeConfig,
    dataplane: Nftables,
    host: Node,
    flows: Flows,
    admin: UnixListener,
    // Declared last: the lock is dropped after everything that it guards.
    lock: Lock,
}

impl Bound {
    /// Takes the lock, binds the status socket and opens the sockets to the kernel.
    pub fn new(args: RunArgs, access: Access) -> Result<Self, AppError> {
        let trust = access.trust().map_err(|cause| AppError::Trust { ca: access.ca().to_owned(), cause })?;
        let probes = probe_config(&args, &access)?;
        let lock = Lock::take(&args.run_dir)?;
        let admin = admin::bind(&args.run_dir)?;
        let dataplane = Nftables::open()?;
        let host = Node::open()?;
        let flows = Flows::open(FlowOptions { rate: args.health.flow_kill_rate, ..FlowOptions::default() })?;
        Ok(Self { args, access, trust, probes, dataplane, host, flows, admin, lock })
    }

    /// The folder with lock and socket.
    pub fn run_dir(&self) -> &PathBuf {
        &self.args.run_dir
    }

    /// Works until `stop` is true. Rules stay unless `--cleanup-on-exit` was given.
    pub async fn run(self, stop: watch::Receiver<bool>) -> Result<(), AppError> {
        let Self { args, access, trust, probes, dataplane, host, flows, admin, lock } = self;
        let (snapshots_in, snapshots) = watch::channel::<Option<Published>>(None);
        let (connection_in, connection) = watch::channel(Connection::default());
        let (report_in, report) = watch::channel(Report::default());
        let (totals, queries) = mpsc::channel(QUERY_QUEUE);
        let metrics = Arc::new(Metrics::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(apiserver::run(
            ApiConfig {
                access: access.clone(),
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
        let (trust_in, trust) = watch::channel(Arc::new(trust));
        let (views_in, views) = watch::channel(None);
        tasks.spawn(apiserver::follow_trust(access, trust_in));
        let (_suspects_in, suspects) = mpsc::unbounded_channel();
        tasks.spawn(probe::run(
            probes,
            trust,
            snapshots,
            views_in,
            suspects,
            Arc::clone(&metrics) as Arc<dyn Observer>,
        ));
        let policy = args.table.policy();
        let inputs = Inputs { views, queries, stop };
        if args.dry_run {
            tracing::warn!("dry run: rules, routes and flows are left as they are");
            let reconciler = Reconciler::new(DryRun, Rehearsal(host), DryRun, policy, metrics, report_in);
            reconciler.run(inputs).await;
            tasks.shutdown().await;
            drop(lock);
            return Ok(());
        }
        let reconciler = Reconciler::new(dataplane, host, flows, policy, metrics, report_in);
        let (mut dataplane, mut host) = reconciler.run(inputs).await;
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

fn probe_config(args: &RunArgs, access: &Access) -> Result<ProbeConfig, AppError> {
    let server_name = match &args.health.probe_server_name {
        None => access.server_name(),
        Some(name) => name.clone().try_into().map_err(|_| AppError::ServerName(name.clone()))?,
    };
    Ok(ProbeConfig {
        interval: args.health.probe_interval,
        readyz_interval: READYZ_INTERVAL,
        server_name,
        health: args.health.options(),
    })
}
