//! The node-local endpoint: clients of every kind are served through it, in every mode, and an apiserver that dies is
//! left.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::clients::{Clients, Mix};
use integration::fault::Fault;
use integration::forwarder::Stage;
use integration::lab::{Families, Lab, LabOptions};
use integration::sim::clients::timeline::monotonic_us;

const WATCHED: Duration = Duration::from_secs(3);
/// New connections that begin so long after a process was killed, in milliseconds, are served.
const LEFT: u64 = 2_000;

fn served(mode: &str, dataplane: &str) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut stage = Stage::start(&lab, mode)?;
    let daemon = stage.daemon(dataplane)?;
    let targets = stage.listening()?;
    let mix = Mix { half_closed: 4, ..Mix::default() };
    let plane = &stage.scenario.plane;
    let mut clients = Clients::start(lab.node(), lab.dir(), "clients", plane, &targets, &mix)?;
    thread::sleep(WATCHED);
    ensure!(clients.ended()?.is_empty(), "connections ended: {:?}\n{}", clients.ended()?, daemon.log());
    clients.stop()?;
    let timeline = clients.finish()?;
    let failed = timeline.fresh().filter(|connection| connection.failed()).count();
    ensure!(failed == 0, "{failed} new connections failed\n{}", daemon.log());

    let plane = &stage.scenario.plane;
    let mut clients = Clients::start(lab.node(), lab.dir(), "bereaved", plane, &targets, &mix)?;
    let fault = monotonic_us();
    Fault::Killed.inflict(&mut stage.scenario.plane, &[2])?;
    thread::sleep(WATCHED + Duration::from_millis(LEFT));
    ensure!(!clients.ended()?.is_empty(), "no client of the killed apiserver was told\n{}", daemon.log());
    clients.stop()?;
    let timeline = clients.finish()?;
    let failures = timeline.failures(timeline.at_ms(fault), LEFT, u64::MAX);
    ensure!(failures.is_empty(), "new connections failed long after: {failures:?}\n{}", daemon.log());
    Ok(())
}

#[test]
fn beside_nftables() -> Result<()> {
    served("auto", "nftables")
}

#[test]
fn beside_the_forwarder() -> Result<()> {
    served("forwarder", "forwarder")
}
