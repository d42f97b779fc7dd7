//! Endpoints come, go and are replaced while a pod opens 1,000 connections a second: none fails, and what is no
//! longer published gets no new one.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::load::Load;
use integration::sim::access_log::What;
use integration::sim::fleet::{ECHO_PORT, ECHO_SERVICE_PORT};

const RATE: u32 = 1000;

/// How long each set of endpoints is in force.
const STEP: Duration = Duration::from_millis(700);

/// A connection that was on its way when the kernel took the new rules has been accepted after this, by a server that waits
/// for the processor as everybody else here.
const ON_THE_WAY: Duration = Duration::from_millis(1500);

fn echo_vips(lab: &Lab) -> Vec<SocketAddr> {
    lab.vips().into_iter().map(|ip| SocketAddr::new(ip, ECHO_SERVICE_PORT)).collect()
}

fn publish(lab: &Lab, plane: &ControlPlane<'_>, daemon: &mut Daemon, numbers: &[u8]) -> Result<()> {
    plane.publish_apiservers(numbers)?;
    for (vip, family) in echo_vips(lab).into_iter().zip(lab.families()) {
        let backend = |i: &u8| SocketAddr::new(lab.apiserver_address(*i, *family), ECHO_PORT);
        daemon.wait_for_backends(vip, &numbers.iter().map(backend).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn now_us() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}

/// New echo connections that server `i` accepted between two moments.
fn accepted(plane: &mut ControlPlane<'_>, i: u8, from: u64, to: u64) -> Result<usize> {
    let log = plane.fleet()?.access_log(i)?;
    Ok(log.iter().filter(|e| e.what == What::Echo && (from..to).contains(&e.time_us)).count())
}

#[test]
fn no_connection_fails_while_endpoints_change() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(plane.kubeconfig()?))?;
    publish(&lab, &plane, &mut daemon, &[1, 2])?;
    let load = Load::start(lab.pod(1), lab.dir(), "load", "echo", &echo_vips(&lab), RATE)?;
    // Added, removed, one replaced, all but one removed, all replaced, everything back.
    for published in [&[1, 2, 3][..], &[2, 3], &[1, 3], &[1], &[2, 3], &[1, 2, 3]] {
        publish(&lab, &plane, &mut daemon, published)?;
        let begin = now_us()? + u64::try_from(ON_THE_WAY.as_micros())?;
        thread::sleep(ON_THE_WAY + STEP);
        let end = now_us()?;
        for i in 1..=3 {
            let count = accepted(&mut plane, i, begin, end)?;
            let expected = published.contains(&i);
            ensure!(
                (count > 0) == expected,
                "apiserver {i} accepted {count} connections while {published:?} were published"
            );
        }
    }
    let report = load.finish_clean()?;
    let pod: Vec<String> =
        lab.families().iter().map(|family| addresses::pod(1, *family).to_string()).collect();
    ensure!(report.seen_as.keys().eq(&pod), "apiservers saw {:?} instead of {pod:?}", report.seen_as);
    ensure!(report.servers.len() == 3, "only these apiservers answered: {:?}", report.servers);
    Ok(())
}

#[test]
fn no_connection_fails_while_endpoints_change_twenty_times_a_second() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(plane.kubeconfig()?))?;
    let load = Load::start(lab.pod(1), lab.dir(), "load", "echo", &echo_vips(&lab), RATE)?;
    let sets = [&[1, 2][..], &[2, 3], &[3], &[1, 2, 3], &[1, 3]];
    for published in sets.iter().cycle().take(60) {
        plane.publish_apiservers(published)?;
        thread::sleep(Duration::from_millis(50));
    }
    publish(&lab, &plane, &mut daemon, &[2])?;
    load.finish_clean()?;
    let commits = daemon.metric("apivip_commits_total{outcome=\"ok\"}")?;
    ensure!(commits >= 10, "60 changes made {commits} commits only");
    Ok(())
}
