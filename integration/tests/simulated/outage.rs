//! Every apiserver stops answering API requests, while connections through the virtual IP work on; when the API is
//! back, so is the daemon.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::{Lab, LabOptions, addresses};
use integration::load::Load;
use integration::sim::fleet::{ECHO_PORT, ECHO_SERVICE_PORT, Fleet};
use integration::sim::protocol::Canned;

/// A session of which all apiservers are silent is noticed by its PING, after 65 s at most; a machine under load may take longer.
const NOTICED: Duration = Duration::from_secs(180);

/// The pause between two attempts grows to seconds.
const RECOVERED: Duration = Duration::from_secs(120);

/// How long the API stays away once that was noticed.
const AWAY: Duration = Duration::from_secs(5);

fn survive(outage: impl Fn(&Fleet) -> Result<()>, end: impl Fn(&Fleet) -> Result<()>) -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let options = DaemonOptions::kubeconfig(plane.kubeconfig()?);
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    daemon.wait_for_status("the API in sync", NOTICED, |status| status["api"]["state"] == "synced")?;
    let vip = SocketAddr::new(addresses::VIP_V4.into(), ECHO_SERVICE_PORT);
    let load = Load::start(lab.pod(1), lab.dir(), "load", "echo", &[vip], 200)?;
    outage(plane.fleet()?)?;
    let status =
        daemon.wait_for_status("a degraded API", NOTICED, |status| status["api"]["state"] == "degraded")?;
    ensure!(status["api"]["last_error"].is_string(), "the status does not say why: {:#}", status["api"]);
    ensure!(status["phase"] == "programmed", "the rules are {}: {}", status["phase"], status["summary"]);
    thread::sleep(AWAY);
    end(plane.fleet()?)?;
    daemon
        .wait_for_status("the API in sync again", RECOVERED, |status| status["api"]["state"] == "synced")?;
    plane.publish_apiservers(&[2])?;
    daemon.wait_for_backends(vip, &[SocketAddr::new(lab.apiserver_addresses(2)[0], ECHO_PORT)])?;
    load.finish_clean().map(drop)
}

#[test]
fn connections_work_on_while_every_apiserver_answers_503() -> Result<()> {
    survive(
        |fleet| {
            fleet.on_all(|control| async move {
                control.answer(Some(Canned::status(503))).await?;
                control.close_watches().await.map(drop)
            })
        },
        |fleet| fleet.on_all(|control| async move { control.answer(None).await }),
    )
}

#[test]
fn connections_work_on_while_every_apiserver_hangs() -> Result<()> {
    survive(
        |fleet| fleet.on_all(|control| async move { control.hang(true, false).await }),
        |fleet| fleet.on_all(|control| async move { control.hang(false, false).await }),
    )
}
