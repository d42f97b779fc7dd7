//! The forwarder alone: pods and the node reach apiservers through it, which see the node's address; it serves its own
//! addresses in every mode; and when it is killed, nothing claims the virtual IP any longer.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::daemon::{Daemon, every_backend};
use integration::forwarder::{Stage, devices, is_local};
use integration::lab::{Families, Lab, LabOptions, PodAttachment};

const LIMIT: Duration = Duration::from_secs(20);

/// The values of the series with this beginning, by the value of their label.
fn series<'a>(metrics: &'a str, beginning: &str) -> BTreeMap<&'a str, u64> {
    let of = |line: &'a str| {
        let (label, value) = line.strip_prefix(beginning)?.split_once("\"} ")?;
        Some((label, value.parse().ok()?))
    };
    metrics.lines().filter_map(of).collect()
}

/// Waits until the status and the metrics say of each API server the same number of forwarded connections, which add up to
/// all that were accepted, and none is open.
fn expect_counted(daemon: &Daemon) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (metrics, status) = (daemon.metrics()?, daemon.status()?);
        let accepted = series(&metrics, "apivip_forwarder_accepted_total{listener=\"");
        let counted = series(&metrics, "apivip_forwarder_backend_connections_total{backend=\"");
        let shown: BTreeMap<&str, u64> = every_backend(&status)
            .filter_map(|b| Some((b["address"].as_str()?, b["forwarded_connections"].as_u64()?)))
            .filter(|(_, total)| *total > 0)
            .collect();
        let none_is_open = every_backend(&status).all(|backend| backend["forwarded_open"] == 0);
        let adds_up = counted.values().sum::<u64>() == accepted.values().sum::<u64>();
        if none_is_open && adds_up && counted == shown && counted.len() > 1 {
            return Ok(());
        }
        let late = Instant::now() >= deadline;
        ensure!(!late, "accepted: {accepted:?}, metrics: {counted:?}, status: {shown:?}\n{status:#}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn reached(families: Families, attachment: PodAttachment) -> Result<()> {
    let lab = Lab::start(LabOptions { families, attachment, ..LabOptions::default() })?;
    let stage = Stage::start(&lab, "forwarder")?;
    let before = devices(lab.node())?;
    let mut daemon = stage.daemon("forwarder")?;
    for vip in lab.vips() {
        ensure!(is_local(lab.node(), vip)?, "{vip} is not local while the forwarder serves it");
    }
    ensure!(devices(lab.node())?.len() > before.len(), "the route hangs on no device of its own");
    stage.expect_forwarded("through the forwarder")?;
    stage.expect_listening()?;
    expect_counted(&daemon)?;
    daemon.kill()?;
    ensure!(devices(lab.node())? == before, "{:?} instead of {before:?}", devices(lab.node())?);
    for vip in lab.vips() {
        ensure!(!is_local(lab.node(), vip)?, "{vip} is local, and nobody serves it");
        ensure!(stage.scenario.plane.fetch(lab.pod(1), vip).is_err(), "somebody serves {vip}");
    }
    Ok(())
}

#[test]
fn pods_and_node_are_served_in_ipv4() -> Result<()> {
    reached(Families::V4, PodAttachment::Routed)
}

#[test]
fn pods_and_node_are_served_in_ipv6() -> Result<()> {
    reached(Families::V6, PodAttachment::Routed)
}

#[test]
fn pods_and_node_are_served_in_both() -> Result<()> {
    reached(Families::Dual, PodAttachment::Routed)
}

#[test]
fn bridged_pods_are_served() -> Result<()> {
    reached(Families::Dual, PodAttachment::Bridged { netfilter: false })
}

#[test]
fn its_own_addresses_are_served_in_every_mode() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    for (mode, dataplane) in [("nftables", "nftables"), ("auto", "nftables"), ("forwarder", "forwarder")] {
        let stage = Stage::start(&lab, mode)?;
        let mut daemon = stage.daemon(dataplane)?;
        stage.expect_listening()?;
        if dataplane == "nftables" {
            stage.scenario.expect_everybody(&format!("in mode {mode}"))?;
            ensure!(!is_local(lab.node(), lab.vips()[0])?, "in mode {mode} the virtual IP is local");
        }
        daemon.stop()?;
        stage.scenario.cleanup(&daemon)?;
    }
    Ok(())
}

#[test]
fn forced_to_nftables_it_never_takes_over() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab, "nftables")?;
    stage.faults.set(integration::nftfault::Fault::NotPermitted)?;
    let mut daemon = stage.daemon("none")?;
    daemon.wait_for_phase("failed", LIMIT)?;
    ensure!(!is_local(lab.node(), lab.vips()[0])?, "the forwarder has taken over");
    stage.expect_listening()?;
    stage.faults.clear()?;
    daemon.wait_for_dataplane("nftables", LIMIT)?;
    stage.scenario.expect_everybody("after the fault")
}
