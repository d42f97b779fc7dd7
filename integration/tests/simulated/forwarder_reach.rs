//! The forwarder alone: pods and the node reach apiservers through it, which see the node's address; it serves its own
//! addresses in every mode; and when it is killed, nothing claims the virtual IP any longer.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::forwarder::{Stage, devices, is_local};
use integration::lab::{Families, Lab, LabOptions, PodAttachment};

const LIMIT: Duration = Duration::from_secs(20);

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
