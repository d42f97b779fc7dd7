//! The scenarios of the simulation against real apiservers: pods and host reach one through the virtual IP, and no
//! connection fails while endpoints change or the daemon is killed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::control_plane::{ControlPlane, SERVICE_PORT, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::load::Load;

/// How long each set of endpoints is in force.
const STEP: Duration = Duration::from_millis(700);

fn publish(plane: &ControlPlane<'_>, daemon: &mut Daemon, numbers: &[u8]) -> Result<()> {
    plane.publish_apiservers(numbers)?;
    plane.wait_until_served(daemon, numbers)
}

fn seen(plane: &ControlPlane<'_>) -> Result<BTreeSet<IpAddr>> {
    let sources = (1..=3).map(|i| plane.source_addresses(i)).collect::<Result<Vec<_>>>()?;
    Ok(sources.into_iter().flatten().collect())
}

#[test]
fn real_apiservers_serve_pod_and_host_through_every_change() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let plane = ControlPlane::serving(&lab, Variant::Real)?;
    let options = DaemonOptions::kubeconfig(plane.kubeconfig()?);
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    publish(&plane, &mut daemon, &[1, 2, 3])?;
    for family in lab.families() {
        for _ in 0..6 {
            for from in [lab.pod(1), lab.node()] {
                let answer = plane.fetch(from, addresses::vip(*family))?;
                ensure!(answer == "ok", "the answer is {answer:?}");
            }
        }
    }
    let families = lab.families().iter();
    let expected: BTreeSet<IpAddr> =
        families.flat_map(|family| [addresses::pod(1, *family), addresses::node(*family)]).collect();
    let seen = seen(&plane)?;
    ensure!(seen == expected, "the apiservers saw {seen:?} instead of {expected:?}");

    let vips: Vec<SocketAddr> = lab.vips().into_iter().map(|ip| SocketAddr::new(ip, SERVICE_PORT)).collect();
    let load = Load::start(lab.pod(1), lab.dir(), "load", "tcp", &vips, 300)?;
    for published in [&[1, 2][..], &[1, 2, 3], &[2, 3], &[1], &[1, 2, 3]] {
        publish(&plane, &mut daemon, published)?;
        thread::sleep(STEP);
    }
    daemon.kill()?;
    thread::sleep(STEP);
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    thread::sleep(STEP);
    let (exit, took) = daemon.stop()?;
    ensure!(exit.code() == Some(0), "the daemon ended with {exit} after {took:?}\n{}", daemon.log());
    thread::sleep(STEP);
    load.finish_clean().map(drop)
}
