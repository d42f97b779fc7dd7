//! `apivip cleanup` where it has nothing to do or must not do anything, and a second daemon on one node.

use std::time::Duration;

use anyhow::{Result, ensure};
use apivip::model::types::Family;
use integration::command::{self, COMMAND_LIMIT, Finished};
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions, run_to_end};
use integration::lab::{Lab, LabOptions, addresses};
use integration::refusal::{self, FAILED};

fn cleanup(lab: &Lab, daemon: &Daemon) -> Result<Finished> {
    command::finish(daemon.cleanup_command(lab.node()), "", COMMAND_LIMIT)
}

#[test]
fn cleanup_waits_for_no_daemon_and_may_run_twice() -> Result<()> {
    let lab = Lab::start(LabOptions { apiservers: 1, ..LabOptions::default() })?;
    let plane = ControlPlane::start(&lab, Variant::Simulated)?;
    let vip = addresses::vip(Family::V4);
    plane.put_service(&[vip], false)?;
    plane.publish_apiservers(&[1])?;
    let options = DaemonOptions::kubeconfig(plane.kubeconfig()?);
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    let pid = format!("pid {} ", daemon.pid());
    let lock = daemon.run_dir().join("lock").display().to_string();

    refusal::expect(&cleanup(&lab, &daemon)?, FAILED, &["another apivip runs on this node", &pid, &lock])?;
    plane.fetch(lab.pod(1), vip)?;
    let second = run_to_end(lab.node(), lab.dir(), &options, Duration::from_secs(20))?;
    refusal::expect(&second, FAILED, &["another apivip runs on this node", &pid, &lock])?;
    plane.fetch(lab.pod(1), vip)?;
    ensure!(daemon.status()?["phase"] == "programmed", "{:#}", daemon.status()?);

    daemon.stop()?;
    plane.fetch(lab.pod(1), vip)?;
    let first = cleanup(&lab, &daemon)?;
    ensure!(first.status.success() && first.stderr.is_empty(), "{first:?}");
    let state = daemon.state_file().display().to_string();
    for removed in ["removed table inet apivip", &format!("removed {lock}"), &format!("removed {state}")] {
        ensure!(first.stdout.lines().any(|line| line == removed), "no {removed:?} in {first:?}");
    }
    let ruleset = lab.node().nft_text("ruleset")?;
    ensure!(ruleset.is_empty(), "it left\n{ruleset}");
    ensure!(!daemon.run_dir().exists(), "it left {}", daemon.run_dir().display());
    ensure!(!daemon.state_dir().exists(), "it left {}", daemon.state_dir().display());
    let again = cleanup(&lab, &daemon)?;
    ensure!(again.status.success() && again.stderr.is_empty(), "{again:?}");
    ensure!(again.stdout == "nothing to remove\n", "{again:?}");
    ensure!(!daemon.run_dir().exists(), "it left {}", daemon.run_dir().display());
    Ok(())
}
