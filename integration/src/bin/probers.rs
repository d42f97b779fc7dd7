//! The requests of many nodes to one API server of three, in one process, with the daemon's own code: all of them keep a connection to
//! it, with pings and `/readyz`; a third of them watch the Service there; and a third of all self-tests end there. Prints
//! `ready` once all have a connection, then works until it is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apivip::health::{self, Inputs, ProbeConfig};
use apivip::kube::{self, ApiConfig, Connection};
use apivip::model::desired::{DesiredFrontend, DesiredState, SourcePolicy};
use apivip::model::health::{HealthState, HealthView};
use apivip::model::report::Report;
use apivip::model::snapshot::PublishedSnapshot;
use apivip::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot, SnapshotOptions};
use apivip::model::sources::FallbackEndpoints;
use apivip::model::types::{Backend, Family, ServiceKey, Vip};
use apivip::selftest::{
    self, ConnectionEvidence, ConnectionTrace, ForwardedCounts, SelfTestConfig, SelfTestObserver,
    SelfTestResults,
};
use apivip::transport::readyz::Identity;
use apivip::transport::{Access, TLS_NAME};
use clap::{Parser, ValueEnum};
use integration::fleet;
use integration::lab::addresses::vip;
use integration::process::raise_descriptors;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Longest until the first answer to the last node.
const LIMIT: Duration = Duration::from_secs(60);
/// API servers of the cluster: each node watches one of them, and its self-test ends at one of them.
const APISERVERS: u32 = 3;

#[derive(Parser)]
struct Arguments {
    /// The API server
    #[arg(long)]
    target: SocketAddr,
    /// Credentials of the nodes
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Number of nodes
    #[arg(long)]
    nodes: u32,
    /// Nodes that start each second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Between two pings, in ms
    #[arg(long, default_value_t = 75_000)]
    ping_interval: u64,
    /// Between two requests for `/readyz`, in ms
    #[arg(long, default_value_t = 600_000)]
    readyz_interval: u64,
    /// Between two self-tests of a node, in ms
    #[arg(long, default_value_t = 300_000)]
    selftest_interval: u64,
    /// What to leave out; repeatable
    #[arg(long)]
    without: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Probes,
    Watches,
    SelfTests,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    raise_descriptors()?;
    let access = apivip::transport::load(Some(&arguments.kubeconfig), None)?;
    let identity = access.identity().await.map_err(anyhow::Error::msg)?;
    let (mut tasks, mut views) = (JoinSet::new(), Vec::new());
    let takes = |part| !arguments.without.contains(&part);
    for node in 0..arguments.nodes {
        if takes(Part::Probes) {
            views.push(probes(&arguments, &identity, &mut tasks)?);
        }
        if takes(Part::Watches) && node % APISERVERS == 0 {
            watches(&access, &identity, &mut tasks)?;
        }
        if takes(Part::SelfTests) {
            self_tests(&arguments, &identity, &mut tasks)?;
        }
        sleep(Duration::from_secs(1) / arguments.rate).await;
    }
    for view in &mut views {
        let up = view.wait_for(|view| view.as_ref().is_some_and(|view| is_up(view, arguments.target)));
        timeout(LIMIT, up).await.context("an API server that is up in time")??;
    }
    println!("ready");
    tasks.join_next().await;
    bail!("a node ended")
}

fn probes(
    arguments: &Arguments,
    identity: &Identity,
    tasks: &mut JoinSet<()>,
) -> Result<watch::Receiver<Option<HealthView>>> {
    let config = ProbeConfig {
        interval: Duration::from_secs(1),
        ping_interval: Duration::from_millis(arguments.ping_interval),
        readyz_interval: Duration::from_millis(arguments.readyz_interval),
        server_name: TLS_NAME.try_into().context("the server's name")?,
        health: fleet::options(),
    };
    let (views_in, view) = watch::channel(None);
    let (snapshots, published) = watch::channel(Some(PublishedSnapshot {
        snapshot: Arc::new(snapshot(arguments.target)),
        received: Instant::now().into_std(),
    }));
    let (suspects_in, suspects) = mpsc::unbounded_channel();
    let (identity_in, identity) = watch::channel(identity.clone());
    let in_use = mpsc::unbounded_channel().1;
    let inputs = Inputs {
        identity,
        suspects,
        in_use,
        kernel: Arc::new(()),
        clients: Arc::new(()),
        observer: Arc::new(()),
    };
    tasks.spawn(async move {
        health::run(config, inputs, published, views_in).await;
        drop((snapshots, suspects_in, identity_in));
    });
    Ok(view)
}

fn watches(access: &Access, identity: &Identity, tasks: &mut JoinSet<()>) -> Result<()> {
    let (access_in, access) = watch::channel(Arc::new(access.clone()));
    let (alternatives_in, alternatives) = watch::channel(FallbackEndpoints::default());
    let (views_in, views) = watch::channel(None);
    let (snapshots_in, snapshots) = watch::channel(None);
    let config = ApiConfig {
        access,
        service: service()?,
        snapshot: SnapshotOptions::default(),
        alternatives,
        views,
        identity: Arc::new(watch::channel(identity.clone()).0),
        ping_interval: kube::PING_INTERVAL,
        spread_interval: kube::SPREAD_INTERVAL,
    };
    tasks.spawn(async move {
        kube::run(config, snapshots_in, watch::channel(Connection::default()).0).await;
        drop((access_in, alternatives_in, views_in, snapshots));
    });
    Ok(())
}

/// The other API servers get their share: this one gets each third self-test.
fn self_tests(arguments: &Arguments, identity: &Identity, tasks: &mut JoinSet<()>) -> Result<()> {
    let config = SelfTestConfig {
        interval: Duration::from_millis(arguments.selftest_interval) * APISERVERS,
        server_name: TLS_NAME.try_into().context("the server's name")?,
    };
    let frontend = DesiredFrontend {
        vip: arguments.target,
        port_name: "https".into(),
        affinity: Affinity::None,
        backends: vec![arguments.target],
        failed: Vec::new(),
        local_route_allowed: false,
    };
    let state = DesiredState {
        service: service()?,
        frontends: vec![frontend],
        source: SourcePolicy::default(),
        forwarding: false,
    };
    let (reports_in, reports) =
        watch::channel(Report { programmed: Some(Arc::new(state)), ..Report::default() });
    let (identity_in, identity) = watch::channel(identity.clone());
    let (results_in, results) = watch::channel(SelfTestResults::new());
    tasks.spawn(async move {
        selftest::run(config, identity, reports, Arc::new(Blind), Arc::new(Blind), results_in).await;
        drop((reports_in, identity_in, results));
    });
    Ok(())
}

/// Observes no connection.
struct Blind;

impl ConnectionEvidence for Blind {
    fn expect(&self, _: u16) {}

    fn accepted(&self, _: u16) -> Option<SocketAddr> {
        None
    }

    fn counted(&self, _: &BTreeSet<Backend>) -> Option<BTreeMap<Backend, u64>> {
        None
    }

    fn forwarded_counts(&self, _: Vip) -> Option<ForwardedCounts> {
        None
    }

    fn trace(&self, _: SocketAddr, _: Vip, _: &BTreeSet<Backend>) -> Option<ConnectionTrace> {
        None
    }
}

impl SelfTestObserver for Blind {
    fn tested(&self, _: Vip, _: &SelfTestResults) {}
}

fn service() -> Result<ServiceKey> {
    "default/kubernetes".parse().map_err(anyhow::Error::msg)
}

fn is_up(view: &HealthView, target: SocketAddr) -> bool {
    view.state(target) == HealthState::Healthy
}

fn snapshot(target: SocketAddr) -> Snapshot {
    let frontend = Frontend {
        vip: SocketAddr::new(vip(Family::V4), 443),
        port_name: "https".into(),
        affinity: Affinity::None,
        backends: vec![target],
    };
    Snapshot {
        generation: 1,
        service: ServiceStatus::Found,
        frontends: vec![frontend],
        rejected: BTreeSet::new(),
    }
}
