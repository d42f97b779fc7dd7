//! The only place where the daemon's parts are wired together.
//!
//! In: validated arguments. [`Bound::new`] does everything that can fail for a reason that an operator must fix;
//! [`Bound::run`] then works until it is stopped. Data flows from the API and the bootstrap sources ([`kube`], [`bootstrap`])
//! through the health checks ([`health`]) to the reconciler, which programs the kernel and the proxy.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::admin::{self, AdminError, Sources};
use crate::bootstrap::saved_state::{self, StateFile};
use crate::bootstrap::{self, seeds};
use crate::config::{BootstrapError, ModeArg, RunArgs, TableOwnerArg};
use crate::conntrack::{FlowError, FlowOptions, Flows};
use crate::dataplane::dry_run::{DryRun, ReadOnlyHost};
use crate::dataplane::{DataplaneError, Host};
use crate::health::{self, ProbeConfig, ProbeObserver};
use crate::kube::{self, ApiConfig, Connection};
use crate::metrics::Metrics;
use crate::model::report::Report;
use crate::model::snapshot::PublishedSnapshot;
use crate::model::sources::LastKnownGood;
use crate::model::types::Backend;
use crate::nftables::dataplane::Nftables;
use crate::nftables::table::Ownership;
use crate::process::handover::{self, Inherited};
use crate::process::lock::{Lock, LockError};
use crate::proxy::{Forwarder, ForwarderError, ForwarderOptions, Stats};
use crate::reconcile::{Inputs, Mode, Parts, Reconciler, error_chain};
use crate::routes::Node;
use crate::transport::Access;
use crate::transport::readyz::Identity;

mod kernel;
mod shutdown;
mod systemd;
mod thread;

use kernel::{ClientFlows, ProbeConnections};
use systemd::Notifier;

/// Queries to the reconciler that wait for an answer; senders of more wait in turn.
const QUERY_QUEUE: usize = 8;
/// Resolved names that wait to be merged; senders of more wait in turn.
const RESOLVED_QUEUE: usize = 8;
/// How long the end of the daemon waits for the disk; a write takes some milliseconds.
const SAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the daemon could not start or end well.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another daemon runs, or the run folder is unusable.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The status socket.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The kernel.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// Seeds and virtual IPs do not fit together.
    #[error(transparent)]
    Boot(#[from] BootstrapError),
    /// The forwarder.
    #[error(transparent)]
    Forwarder(#[from] ForwarderError),
    /// The kernel's flows.
    #[error(transparent)]
    Flows(#[from] FlowError),
    /// The CA can no longer be used.
    #[error("read the CA of the cluster, {ca}: {cause}")]
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
    host: Node,
    flows: Option<Flows>,
    proxy: Proxy,
    admin: UnixListener,
    bootstrap: Bootstrap,
    // Declared last: the lock is dropped after everything that it guards.
    lock: Lock,
}

impl Bound {
    /// Takes the lock, binds the sockets and opens those to the kernel.
    pub fn new(args: RunArgs, access: Access) -> Result<Self, DaemonError> {
        let trust =
            access.trust().map_err(|cause| DaemonError::Trust { ca: access.ca().to_owned(), cause })?;
        let probes = probe_config(&args, &access)?;
        let lock = Lock::take(&args.run_dir)?;
        let bootstrap = Bootstrap::new(&args, &access)?;
        let proxy = Proxy::new(&args)?;
        let admin = admin::bind(&args.run_dir)?;
        let host = Node::open()?;
        let flows = flows(&args)?;
        Ok(Self { args, access, trust, probes, host, flows, proxy, admin, bootstrap, lock })
    }

    /// The folder with lock and socket.
    pub fn run_dir(&self) -> &PathBuf {
        &self.args.run_dir
    }

    /// Works until `stop` is true. Rules stay unless `--cleanup-on-exit` was given.
    pub async fn run(self, stop: watch::Receiver<bool>) -> Result<(), DaemonError> {
        let Self { args, access, trust, probes, mut host, flows, proxy, admin, bootstrap, lock } = self;
        let (api_in, api) = watch::channel::<Option<PublishedSnapshot>>(None);
        let (connection_in, connection) = watch::channel(Connection::default());
        let (report_in, report) = watch::channel(Report::default());
        let (views_in, views) = watch::channel(None);
        let (totals, queries) = mpsc::channel(QUERY_QUEUE);
        let metrics = Arc::new(Metrics::new(Arc::clone(&proxy.stats)));
        let mut tasks = JoinSet::new();
        // If it cannot be read now, the first API session updates it.
        let identity = access.identity().await.unwrap_or_else(|_| Identity::anonymous(Arc::new(trust)));
        let (identity_in, identity) = watch::channel(identity);
        let identity_in = Arc::new(identity_in);
        let (access_in, access) = watch::channel(Arc::new(access));
        tasks.spawn(crate::transport::load::watch_files(access_in, Arc::clone(&identity_in)));
        let snapshots = bootstrap.sources.snapshots();
        let reports = report.clone();
        let counted = (Arc::clone(&metrics), Arc::clone(&proxy.stats));
        let selftests = kernel::start_selftest(
            &args.admin,
            &probes,
            identity.clone(),
            report.clone(),
            counted,
            &mut tasks,
        );
        let sources = Sources {
            service: args.table.service.clone(),
            started: Instant::now(),
            report,
            connection,
            origins: bootstrap.sources.origins(),
            selftests,
            selftest_interval: args.admin.selftest_interval.0,
            metrics: Arc::clone(&metrics),
            totals,
        };
        start_notifier(sources.clone(), &mut tasks);
        tasks.spawn(kube::run(
            ApiConfig {
                access,
                service: args.table.service.clone(),
                snapshot: args.table.snapshot_options(),
                alternatives: bootstrap.sources.alternatives(),
                views: views.clone(),
                identity: identity_in,
                ping_interval: kube::PING_INTERVAL,
                spread_interval: kube::SPREAD_INTERVAL,
            },
            api_in,
            connection_in,
        ));
        let saver = bootstrap.start(&args, api, reports.clone(), &mut tasks);
        tasks.spawn(admin::serve(admin, args.admin.admin_listen.0, sources));
        let (in_use_in, in_use) = mpsc::unbounded_channel();
        thread::spawn(
            "demand",
            &mut tasks,
            kernel::watch_use(reports.clone(), Arc::clone(&proxy.stats), in_use_in),
        );
        let health_inputs = health::Inputs {
            identity,
            suspects: proxy.dial_failures,
            in_use,
            kernel: Arc::new(ProbeConnections::open()),
            clients: Arc::new(ClientFlows(flows.as_ref().map(Flows::path_challenger))),
            observer: Arc::clone(&metrics) as Arc<dyn ProbeObserver>,
        };
        tasks.spawn(health::run(probes, health_inputs, snapshots, views_in));
        let policy = args.table.policy();
        let (drains, predecessor) = watch::channel(proxy.predecessor.is_some());
        match proxy.predecessor {
            Some(stream) => drop(tasks.spawn(async move {
                handover::ended(stream).await;
                drains.send_replace(false);
            })),
            None if !args.dry_run => remove_stale_local_vips(&mut host).await,
            None => {}
        }
        let inputs = Inputs { views, queries, stop, predecessor };
        let mode = (mode(args.forwarder.mode), proxy.inherited_vips);
        let forwarder = proxy.forwarder;
        if args.dry_run {
            tracing::warn!(
                event = %"dry_run_started",
                "Dry run leaves rules, routes and connections unchanged"
            );
            let parts = Parts { dataplane: DryRun, host: ReadOnlyHost(host), flows: DryRun, forwarder };
            Reconciler::new(parts, (Mode::Nftables, false), policy, metrics, report_in).run(inputs).await;
            tasks.shutdown().await;
            drop(lock);
            return Ok(());
        }
        let dataplane = Nftables::new(ownership(args.table_owner));
        let parts = Parts { dataplane, host, flows, forwarder };
        let parts = Reconciler::new(parts, mode, policy, metrics, report_in).run(inputs).await;
        tasks.shutdown().await;
        if let Some(saver) = saver {
            saver.finish().await;
        }
        shutdown::finish(parts, &args, lock).await
    }
}

/// Notifies systemd, if it started this daemon.
fn start_notifier(sources: Sources, tasks: &mut JoinSet<()>) {
    match Notifier::from_environment() {
        Ok(Some(notifier)) => drop(tasks.spawn(systemd::run(notifier, sources))),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(
                event = %"systemd_notify_unavailable", %error,
                "Failed to open notification socket of service manager"
            );
        }
    }
}

/// Removes the routing rules of a daemon that was killed while virtual IPs were local.
async fn remove_stale_local_vips(host: &mut Node) {
    if let Err(error) = host.release_local_vips().await {
        tracing::warn!(
            event = %"stale_routes_cleanup_failed", error = %error_chain(&error),
            "Failed to remove routing rules of an earlier daemon"
        );
    }
}

/// What is known before the API answers: seeds and saved state, and the file of the latter.
struct Bootstrap {
    sources: bootstrap::Bootstrap,
    file: StateFile,
    saved: Option<LastKnownGood>,
}

impl Bootstrap {
    /// Reads the saved state. The caller holds the lock.
    fn new(args: &RunArgs, access: &Access) -> Result<Self, DaemonError> {
        let mut configured = args.bootstrap.configured(args.table.allow_loopback_endpoints)?;
        if args.kubeconfig.is_none() {
            configured.pod_server = access.server().host.parse().ok();
        }
        let file = StateFile::new(&args.bootstrap.state_dir, &args.table.service);
        let saved = bootstrap::load_saved_state(&file);
        Ok(Self { sources: bootstrap::Bootstrap::new(configured, saved.clone()), file, saved })
    }

    /// Starts the tasks, and returns the one that saves the state, which ends after the others. A dry run saves nothing.
    fn start(
        self,
        args: &RunArgs,
        api: watch::Receiver<Option<PublishedSnapshot>>,
        reports: watch::Receiver<Report>,
        tasks: &mut JoinSet<()>,
    ) -> Option<StateSaver> {
        let Self { sources, file, saved } = self;
        let (resolved_in, resolved) = mpsc::channel(RESOLVED_QUEUE);
        tasks.spawn(seeds::resolve_all(args.bootstrap.seed.clone(), sources.api_read(), resolved_in));
        let saver = (!args.dry_run)
            .then(|| StateSaver(tokio::spawn(saved_state::save_changes(file, saved, sources.last_good()))));
        tasks.spawn(sources.run(api, resolved, reports));
        saver
    }
}

/// The task that saves the last good state.
struct StateSaver(JoinHandle<()>);

impl StateSaver {
    /// To be called when the other tasks have ended: waits until the last state is saved.
    async fn finish(self) {
        if timeout(SAVE_TIMEOUT, self.0).await.is_err() {
            tracing::warn!(
                event = %"saved_state_write_timeout",
                "Timed out saving state, next start uses the earlier state"
            );
        }
    }
}

/// The forwarder, and what belongs to it.
struct Proxy {
    forwarder: Option<Forwarder>,
    stats: Arc<Stats>,
    /// Backends to which a dial failed.
    dial_failures: mpsc::UnboundedReceiver<Backend>,
    /// The daemon whose listeners it took over.
    predecessor: Option<UnixStream>,
    /// Some of these listeners are those of virtual IPs.
    inherited_vips: bool,
}

impl Proxy {
    /// A dry run starts none: it must not take anything from a daemon that runs.
    fn new(args: &RunArgs) -> Result<Self, DaemonError> {
        let stats = Arc::new(Stats::default());
        let (dial_failures_in, dial_failures) = mpsc::unbounded_channel();
        if args.dry_run {
            return Ok(Self {
                forwarder: None,
                stats,
                dial_failures,
                predecessor: None,
                inherited_vips: false,
            });
        }
        let (listeners, predecessor) = match handover::take(&args.run_dir) {
            Some(Inherited { listeners, predecessor }) => (listeners, Some(predecessor)),
            None => (Vec::new(), None),
        };
        let listen = args.forwarder.listen.clone();
        let is_vip = |listener: &TcpListener| listener.local_addr().is_ok_and(|a| !listen.contains(&a));
        let inherited_vips = listeners.iter().any(is_vip);
        let options = ForwarderOptions {
            listen,
            max_connections: args.forwarder.forwarder_max_connections,
            max_per_client: args.forwarder.forwarder_max_per_client,
        };
        let forwarder = Forwarder::start(options, listeners, dial_failures_in, Arc::clone(&stats))?;
        Ok(Self { forwarder: Some(forwarder), stats, dial_failures, predecessor, inherited_vips })
    }
}

/// If the forwarder may be used in place of nf_tables, the daemon starts without ctnetlink.
fn flows(args: &RunArgs) -> Result<Option<Flows>, DaemonError> {
    match Flows::open(FlowOptions { rate: args.health.reset_rate, ..FlowOptions::default() }) {
        Ok(flows) => Ok(Some(flows)),
        Err(error) if args.forwarder.mode == ModeArg::Nftables => Err(error.into()),
        Err(error) => {
            tracing::warn!(
                event = %"connection_reset_unsupported", error = %error_chain(&error),
                "Kernel cannot reset connections to failed API servers"
            );
            Ok(None)
        }
    }
}

fn mode(mode: ModeArg) -> Mode {
    match mode {
        ModeArg::Auto => Mode::Auto,
        ModeArg::Nftables => Mode::Nftables,
        ModeArg::Forwarder => Mode::Forwarder,
    }
}

fn ownership(owner: TableOwnerArg) -> Ownership {
    match owner {
        TableOwnerArg::Auto => Ownership::Owned,
        TableOwnerArg::Off => Ownership::Plain,
    }
}

fn probe_config(args: &RunArgs, access: &Access) -> Result<ProbeConfig, DaemonError> {
    let server_name = match &args.health.probe_server_name {
        None => access.server_name(),
        Some(name) => name.clone().try_into().map_err(|_| DaemonError::ServerName(name.clone()))?,
    };
    Ok(ProbeConfig {
        interval: args.health.probe_interval,
        ping_interval: args.health.ping_interval,
        readyz_interval: args.health.readyz_interval,
        server_name,
        health: args.health.options(),
    })
}
