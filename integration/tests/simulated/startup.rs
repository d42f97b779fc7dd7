//! How the daemon starts and ends: alone on its node, with the capability that it needs, and tidy if told so.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::command;
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions, run_to_end};
use integration::lab::{Lab, LabOptions};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_second_daemon_refuses_and_names_the_first() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let options = DaemonOptions::kubeconfig(plane.kubeconfig()?);
    let first = Daemon::start(lab.node(), lab.dir(), &options)?;
    let second = run_to_end(lab.node(), lab.dir(), &options, LIMIT)?;
    ensure!(second.status.code() == Some(1), "it ended with {}: {}", second.status, second.stderr);
    let pid = format!("pid {}", first.pid());
    ensure!(second.stderr.contains(&pid), "{pid} is not named: {}", second.stderr);
    ensure!(first.status()?["phase"] == "programmed", "the first one is disturbed");
    Ok(())
}

#[test]
fn cleanup_on_exit_removes_the_table_and_without_it_the_table_stays() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let options = DaemonOptions::kubeconfig(plane.kubeconfig()?);
    Daemon::start(lab.node(), lab.dir(), &options)?.stop()?;
    let tables = lab.node().nft_text("tables")?;
    ensure!(tables.contains("inet apivip"), "the table went with the daemon: {tables:?}");
    let (exit, _) = Daemon::start(lab.node(), lab.dir(), &options.arg("--cleanup-on-exit"))?.stop()?;
    ensure!(exit.code() == Some(0), "the daemon ended with {exit}");
    let tables = lab.node().nft_text("tables")?;
    ensure!(tables.is_empty(), "left behind: {tables:?}");
    Ok(())
}

#[test]
fn without_the_capability_the_daemon_says_so_in_one_line() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let mut run = lab.node().command("setpriv");
    run.args(["--inh-caps=-all", "--bounding-set=-net_admin"]).arg(command::program("apivip")?);
    run.arg("run").arg("--kubeconfig").arg(plane.kubeconfig()?);
    run.arg("--run-dir").arg(lab.dir().join("run"));
    let ended = command::finish(run, "", LIMIT)?;
    ensure!(ended.status.code() == Some(2), "it ended with {}: {}", ended.status, ended.stderr);
    ensure!(ended.stderr.contains("CAP_NET_ADMIN"), "unhelpful: {}", ended.stderr);
    ensure!(ended.stderr.trim_end().lines().count() == 1, "more than a line: {}", ended.stderr);
    Ok(())
}
