//! Long streams and misbehaving peers as a test runs them, in namespaces: servers beside the apiservers, published as a
//! port of the Service of its own, and clients anywhere.
//! In: what happens on a connection. Out: nothing where both sides agree on what was carried, or an error.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::command;
use crate::control_plane::ControlPlane;
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::process::{Signal, Spawned};
use crate::sim::objects::Port;
use crate::sim::streams::idle::Examined;
use crate::sim::streams::record::{End, Record};

mod case;

pub use case::{Case, Kind};

/// The port that the servers listen on.
pub const PORT: u16 = 7009;
/// The Service's port that leads there.
pub const SERVICE_PORT: u16 = 9;

/// Longest until a program is ready, 10,000 connections included.
const READY: Duration = Duration::from_secs(60);
/// Longest until a server has recorded a connection that has ended for its client.
const RECORDED: Duration = Duration::from_secs(20);

static NUMBER: AtomicU64 = AtomicU64::new(1);

/// One server per apiserver of a lab. Dropping them ends them.
#[derive(Debug)]
pub struct Servers(Vec<Spawned>);

impl Servers {
    /// Starts them at every apiserver's addresses.
    pub fn start(lab: &Lab) -> Result<Self> {
        let one = |i: u8| -> Result<Spawned> {
            let addresses = lab.apiserver_addresses(i).into_iter().map(|ip| SocketAddr::new(ip, PORT));
            server(lab.apiserver(i), lab, &format!("streams-{i}"), &addresses.collect::<Vec<_>>())
        };
        (1..=lab.options().apiservers).map(one).collect::<Result<_>>().map(Self)
    }

    /// Publishes their port, beside the others, for these apiservers.
    pub fn publish(&self, plane: &ControlPlane<'_>, numbers: &[u8]) -> Result<()> {
        plane.publish_beside(numbers, Port::new("streams", SERVICE_PORT), Port::new("streams", PORT))
    }

    /// Kills server `i` with SIGKILL.
    pub fn kill(&mut self, i: u8) -> Result<()> {
        let server = usize::from(i).checked_sub(1).and_then(|index| self.0.get_mut(index));
        server.with_context(|| format!("there is no server {i}"))?.kill().map(drop)
    }

    /// Has a client do all of this at the other side of `target`, and fails unless both sides agree.
    pub fn run(&self, from: &Namespace, target: SocketAddr, case: &Case) -> Result<()> {
        let id = u64::from(std::process::id()) << 32 | NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut client = from.command(command::program("streams")?);
        client.args(["run", "--target", &target.to_string(), "--kind", case.kind.name()]);
        client.args(["--id", &id.to_string(), "--bytes", &case.bytes.to_string()]);
        for (argument, time) in [
            ("--wait", case.wait),
            ("--client-pause", case.client_pause),
            ("--server-pause", case.server_pause),
        ] {
            client.args([argument, &time.as_millis().to_string()]);
        }
        let what = || format!("{} through {target} from {}", case.title, from.name());
        let finished = command::finish(client, "", case.limit()).with_context(what)?;
        ensure!(finished.status.success(), "{}: {}", what(), finished.stderr);
        let record = self.record(id).with_context(what)?;
        let expected = match case.kind {
            Kind::ServerResets => End::Aborted,
            Kind::ClientResets => End::Reset,
            _ => End::Closed,
        };
        // What a reset overtakes is lost with it.
        let all = case.kind != Kind::HalfClosed || record.received == case.bytes;
        ensure!(record.end == expected && !record.wrong && all, "{}: the server saw {record:?}", what());
        Ok(())
    }

    /// Waits for what a server has recorded of a connection.
    fn record(&self, id: u64) -> Result<Record> {
        let deadline = Instant::now() + RECORDED;
        while Instant::now() < deadline {
            for server in &self.0 {
                let output = server.stdout();
                let records = output.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok());
                if let Some(record) = records.into_iter().find(|record| record.id == id) {
                    return Ok(record);
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("no server has recorded the end of the connection within {RECORDED:?}")
    }
}

/// Starts a server and waits until it listens.
pub fn server(at: &Namespace, lab: &Lab, name: &str, addresses: &[SocketAddr]) -> Result<Spawned> {
    let mut command = at.command(command::program("streams")?);
    command.arg("serve");
    for address in addresses {
        command.arg("--listen").arg(address.to_string());
    }
    let mut server = Spawned::start(name, command, lab.dir())?;
    server.wait_for_line("ready", READY)?;
    Ok(server)
}

/// Connections on which nothing happens.
#[derive(Debug)]
pub struct Idle(Spawned);

impl Idle {
    /// Opens `count` of them; those that are not silent have carried bytes when this returns.
    pub fn start(
        from: &Namespace,
        lab: &Lab,
        targets: &[SocketAddr],
        sources: &[IpAddr],
        count: usize,
        silent: bool,
    ) -> Result<Self> {
        let mut command = from.command(command::program("streams")?);
        command.args(["idle", "--count", &count.to_string()]);
        for target in targets {
            command.args(["--target", &target.to_string()]);
        }
        for source in sources {
            command.args(["--source", &source.to_string()]);
        }
        if silent {
            command.arg("--silent");
        }
        let name = format!("idle-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut process = Spawned::start(&name, command, lab.dir())?;
        process.wait_for_line("ready", READY)?;
        Ok(Self(process))
    }

    /// Has each of them carry bytes, and says how many did.
    pub fn finish(mut self) -> Result<Examined> {
        self.0.signal(Signal::TERM)?;
        let status = self.0.wait(READY)?;
        ensure!(status.success(), "the client ended with {status}\n{}", self.0.tail());
        let output = self.0.stdout();
        serde_json::from_str(output.lines().last().unwrap_or_default()).context("parse what the client says")
    }

    /// Fails unless each of them carries bytes.
    pub fn finish_clean(self) -> Result<()> {
        let examined = self.finish()?;
        ensure!(examined.working == examined.opened, "connections broke: {examined:?}");
        Ok(())
    }
}
