//! The apiserver that the daemon watches dies without a word: the daemon moves on to another, and never depends on the
//! virtual IP that it programs itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::{Lab, LabOptions, addresses};

/// A host that is silent is noticed within 4 s, and another apiserver dialled at once; a process that is, by the next ping,
/// and another one dialled 10 s later. Far from the 270 s and more that a watch lasts.
const MOVED: Duration = Duration::from_secs(60);

fn watched(daemon: &mut Daemon) -> Result<SocketAddr> {
    let synced = |status: &serde_json::Value| status["api"]["state"] == "synced";
    let status = daemon.wait_for_status("the API in sync", MOVED, synced)?;
    status["api"]["address"]
        .as_str()
        .context("no address in the status")?
        .parse()
        .context("parse the address")
}

/// `die` lets the apiserver that is watched die without a word.
pub(crate) fn is_left(
    variant: Variant,
    die: impl Fn(&Lab, &mut ControlPlane<'_>, u8) -> Result<()>,
) -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, variant)?;
    let options = DaemonOptions::kubeconfig(plane.kubeconfig()?).arg("--ping-interval=2s");
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    let old = watched(&mut daemon)?;
    let number = (1..=3).find(|i| plane.apiservers(*i).contains(&old));
    let number = number.with_context(|| format!("{old} is no apiserver"))?;
    let begin = Instant::now();
    die(&lab, &mut plane, number)?;
    let status = daemon.wait_for_status("another apiserver", MOVED, |status| {
        status["api"]["state"] == "synced" && status["api"]["address"] != old.to_string()
    })?;
    println!("from {old} to {} after {:?}", status["api"]["address"], begin.elapsed());
    let left: Vec<u8> = (1..=3).filter(|i| *i != number).collect();
    plane.publish_apiservers(&left)?;
    plane.wait_until_served(&mut daemon, &left)
}

pub(crate) fn the_virtual_ip_is_not_dialled(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let plane = ControlPlane::serving(&lab, variant)?;
    // Another daemon's rules lead the first connection; the second daemon finds them as after a restart.
    let vip = SocketAddr::new(addresses::VIP_V4.into(), 443);
    let mut first = Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(plane.kubeconfig()?))?;
    first.stop()?;
    // With a last good state it would know better than to dial the virtual IP.
    std::fs::remove_dir_all(first.state_dir()).context("remove the state")?;
    // The self-test dials it by intention.
    let options = DaemonOptions::kubeconfig(plane.kubeconfig_naming(vip)?).arg("--selftest-interval=off");
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    let known = |status: &serde_json::Value| {
        let address = status["api"]["address"].as_str().unwrap_or_default().to_owned();
        status["api"]["state"] == "synced" && address.ends_with(":6443")
    };
    daemon.wait_for_status("an apiserver of its own", MOVED, known)?;
    // Rules translate the virtual IP before a capture on a device sees it: the flows' first tuple tells.
    let flows = lab.node().run("conntrack", &["-L", "-p", "tcp", "--orig-dst", "10.96.0.1"])?;
    ensure!(!flows.trim().is_empty(), "the first connection did not go through the virtual IP");
    lab.node().run("conntrack", &["-F"])?;
    for _ in 0..2 {
        let reconnects = daemon.metric("apivip_api_reconnects_total")?;
        plane.end_connections()?;
        let deadline = Instant::now() + MOVED;
        while daemon.metric("apivip_api_reconnects_total")? == reconnects {
            ensure!(Instant::now() < deadline, "the daemon does not connect again\n{}", daemon.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon.wait_for_status("the API in sync", MOVED, known)?;
    }
    let flows = lab.node().run("conntrack", &["-L", "-p", "tcp", "--orig-dst", "10.96.0.1"])?;
    ensure!(flows.trim().is_empty(), "the daemon dialled the virtual IP:\n{flows}");
    let flows = lab.node().run("conntrack", &["-L", "-p", "tcp", "--dport", "6443"])?;
    ensure!(!flows.trim().is_empty(), "conntrack shows no flow to an apiserver");
    Ok(())
}
