//! SIGTERM: the forwarder stops to accept, open connections live on for the grace, then they are reset; a new daemon takes
//! over meanwhile, and no connection is refused at the switch.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::daemon::Daemon;
use integration::forwarder::{Stage, echo_vips, stream_vips};
use integration::lab::{Families, Lab, LabOptions};
use integration::load::{Load, Plan};
use integration::process::Signal;
use integration::sources;
use integration::streams::Idle;

const GRACE: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(20);
const CONNECTS: u32 = 1_000;

#[test]
fn open_connections_live_for_the_grace_and_are_reset() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut stage = Stage::start(&lab, "forwarder")?;
    let grace = format!("{}s", GRACE.as_secs());
    stage.options().arguments.extend(["--drain-grace".to_owned(), grace]);
    let mut daemon = stage.daemon("forwarder")?;
    let idle = || Idle::start(lab.pod(1), &lab, &stream_vips(&lab), &[], 20, false);
    let (early, late) = (idle()?, idle()?);
    let begin = Instant::now();
    daemon.process().signal(Signal::TERM)?;
    thread::sleep(GRACE / 4);
    early.finish_clean().context("a connection was cut within the grace")?;
    ensure!(daemon.process().exited()?.is_none(), "the daemon ended within the grace\n{}", daemon.log());
    for vip in lab.vips() {
        ensure!(stage.scenario.plane.fetch(lab.pod(1), vip).is_err(), "{vip} is served while draining");
    }
    let exit = daemon.process().wait(GRACE + LIMIT)?;
    ensure!(exit.code() == Some(0), "the daemon ended with {exit}\n{}", daemon.log());
    ensure!(begin.elapsed() >= GRACE, "it ended after {:?}", begin.elapsed());
    let examined = late.finish()?;
    ensure!(examined.told == examined.opened, "some were not told: {examined:?}");
    Ok(())
}

#[test]
fn with_nothing_open_it_ends_at_once() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab, "forwarder")?;
    let mut daemon = stage.daemon("forwarder")?;
    stage.expect_forwarded("before the end")?;
    let (exit, took) = daemon.stop()?;
    ensure!(exit.code() == Some(0), "the daemon ended with {exit} after {took:?}\n{}", daemon.log());
    Ok(())
}

fn taken_over(mode: &str, dataplane: &str) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let stage = Stage::start(&lab, mode)?;
    let mut first = stage.daemon(dataplane)?;
    let (vips, sources) = (echo_vips(&lab), sources::add(&lab, 4)?);
    let plan = Plan { sources: &sources, ..Plan::new("echo", &vips, CONNECTS) };
    let pod = Load::planned(lab.pod(1), lab.dir(), "pod", &plan)?;
    let listening: Vec<SocketAddr> = stage.listening()?;
    let node = Load::start(lab.node(), lab.dir(), "node", "tcp", &listening, CONNECTS / 2)?;
    let idle = Idle::start(lab.pod(1), &lab, &stream_vips(&lab), &sources, 50, false)?;
    first.process().signal(Signal::TERM)?;
    let mut second = Daemon::spawn(lab.node(), lab.dir(), &stage.scenario.options)?;
    let pid = second.pid();
    second.wait_for_status("the new daemon", LIMIT, |status| {
        status["pid"] == pid && status["dataplane"]["in_use"] == dataplane
    })?;
    thread::sleep(Duration::from_secs(2));
    let draining = first.process().exited()?.is_none();
    ensure!(draining == (dataplane == "forwarder"), "the old daemon drains: {draining}\n{}", first.log());
    idle.finish_clean().context("a connection of the old daemon was cut")?;
    pod.finish_clean().with_context(|| first.log())?;
    node.finish_clean().with_context(|| first.log())?;
    let exit = first.process().wait(LIMIT)?;
    ensure!(exit.code() == Some(0), "the old daemon ended with {exit}\n{}", first.log());
    Ok(())
}

#[test]
fn a_new_daemon_takes_the_virtual_ip_over() -> Result<()> {
    taken_over("forwarder", "forwarder")
}

#[test]
fn a_new_daemon_takes_the_local_endpoint_over() -> Result<()> {
    taken_over("auto", "nftables")
}
