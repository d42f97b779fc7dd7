//! The only place where the daemon's parts are wired together.
//!
//! [`Bound::new`] takes everything that can fail for a reason that an operator must mend; [`Bound::run`] then works
//! until it is told to stop.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::{self, AdminError, Sources};
use crate::config::{BootError, ModeArg, RunArgs, TableOwnerArg};
use crate::conntrack::{FlowError, FlowOptions, Flows};
use crate::daemon::systemd::Notifier;
use crate::dataplane::dry_run::{DryRun, Rehearsal};
use crate::dataplane::{Dataplane, DataplaneError, Host};
use crate::health::{self, ProbeConfig, ProbeObserver};
use crate::kube::{self, Access, ApiConfig, Connection, PublishedSnapshot};
use crate::metrics::Metrics;
use crate::model::report::Report;
use crate::model::types::Backend;
use crate::nftables::dataplane::Nftables;
use crate::nftables::owner::Ownership;
use crate::process::handover::{self, Inherited};
use crate::process::lock::{Lock, LockError};
use crate::proxy::{Forwarder, ForwarderError, ForwarderOptions, Stats};
use crate::reconcile::{Inputs, Mode, Parts, Reconciler};
use crate::routes::Node;
use crate::transport::readyz::Identity;

mod aside;
mod demand;
mod kernel;
mod known;
mod selftest;
mod service;
mod stop;
mod systemd;

use kernel::{ClientFlows, OwnKernel};
use known::Known;

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
    /// Seeds and virtual IPs do not fit together.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The forwarder.
    #[error(transparent)]
    Forwarder(#[from] ForwarderError),
    /// The kernel's flows.
    #[error(transparent)]
    Flows(#[from] FlowError),
    /// The CA can no longer be used.
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
    host: Node,
    flows: Option<Flows>,
    carrier: Carrier,
    admin: UnixListener,
    known: Known,
    // Declared last: the lock is dropped after everything that it guards.
    lock: Lock,
}

/// The forwarder, and what belongs to it.
struct Carrier {
    forwarder: Option<Forwarder>,
    stats: Arc<Stats>,
    suspects: mpsc::UnboundedReceiver<Backend>,
    /// The daemon whose listeners it took over.
    predecessor: Option<UnixStream>,
    /// Some of these listeners are those of virtual IPs.
    inherited: bool,
}

impl Bound {
    /// Takes the lock, binds the sockets and opens those to the kernel.
    pub fn new(args: RunArgs, access: Access) -> Result<Self, AppError> {
        let trust = access.trust().map_err(|cause| AppError::Trust { ca: access.ca().to_owned(), cause })?;
        let probes = probe_config(&args, &access)?;
        let lock = Lock::take(&args.run_dir)?;
        let known = Known::new(&args, &access)?;
        let carrier = Carrier::new(&args)?;
        let admin = admin::bind(&args.run_dir)?;
        let host = Node::open()?;
        let flows = flows(&args)?;
        Ok(Self { args, access, trust, probes, host, flows, carrier, admin, known, lock })
    }

    /// The folder with lock and socket.
    pub fn run_dir(&self) -> &PathBuf {
        &self.args.run_dir
    }

    /// Works until `stop` is true. Rules stay unless `--cleanup-on-exit` was given.
    pub async fn run(self, stop: watch::Receiver<bool>) -> Result<(), AppError> {
        let Self { args, access, trust, probes, mut host, flows, carrier, admin, known, lock } = self;
        let (api_in, api) = watch::channel::<Option<PublishedSnapshot>>(None);
        let (connection_in, connection) = watch::channel(Connection::default());
        let (report_in, report) = watch::channel(Report::default());
        let (views_in, views) = watch::channel(None);
        let (totals, queries) = mpsc::channel(QUERY_QUEUE);
        let metrics = Arc::new(Metrics::new(Arc::clone(&carrier.stats)));
        let mut tasks = JoinSet::new();
        // What cannot be read now is told by the first session.
        let identity = access.identity().await.unwrap_or_else(|_| Identity::anonymous(Arc::new(trust)));
        let (identity_in, identity) = watch::channel(identity);
        let identity_in = Arc::new(identity_in);
        let (access_in, access) = watch::channel(Arc::new(access));
        tasks.spawn(kube::follow(access_in, Arc::clone(&identity_in)));
        match Notifier::from_environment() {
            Ok(Some(notifier)) => {
                drop(tasks.spawn(service::follow(notifier, report.clone(), totals.clone())))
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the service manager named in NOTIFY_SOCKET cannot be told anything")
            }
        }
        let snapshots = known.gather.snapshots();
        let reports = report.clone();
        let counted = (Arc::clone(&metrics), Arc::clone(&carrier.stats));
        let selftests =
            selftest::start(&args.admin, &probes, identity.clone(), report.clone(), counted, &mut tasks);
        let sources = Sources {
            service: args.table.service.clone(),
            started: Instant::now(),
            report,
            connection,
            origins: known.gather.origins(),
            selftests,
            selftest_interval: args.admin.selftest_interval.0,
            metrics: Arc::clone(&metrics),
            totals,
        };
        tasks.spawn(kube::run(
            ApiConfig {
                access,
                service: args.table.service.clone(),
                snapshot: args.table.snapshot_options(),
                alternatives: known.gather.alternatives(),
                views: views.clone(),
                identity: identity_in,
                ping_interval: kube::PING_INTERVAL,
                spread_interval: kube::SPREAD_INTERVAL,
            },
            api_in,
            connection_in,
        ));
        let keeper = known.start(&args, api, reports.clone(), &mut tasks);
        tasks.spawn(admin::serve(admin, args.admin.admin_listen.0, sources));
        let (in_use_in, in_use) = mpsc::unbounded_channel();
        aside::spawn(
            "demand",
            &mut tasks,
            demand::watch(reports.clone(), Arc::clone(&carrier.stats), in_use_in),
        );
        let asking = health::Inputs {
            identity,
            suspects: carrier.suspects,
            in_use,
            kernel: Arc::new(OwnKernel::open()),
            clients: Arc::new(ClientFlows(flows.as_ref().map(Flows::asker))),
            observer: Arc::clone(&metrics) as Arc<dyn ProbeObserver>,
        };
        tasks.spawn(health::run(probes, asking, snapshots, views_in));
        let policy = args.table.policy();
        let (drains, predecessor) = watch::channel(carrier.predecessor.is_some());
        match carrier.predecessor {
            Some(stream) => drop(tasks.spawn(async move {
                handover::ended(stream).await;
                drains.send_replace(false);
            })),
            // What a killed daemon left of its claim on the virtual IPs.
            None if !args.dry_run => {
                if let Err(error) = host.release().await {
                    let cause = std::error::Error::source(&error).map(tracing::field::display);
                    tracing::warn!(%error, cause, "routing rules that an earlier daemon may have left could not be removed");
                }
            }
            None => {}
        }
        let inputs = Inputs { views, queries, stop, predecessor };
        let mode = (mode(args.forwarder.mode), carrier.inherited);
        let forwarder = carrier.forwarder;
        if args.dry_run {
            tracing::warn!("dry run: rules, routes and flows are left as they are");
            let parts = Parts { dataplane: DryRun, host: Rehearsal(host), flows: DryRun, forwarder };
            Reconciler::new(parts, (Mode::Nftables, false), policy, metrics, report_in).run(inputs).await;
            tasks.shutdown().await;
            drop(lock);
            return Ok(());
        }
        let dataplane = Nftables::new(ownership(args.table_owner));
        let parts = Parts { dataplane, host, flows, forwarder };
        let parts = Reconciler::new(parts, mode, policy, metrics, report_in).run(inputs).await;
        tasks.shutdown().await;
        if let Some(keeper) = keeper {
            keeper.finish().await;
        }
        let Parts { mut dataplane, mut host, forwarder, .. } = parts;
        // From here on another daemon may start, and take the table in; what follows is ours alone.
        dataplane.release().await;
        let offer = forwarder.as_ref().and_then(|_| stop::offer(&args.run_dir));
        drop(lock);
        let followed = match forwarder {
            Some(forwarder) => stop::drain(forwarder, offer, args.forwarder.drain_grace).await,
            None => false,
        };
        if args.cleanup_on_exit && !followed {
            // Without the lock, it may be the table of a daemon that has started meanwhile. With it, that one waits.
            match Lock::take_back(&args.run_dir) {
                Some(_lock) => {
                    let table = dataplane.remove().await?;
                    let routes = host.remove_routes().await?;
                    host.release().await?;
                    tracing::info!(table, ?routes, "removed what apivip made on this node");
                }
                None => {
                    tracing::info!("another daemon has started: what apivip made on this node is its own now")
                }
            }
        }
        Ok(())
    }
}

impl Carrier {
    /// Beside a daemon that works, a rehearsal must not take anything from it.
    fn new(args: &RunArgs) -> Result<Self, AppError> {
        let stats = Arc::new(Stats::default());
        let (failures, suspects) = mpsc::unbounded_channel();
        if args.dry_run {
            return Ok(Self { forwarder: None, stats, suspects, predecessor: None, inherited: false });
        }
        let (listeners, predecessor) = match handover::take(&args.run_dir) {
            Some(Inherited { listeners, predecessor }) => (listeners, Some(predecessor)),
            None => (Vec::new(), None),
        };
        let listen = args.forwarder.listen.clone();
        let is_vip = |listener: &TcpListener| listener.local_addr().is_ok_and(|a| !listen.contains(&a));
        let inherited = listeners.iter().any(is_vip);
        let options = ForwarderOptions {
            listen,
            max_connections: args.forwarder.forwarder_max_connections,
            max_per_client: args.forwarder.forwarder_max_per_client,
        };
        let forwarder = Forwarder::start(options, listeners, failures, Arc::clone(&stats))?;
        Ok(Self { forwarder: Some(forwarder), stats, suspects, predecessor, inherited })
    }
}

/// Where the forwarder may stand in for nf_tables, a kernel without conntrack's netlink is no reason not to start.
fn flows(args: &RunArgs) -> Result<Option<Flows>, AppError> {
    match Flows::open(FlowOptions { rate: args.health.flow_kill_rate, ..FlowOptions::default() }) {
        Ok(flows) => Ok(Some(flows)),
        Err(error) if args.forwarder.mode == ModeArg::Nftables => Err(error.into()),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            let cause = error.source().map(tracing::field::display);
            tracing::warn!(%error, cause, "flows to dead apiservers cannot be ended by this kernel");
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

fn probe_config(args: &RunArgs, access: &Access) -> Result<ProbeConfig, AppError> {
    let server_name = match &args.health.probe_server_name {
        None => access.server_name(),
        Some(name) => name.clone().try_into().map_err(|_| AppError::ServerName(name.clone()))?,
    };
    Ok(ProbeConfig {
        interval: args.health.probe_interval,
        ping_interval: args.health.ping_interval,
        readyz_interval: args.health.readyz_interval,
        server_name,
        health: args.health.options(),
    })
}
