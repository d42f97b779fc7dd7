//! The probers of many nodes in one process, all of them asking one apiserver. Prints `ready` once all have a
//! connection, then works until it is killed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apivip::apiserver::TLS_NAME;
use apivip::model::health::machine::HealthOptions;
use apivip::model::health::{HealthView, State};
use apivip::model::published::Published;
use apivip::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot};
use apivip::probe::{self, Inputs, ProbeConfig};
use apivip::readyz::{Credentials, Identity};
use clap::Parser;
use integration::lab::addresses::vip;
use integration::process::raise_descriptors;
use integration::tls;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Longest until the first answer of the last one.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Arguments {
    /// The apiserver
    #[arg(long)]
    target: SocketAddr,
    /// The CA of its certificate
    #[arg(long)]
    ca: PathBuf,
    /// The bearer token that each of them shows; without it they are strangers
    #[arg(long)]
    token: Option<String>,
    /// How many nodes
    #[arg(long)]
    nodes: u32,
    /// How many nodes start each second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Between two PINGs, in ms
    #[arg(long, default_value_t = 15_000)]
    ping_interval: u64,
    /// Between two questions for `/readyz`, in ms
    #[arg(long, default_value_t = 60_000)]
    readyz_interval: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    raise_descriptors()?;
    let authorization = match &arguments.token {
        Some(token) => Some(format!("Bearer {token}").try_into().context("the token")?),
        None => None,
    };
    let identity = Identity {
        trust: tls::client_config(&arguments.ca, &[])?,
        credentials: Credentials::new(None, authorization),
    };
    let config = ProbeConfig {
        interval: Duration::from_secs(1),
        ping_interval: Duration::from_millis(arguments.ping_interval),
        readyz_interval: Duration::from_millis(arguments.readyz_interval),
        server_name: TLS_NAME.try_into().context("the server's name")?,
        health: HealthOptions {
            fall: 2,
            rise: 2,
            removal_grace: Duration::from_secs(30),
            drain_timeout: None,
        },
    };
    let mut tasks = JoinSet::new();
    let mut views = Vec::new();
    for _ in 0..arguments.nodes {
        let (views_in, view) = watch::channel(None);
        let (snapshots, published) = watch::channel(Some(Published {
            snapshot: Arc::new(snapshot(arguments.target)),
            received: Instant::now().into_std(),
        }));
        let (suspects_in, suspects) = mpsc::unbounded_channel();
        let (identity_in, identity) = watch::channel(identity.clone());
        let in_use = mpsc::unbounded_channel().1;
        let inputs = Inputs { identity, suspects, in_use, kernel: Arc::new(()), observer: Arc::new(()) };
        let config = config.clone();
        tasks.spawn(async move {
            probe::run(config, inputs, published, views_in).await;
            drop((snapshots, suspects_in, identity_in));
        });
        views.push(view);
        sleep(Duration::from_secs(1) / arguments.rate).await;
    }
    for view in &mut views {
        let up = view.wait_for(|view| view.as_ref().is_some_and(|view| is_up(view, arguments.target)));
        timeout(LIMIT, up).await.context("an apiserver that is up in time")??;
    }
    println!("ready");
    tasks.join_next().await;
    bail!("a prober ended")
}

fn is_up(view: &HealthView, target: SocketAddr) -> bool {
    view.state(target) == State::Up
}

fn snapshot(target: SocketAddr) -> Snapshot {
    let frontend = Frontend {
        vip: SocketAddr::new(vip(apivip::model::types::Family::V4), 443),
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
