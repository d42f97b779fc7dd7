//! The streams that other scenarios rely on get through where there is nothing in between, in both families.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::lab::{Families, Lab, LabOptions};
use integration::sources;
use integration::streams::{Case, Idle, PORT, Servers};

const ZERO_WINDOW: Duration = Duration::from_secs(2);

#[test]
fn every_case_gets_through_a_bare_network() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let servers = Servers::start(&lab)?;
    for address in lab.apiserver_addresses(2) {
        let target = SocketAddr::new(address, PORT);
        let transfers = Case::transfers(64 << 20);
        let zero_window = Case::zero_window(ZERO_WINDOW);
        for case in transfers.iter().chain(&Case::slow()).chain(&zero_window).chain(&Case::endings()) {
            servers.run(lab.pod(1), target, case)?;
        }
    }
    Ok(())
}

#[test]
fn idle_connections_are_held_and_counted() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut servers = Servers::start(&lab)?;
    let sources = sources::add(&lab, 4)?;
    let targets: Vec<SocketAddr> =
        (1..=3).map(|i| SocketAddr::new(lab.apiserver_addresses(i)[0], PORT)).collect();
    Idle::start(lab.pod(1), &lab, &targets, &sources, 3_000, false)?.finish_clean()?;
    let silent = Idle::start(lab.pod(1), &lab, &targets, &sources, 300, true)?;
    thread::sleep(Duration::from_millis(200));
    servers.kill(3)?;
    // The ends of its connections arrive.
    thread::sleep(Duration::from_secs(2));
    let examined = silent.finish()?;
    ensure!((examined.opened, examined.working, examined.told) == (300, 200, 100), "{examined:?}");
    Ok(())
}
