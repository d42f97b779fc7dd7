//! The figures of `docs/benchmarks.md`: memory, reaction time and replacements under load of the daemon that was
//! built beside this program. `scripts/bench` builds both in release mode and runs it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::command::program;
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::addresses::vip;
use integration::lab::{Families, Lab, LabOptions};
use integration::load::Load;
use integration::sim::objects;

const SETTLE: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(10);
const OTHER_SERVICES: u16 = 5_000;
const REPLACEMENTS: u32 = 200;
const CONNECTIONS_PER_SECOND: u32 = 3_000;
const EVENTS: u32 = 1_000;

fn main() -> Result<()> {
    let binary = program("apivip")?;
    println!("binary: {} bytes", std::fs::metadata(&binary)?.len());
    let lab = Lab::start(LabOptions { families: Families::V4, ..LabOptions::default() })?;
    let mut control_plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let options = DaemonOptions::kubeconfig(control_plane.kubeconfig()?);
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    idle("idle, 1 Service in the cluster", &daemon)?;
    reactions(&mut control_plane, &daemon)?;
    replacements(&lab, &mut control_plane, &daemon)?;
    daemon.stop()?;
    for i in 0..OTHER_SERVICES {
        control_plane.fleet()?.put(&other_service(i))?;
    }
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    idle("idle, 5,000 other Services in the cluster", &daemon)?;
    daemon.stop()?;
    Ok(())
}

/// Resident memory and processor time of a daemon that has nothing to do.
fn idle(what: &str, daemon: &Daemon) -> Result<()> {
    let before = processor_ticks(daemon)?;
    std::thread::sleep(SETTLE);
    let ticks = processor_ticks(daemon)? - before;
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let field = |name: &str| {
        status.lines().find_map(|l| l.strip_prefix(name)).map_or("?", str::trim).replace('\t', " ")
    };
    println!(
        "{what}: VmRSS {}, of which RssAnon {}; VmHWM {}; {ticks} clock ticks of 10 ms in {} s",
        field("VmRSS:"),
        field("RssAnon:"),
        field("VmHWM:"),
        SETTLE.as_secs()
    );
    Ok(())
}

/// utime and stime of proc_pid_stat(5).
fn processor_ticks(daemon: &Daemon) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid()))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// Endpoints change one by one; the daemon's own histogram has the time from event to commit.
fn reactions(control_plane: &mut ControlPlane<'_>, daemon: &Daemon) -> Result<()> {
    for round in 0..EVENTS {
        change(control_plane, round)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("{EVENTS} changes of the endpoints, watch event received -> transaction committed:");
    for line in daemon.metrics()?.lines().filter(|l| l.starts_with("apivip_reaction_seconds_")) {
        println!("  {line}");
    }
    for line in daemon.metrics()?.lines().filter(|l| l.starts_with("apivip_commit_seconds_sum")) {
        println!("  {line}");
    }
    Ok(())
}

/// The table is replaced while a Pod opens connections at a fixed rate.
fn replacements(lab: &Lab, control_plane: &mut ControlPlane<'_>, daemon: &Daemon) -> Result<()> {
    let target = SocketAddr::new(vip(apivip::model::types::Family::V4), 7);
    let before = commits(daemon)?;
    let load = Load::start(lab.pod(1), lab.dir(), "load", "tcp", &[target], CONNECTIONS_PER_SECOND)?;
    let mut round = 0;
    let deadline = Instant::now() + LIMIT * 6;
    while commits(daemon)? < before + REPLACEMENTS {
        ensure!(Instant::now() < deadline, "too few replacements: {}", commits(daemon)? - before);
        change(control_plane, round)?;
        round += 1;
        std::thread::sleep(Duration::from_millis(40));
    }
    let report = load.finish_clean()?;
    println!(
        "{} replacements under {CONNECTIONS_PER_SECOND} new connections/s: {} of {} failed",
        commits(daemon)? - before,
        report.attempted - report.ok,
        report.attempted
    );
    Ok(())
}

fn change(control_plane: &mut ControlPlane<'_>, round: u32) -> Result<()> {
    let numbers: &[u8] = if round.is_multiple_of(2) { &[1, 2] } else { &[1, 2, 3] };
    control_plane.publish_apiservers(numbers)
}

fn commits(daemon: &Daemon) -> Result<u32> {
    let metrics = daemon.metrics()?;
    let line = metrics.lines().find_map(|l| l.strip_prefix("apivip_commits_total{outcome=\"ok\"} "));
    line.and_then(|n| n.parse().ok()).context("no counter of commits")
}

fn other_service(i: u16) -> serde_json::Value {
    let [high, low] = i.to_be_bytes();
    let mut service = objects::service(
        &[IpAddr::from([10, 96, 100 + high, low])],
        &[objects::Port::new("http", 80)],
        false,
    );
    service["metadata"]["name"] = format!("other-{i}").into();
    service
}
