//! nftables is refused from the start, or a commit hangs: the forwarder serves, the log says why, and hands back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::control_plane::SERVICE_PORT;
use integration::forwarder::{Stage, echo_vips};
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::load::{Load, Plan};
use integration::nftfault::Fault;
use integration::sources;

const HANDED_BACK: Duration = Duration::from_secs(20);
/// Other programs may hold a commit up for eight seconds, and the daemon waits longer than that before it gives up.
const GIVEN_UP: Duration = Duration::from_secs(90);
const CONNECTS: u32 = 1_000;

#[test]
fn refused_from_the_start() -> Result<()> {
    let refusals = Fault::REFUSALS.into_iter().chain([Fault::NoSocket]);
    for (fault, families) in refusals.zip([Families::V4, Families::V6, Families::Dual].into_iter().cycle()) {
        let lab = Lab::start(LabOptions { families, ..LabOptions::default() })?;
        let stage = Stage::start(&lab, "auto")?;
        stage.faults.set(fault)?;
        let begin = Instant::now();
        let mut daemon = stage.daemon("forwarder").with_context(|| format!("{fault:?} at the start"))?;
        println!("{fault:?}: the forwarder serves {:?} after the start", begin.elapsed());
        let reason = fault.reason().unwrap_or_default();
        ensure!(daemon.log().contains(reason), "the log does not say {reason:?}\n{}", daemon.log());
        let told = daemon.status()?["dataplane"]["reason"].clone();
        ensure!(told.as_str().is_some_and(|told| told.contains(reason)), "the status says {told}");
        stage.expect_forwarded(&format!("with {fault:?} from the start"))?;
        stage.faults.clear()?;
        daemon.wait_for_dataplane("nftables", HANDED_BACK).with_context(|| format!("after {fault:?}"))?;
        stage.scenario.expect_everybody(&format!("after {fault:?}"))?;
    }
    Ok(())
}

#[test]
fn a_commit_that_hangs() -> Result<()> {
    let _turn = crate::alone();
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut stage = Stage::start(&lab, "auto")?;
    let mut daemon = stage.daemon("nftables")?;
    let (vips, sources) = (echo_vips(&lab), sources::add(&lab, 4)?);
    let plan = Plan { sources: &sources, established: 20, ..Plan::new("echo", &vips, CONNECTS) };
    let load = Load::planned(lab.pod(1), lab.dir(), "load", &plan)?;
    stage.faults.set(Fault::Hanging)?;
    stage.touch(0)?;
    let begin = Instant::now();
    daemon.wait_for_dataplane("forwarder", GIVEN_UP)?;
    println!("the forwarder has taken over {:?} after the commit began to hang", begin.elapsed());
    // What is published meanwhile is served at once, by the forwarder.
    stage.scenario.plane.publish_apiservers(&[2, 3])?;
    stage.expect_forwarded("while a commit hangs")?;
    stage.faults.clear()?;
    daemon.wait_for_dataplane("nftables", HANDED_BACK)?;
    daemon.explain(load.finish_clean())?;
    for family in lab.families().iter().copied() {
        // Any of the pod's addresses that were added, but its own.
        let seen = stage.scenario.reach(lab.pod(1), family)?;
        ensure!(!seen.contains(&addresses::node(family)), "{family} is still forwarded: {seen:?}");
    }
    let wanted: Vec<SocketAddr> =
        lab.vips().into_iter().map(|ip| SocketAddr::new(ip, SERVICE_PORT)).collect();
    let status = daemon.status()?;
    let served = |vip: &SocketAddr| {
        let frontends = status["frontends"].as_array();
        frontends.is_some_and(|all| all.iter().any(|frontend| frontend["vip"] == vip.to_string()))
    };
    ensure!(wanted.iter().all(served), "{status:#}");
    Ok(())
}
