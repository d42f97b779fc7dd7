//! What a long life of watching leaves behind: reconnects and watch events by the thousand, in a process that does
//! nothing but read the API. Memory and descriptors must stay what they were.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use apivip::kube::{self, ApiConfig, Connection, ConnectionState};
use apivip::model::snapshot::SnapshotOptions;
use apivip::model::sources::FallbackEndpoints;
use apivip::transport::Access;
use clap::Args;
use integration::command;
use integration::control_plane::{ControlPlane, Variant};
use integration::kubeconfig::{Authority, Kubeconfig, User};
use integration::lab::{Lab, LabOptions};
use integration::process::Spawned;
use integration::sim::objects;
use integration::sim::protocol::{Injection, Resource};
use tokio::sync::watch;
use tokio::time::timeout;

/// Lines in one order to the simulated API server.
const CHUNK: u64 = 1000;
/// Longest for one reconnect, and for the events of a chunk. Each takes some milliseconds.
const LIMIT: Duration = Duration::from_secs(30);
/// After so many reconnects or events everything that grows once has grown.
const WARM: u64 = 200;
/// What may be more at the end: connections that are just being closed, and what an allocator keeps.
const DESCRIPTORS: usize = 8;
const KILOBYTES: u64 = 2048;

/// How much.
#[derive(Args, Clone, Copy)]
pub struct Amount {
    /// Reconnects to the API, instead of faults
    #[arg(long, default_value_t = 0)]
    pub reconnects: u64,
    /// Watch events, instead of faults
    #[arg(long, default_value_t = 0)]
    pub events: u64,
}

/// Starts a control plane and a reader, and feeds it.
pub fn feed(amount: Amount) -> Result<()> {
    let lab = Lab::start(LabOptions { apiservers: 1, ..LabOptions::default() })?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let mut reader = lab.node().command(command::program("soak")?);
    reader.args(["--reconnects", &amount.reconnects.to_string(), "--events", &amount.events.to_string()]);
    for kubeconfig in kubeconfigs(&lab, &plane)? {
        reader.arg("--kubeconfig").arg(kubeconfig);
    }
    let mut reader = Spawned::start("reader", reader, lab.dir())?;
    reader.wait_for_line("reconnected", LIMIT * u32::try_from(amount.reconnects / 100 + 1)?)?;
    let backends = lab.apiserver_addresses(1);
    let ports = [objects::Port::new("https", 6443)];
    let mut version = 1_000_000_u64;
    for sent in (0..amount.events + WARM * CHUNK).step_by(usize::try_from(CHUNK)?) {
        // Every other chunk has an address more, so that snapshots change as well.
        let mut listed = backends.clone();
        listed.extend((sent / CHUNK % 2 == 1).then(|| std::net::IpAddr::from([192, 0, 2, 99])));
        let mut object = objects::endpoint_slice(objects::SERVICE, "IPv4", &listed, &ports);
        let mut lines = String::new();
        for _ in 0..CHUNK {
            version += 1;
            object["metadata"]["resourceVersion"] = version.to_string().into();
            lines += &format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}\n");
        }
        let lines = lines.trim_end().to_owned();
        let injected = plane.fleet()?.on(1, |control| async move {
            control.inject(Some(Resource::EndpointSlices), Injection::Line(lines)).await
        })?;
        ensure!(injected == 1, "{injected} watches instead of one");
        reader.wait_for_line(&format!("at {}", sent + CHUNK), LIMIT)?;
    }
    let status = reader.wait(LIMIT)?;
    print!("{}", last_lines(&reader.stdout()));
    ensure!(status.success(), "the reader ended with {status}\n{}", reader.tail());
    Ok(())
}

fn last_lines(text: &str) -> String {
    text.lines().filter(|line| line.contains("resident")).map(|line| format!("{line}\n")).collect()
}

/// Two users that the API takes for the same: to change between them needs a new connection.
fn kubeconfigs(lab: &Lab, plane: &ControlPlane<'_>) -> Result<[PathBuf; 2]> {
    let server = SocketAddr::new(lab.apiserver_addresses(1)[0], plane.apiservers(1)[0].port());
    let ca = fs::read_to_string(plane.authority()).context("read the CA")?;
    // The second names the same CA twice.
    let [first, second] = [("first", ca.clone()), ("second", format!("{ca}{ca}"))].map(|(name, ca)| {
        let path = lab.dir().join(format!("{name}.kubeconfig"));
        let user = User::Token(plane.token().to_owned());
        let config = Kubeconfig::new(format!("https://{server}"), Authority::Inline(ca), user);
        config.write(&path).map(|()| path)
    });
    Ok([first?, second?])
}

/// The reader's side.
pub async fn read(amount: Amount, kubeconfigs: &[PathBuf]) -> Result<()> {
    let mut users = Vec::new();
    for path in kubeconfigs {
        users.push(Arc::new(load(path).await?));
    }
    let first = users.first().context("a kubeconfig")?;
    let (access_in, access) = watch::channel(Arc::clone(first));
    let (snapshots_in, snapshots) = watch::channel(None);
    let (connection_in, mut connection) = watch::channel(Connection::default());
    let (_alternatives_in, alternatives) = watch::channel(FallbackEndpoints::default());
    let service = "default/kubernetes".parse().map_err(anyhow::Error::msg)?;
    let snapshot = SnapshotOptions::default();
    let identity = Arc::new(watch::channel(first.identity().await.map_err(anyhow::Error::msg)?).0);
    let views = watch::channel(None).1;
    tokio::spawn(kube::run(
        ApiConfig {
            access,
            service,
            snapshot,
            alternatives,
            views,
            identity,
            ping_interval: kube::PING_INTERVAL,
            spread_interval: kube::SPREAD_INTERVAL,
        },
        snapshots_in,
        connection_in,
    ));
    let synced = connection.wait_for(|connection| connection.state == ConnectionState::Synced);
    timeout(LIMIT, synced).await.context("the API")??;

    let mut held = None;
    for turn in 1..=amount.reconnects + WARM {
        let user = &users[usize::try_from(turn)? % users.len()];
        access_in.send_replace(Arc::clone(user));
        let turned = connection.wait_for(|c| c.reconnects >= turn && c.address.is_some());
        timeout(LIMIT, turned).await.with_context(|| format!("reconnect {turn}"))??;
        if turn == WARM {
            held = Some(Held::now()?);
        }
    }
    if let Some(held) = held.take().filter(|_| amount.reconnects > 0) {
        held.compare(&format!("{} reconnects", amount.reconnects))?;
    }
    println!("reconnected");

    let before = connection.borrow().events;
    for sent in (0..amount.events + WARM * CHUNK).step_by(usize::try_from(CHUNK)?) {
        let heard = connection.wait_for(|c| c.events >= before + sent + CHUNK);
        timeout(LIMIT, heard).await.with_context(|| format!("event {}", sent + CHUNK))??;
        if sent + CHUNK == WARM * CHUNK {
            held = Some(Held::now()?);
        }
        println!("at {}", sent + CHUNK);
    }
    if let Some(held) = held.filter(|_| amount.events > 0) {
        held.compare(&format!("{} events", amount.events))?;
    }
    drop(snapshots);
    Ok(())
}

async fn load(path: &Path) -> Result<Access> {
    Ok(apivip::transport::load(Some(path), None)?)
}

/// What this process holds.
struct Held {
    descriptors: usize,
    kilobytes: u64,
}

impl Held {
    fn now() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("find VmRSS")?;
        let kilobytes = resident.trim().trim_end_matches(" kB").parse().context("parse VmRSS")?;
        let descriptors = fs::read_dir("/proc/self/fd").context("list descriptors")?.count();
        Ok(Self { descriptors, kilobytes })
    }

    fn compare(&self, after: &str) -> Result<()> {
        let now = Self::now()?;
        println!(
            "{after}: {} kB resident before, {} kB after; {} descriptors before, {} after",
            self.kilobytes, now.kilobytes, self.descriptors, now.descriptors
        );
        ensure!(now.descriptors <= self.descriptors + DESCRIPTORS, "descriptors leak");
        ensure!(now.kilobytes <= self.kilobytes + KILOBYTES, "memory grows");
        Ok(())
    }
}
