//! The daemon is stopped, killed and restarted under load: no connection fails, counters never decrease, and an input
//! that means the same as before is not programmed again.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::{Lab, LabOptions, addresses};
use integration::load::Load;
use integration::netns::Namespace;
use integration::process::Spawned;

/// Without the table itself: nft 1.0.6 breaks its JSON off at the flags of an orphan.
const COUNTERS: &str = "counters table inet apivip";
/// Until nft monitor has shown what it heard.
const EVENTS: Duration = Duration::from_secs(20);
const OK_COMMITS: &str = "apivip_commits_total{outcome=\"ok\"}";

/// How long a stretch with or without the daemon lasts.
const STRETCH: Duration = Duration::from_millis(800);

/// The sum of the counters of backends, in packets: new connections. Other counters of the table count the same ones on their way.
pub(crate) fn counted(node: &Namespace) -> Result<u64> {
    let listed = node.nft_json(COUNTERS)?;
    let objects = listed["nftables"].as_array().context("no list of objects")?;
    let of_backends = objects
        .iter()
        .map(|object| &object["counter"])
        .filter(|counter| counter["name"].as_str().is_some_and(|name| name.starts_with("backend-")));
    let counters: Vec<u64> = of_backends.filter_map(|counter| counter["packets"].as_u64()).collect();
    ensure!(!counters.is_empty(), "no counter in {listed}");
    Ok(counters.iter().sum())
}

/// What the daemon says that all frontends together sent to all backends.
fn told(daemon: &Daemon) -> Result<u64> {
    let status = daemon.status()?;
    let frontends = status["frontends"].as_array().context("no frontends")?;
    let backends = frontends.iter().filter_map(|f| f["backends"].as_array()).flatten();
    Ok(backends.filter_map(|b| b["connections"].as_u64()).sum())
}

/// `kind` of connections to this port of the Service.
pub(crate) fn no_connection_fails(variant: Variant, kind: &str, port: u16) -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let plane = ControlPlane::serving(&lab, variant)?;
    // Every connection is counted, and the daemon makes none itself.
    let options = DaemonOptions::kubeconfig(plane.kubeconfig()?).arg("--selftest-interval=off");
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    let vip = SocketAddr::new(addresses::VIP_V4.into(), port);
    let load = Load::start(lab.pod(1), lab.dir(), "load", kind, &[vip], 1000)?;
    let (mut kernel, mut status) = (counted(lab.node())?, told(&daemon)?);
    for by in ["SIGTERM", "SIGKILL", "SIGTERM", "SIGKILL"] {
        if by == "SIGKILL" {
            daemon.kill()?;
        } else {
            let (exit, took) = daemon.stop()?;
            ensure!(exit.code() == Some(0), "after {by} the daemon ended with {exit}\n{}", daemon.log());
            println!("the daemon ended {took:?} after {by}");
        }
        thread::sleep(STRETCH);
        let without = counted(lab.node())?;
        ensure!(without > kernel, "after {by}: the counters went from {kernel} to {without}");
        daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
        let (now, told) = (counted(lab.node())?, told(&daemon)?);
        ensure!(now >= without, "the restart after {by} set the counters from {without} back to {now}");
        ensure!(told >= status, "the restart after {by} set the totals from {status} back to {told}");
        (kernel, status) = (now, told);
        thread::sleep(STRETCH);
    }
    let report = load.finish_clean()?;
    let counted = counted(lab.node())?;
    ensure!(counted == report.attempted, "{counted} connections counted, {} opened", report.attempted);
    Ok(())
}

/// `annotate` gives the endpoints of all apiservers an annotation with this value.
pub(crate) fn the_same_programs_nothing(
    variant: Variant,
    annotate: impl Fn(&mut ControlPlane<'_>, &str) -> Result<()>,
) -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, variant)?;
    let options = DaemonOptions::kubeconfig(plane.kubeconfig()?);
    let daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    let mut monitor = lab.node().command("nft");
    monitor.args(["monitor"]);
    let mut monitor = Spawned::start("monitor", monitor, lab.dir())?;
    // It says nothing when it is ready; a change that it does see tells that.
    let (mut seen, mut last) = (String::new(), 0);
    for attempt in 0..100 {
        last = attempt;
        lab.node().nft_load(&format!("add table inet probe{attempt}\ndelete table inet probe{attempt}\n"))?;
        seen = monitor.stdout();
        if !seen.is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    ensure!(!seen.is_empty(), "nft monitor shows nothing\n{}", monitor.tail());
    let last = format!("delete table inet probe{last}\n");
    monitor.wait_until("the end of the last probe", EVENTS, |monitor| {
        let text = monitor.stdout();
        let (_, rest) = text.rsplit_once(&last).unwrap_or_default();
        Ok(rest.contains("new generation").then_some(()))
    })?;
    let quiet = monitor.stdout();

    let (commits, events) = (daemon.metric(OK_COMMITS)?, daemon.metric("apivip_api_events_total")?);
    plane.put_service(&lab.vips(), false)?;
    plane.publish_apiservers(&[1, 2, 3])?;
    plane.publish_apiservers(&[3, 1, 2])?;
    for value in ["one", "two", "three"] {
        annotate(&mut plane, value)?;
    }
    let arrived = wait_for_events(&daemon, events + 3)?;
    thread::sleep(Duration::from_millis(500));
    let after = daemon.metric(OK_COMMITS)?;
    ensure!(after == commits, "{} events without meaning made {} commits", arrived - events, after - commits);
    let said = monitor.stdout();
    ensure!(said == quiet, "nft monitor shows\n{}", &said[quiet.len()..]);

    plane.publish_apiservers(&[1, 2])?;
    monitor.wait_until("the change of a meaningful event", EVENTS, |monitor| {
        Ok((monitor.stdout().len() > quiet.len()).then_some(()))
    })?;
    Ok(())
}

fn wait_for_events(daemon: &Daemon, least: u64) -> Result<u64> {
    for _ in 0..200 {
        let events = daemon.metric("apivip_api_events_total")?;
        if events >= least {
            return Ok(events);
        }
        thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("fewer than {least} watch events arrived\n{}", daemon.metrics()?)
}
