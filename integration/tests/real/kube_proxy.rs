//! Beside a real kube-proxy, in either mode: whoever starts first, apivip serves new connections; a kube-proxy that comes, goes or
//! starts again disturbs nobody, and serves when apivip is removed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::clients::{Clients, Mix};
use integration::command;
use integration::control_plane::{ControlPlane, SERVICE_PORT};
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::Lab;
use integration::real::node::cluster;
use integration::real::node::kube_proxy::{self, KubeProxy, Mode, register_node};
use integration::real::node::services;
use integration::sim::clients::timeline::{Timeline, monotonic_us};

/// A killed process is noticed in 150 ms: a new connection that begins so much later, in milliseconds, is served.
const LEFT: u64 = 2_000;

/// A kube-proxy goes on leading clients to a dead apiserver until its lease of 15 s is over.
const KILLED: Duration = Duration::from_secs(8);

/// Longest until clients of a dead apiserver that kube-proxy leads them to are served again: 15 s are usual. A transaction in which
/// kube-proxy 1.34 writes all Services at once takes as long.
const PATIENCE: Duration = Duration::from_secs(150);

/// Other Services beside which kube-proxy in nftables mode is tried.
const SERVICES: u32 = 5_000;

/// How long clients go on after a change.
const AFTERWARDS: Duration = Duration::from_secs(2);

struct Stage<'lab> {
    lab: &'lab Lab,
    plane: ControlPlane<'lab>,
    options: DaemonOptions,
    proxy: PathBuf,
}

impl<'lab> Stage<'lab> {
    fn start(lab: &'lab Lab) -> Result<Self> {
        let mut plane = ControlPlane::self_published(lab)?;
        register_node(&plane.real()?.client(1), lab)?;
        let options = DaemonOptions::kubeconfig(plane.kubeconfig()?);
        let proxy = kube_proxy::kubeconfig(&mut plane)?;
        Ok(Self { lab, plane, options, proxy })
    }

    fn apivip(&self) -> Result<Daemon> {
        Daemon::start(self.lab.node(), self.lab.dir(), &self.options)
    }

    fn kube_proxy(&self, mode: Mode) -> Result<KubeProxy<'lab>> {
        KubeProxy::start(self.lab, mode, &self.proxy)
    }

    fn clients(&self, name: &str) -> Result<Vec<Clients>> {
        let vip = [SocketAddr::new(self.lab.vips()[0], SERVICE_PORT)];
        let mix = Mix { idle: 0, watch: 4, upload: 0, download: 0, ..Mix::default() };
        let places = [(self.lab.pod(1), "pod"), (self.lab.node(), "node")];
        let start = |(from, place)| {
            Clients::start(from, self.lab.dir(), &format!("{name}-{place}"), &self.plane, &vip, &mix)
        };
        places.map(start).into_iter().collect()
    }

    /// Does something while clients are at work, of which none may fail and none be cut.
    fn undisturbed<T>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let clients = self.clients(name)?;
        let done = work(self).with_context(|| name.to_owned())?;
        thread::sleep(AFTERWARDS);
        for timeline in finish(clients)? {
            let failed: Vec<_> = timeline.connections.iter().filter(|c| c.failed()).collect();
            ensure!(failed.is_empty(), "{name}: {} connections failed: {:#?}", failed.len(), failed.first());
        }
        Ok(done)
    }

    /// Fails unless it is apivip that leads connections: its counters see each of them, and its rules leave a dead apiserver
    /// long before kube-proxy hears of it.
    fn expect_apivip(&mut self, name: &str, daemon: &mut Daemon, victim: u8) -> Result<()> {
        let before = led(daemon)?;
        for from in [self.lab.pod(1), self.lab.node()] {
            for _ in 0..5 {
                self.plane.fetch(from, self.lab.vips()[0])?;
            }
        }
        let led = led(daemon)? - before;
        ensure!(led >= 10, "{name}: apivip led {led} of 10 connections");

        let clients = self.clients(name)?;
        let fault = monotonic_us();
        self.plane.kill(victim)?;
        thread::sleep(KILLED);
        for timeline in finish(clients)? {
            let failed = timeline.failures(timeline.at_ms(fault), LEFT, u64::MAX);
            ensure!(
                failed.is_empty(),
                "{name}: {} connections failed: {:#?}\n{}",
                failed.len(),
                failed.first(),
                daemon.tail()
            );
        }
        self.plane.start_again(victim)?;
        self.wait_published()?;
        daemon.wait_for_backends((self.lab.vips()[0], SERVICE_PORT).into(), &self.everyone())?;
        Ok(())
    }

    fn everyone(&self) -> Vec<SocketAddr> {
        (1..=self.lab.options().apiservers).map(|i| self.plane.apiservers(i)[0]).collect()
    }

    fn wait_published(&mut self) -> Result<()> {
        let everyone = self.everyone();
        self.plane.real()?.wait_for_endpoints(&everyone, PATIENCE)
    }

    fn remove_apivip(&self, daemon: &mut Daemon) -> Result<()> {
        // The kernel closes the daemon's netfilter sockets when it has no transaction of kube-proxy's in hand.
        daemon.stop_within(PATIENCE)?;
        let cleanup = command::finish(daemon.cleanup_command(self.lab.node()), "", PATIENCE)?;
        ensure!(cleanup.status.success(), "cleanup: {}", cleanup.stderr);
        ensure!(self.lab.node().nft_text("table inet apivip").is_err(), "apivip's table is still there");
        Ok(())
    }
}

fn finish(mut clients: Vec<Clients>) -> Result<Vec<Timeline>> {
    clients.iter_mut().try_for_each(Clients::stop)?;
    let timelines: Vec<_> = clients.into_iter().map(Clients::finish).collect::<Result<_>>()?;
    for timeline in &timelines {
        ensure!(timeline.fresh().count() > 20, "only {} new connections", timeline.fresh().count());
    }
    Ok(timelines)
}

/// How many connections the daemon's rules have led to apiservers.
fn led(daemon: &Daemon) -> Result<u64> {
    let metrics = daemon.metrics()?;
    let counts = metrics.lines().filter(|line| line.starts_with("apivip_backend_connections_total{"));
    let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

fn beside(stage: &mut Stage<'_>, mode: Mode, victim: u8) -> Result<()> {
    let name = mode.name();
    // kube-proxy is there first.
    let mut proxy = stage.kube_proxy(mode)?;
    stage.plane.fetch(stage.lab.pod(1), stage.lab.vips()[0]).context("kube-proxy alone")?;
    let mut daemon = stage.undisturbed(&format!("{name}-second"), |stage| stage.apivip())?;
    stage.expect_apivip(&format!("{name}-proxy-first"), &mut daemon, victim)?;
    let proxy = stage.undisturbed(&format!("{name}-restart"), |stage| {
        proxy.kill()?;
        stage.kube_proxy(mode)
    })?;
    stage.undisturbed(&format!("{name}-removed"), |stage| stage.remove_apivip(&mut daemon))?;
    for from in [stage.lab.pod(1), stage.lab.node()] {
        stage.plane.fetch(from, stage.lab.vips()[0]).context("kube-proxy after apivip")?;
    }
    proxy.remove()?;

    // apivip is.
    let mut daemon = stage.apivip()?;
    let proxy = stage.undisturbed(&format!("{name}-late-proxy"), |stage| stage.kube_proxy(mode))?;
    stage.expect_apivip(&format!("{name}-apivip-first"), &mut daemon, victim)?;
    stage.undisturbed(&format!("{name}-proxy-removed"), |_| proxy.remove())?;
    stage.remove_apivip(&mut daemon)
}

#[test]
fn apivip_serves_beside_a_real_kube_proxy_which_serves_when_it_is_removed() -> Result<()> {
    let lab = cluster::lab(2)?;
    let mut stage = Stage::start(&lab)?;
    beside(&mut stage, Mode::Iptables, 1)?;
    services::create(&mut stage.plane, SERVICES)?;
    beside(&mut stage, Mode::Nftables, 2)
}
