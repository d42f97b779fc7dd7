//! Whose the table is: the daemon's while it runs, nobody's after it, and the next daemon's; or nobody's, where the
//! kernel or the operator has it so. The change from one to the other cuts no connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::command::{self, COMMAND_LIMIT};
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::forwarder::{Stage, stream_vips};
use integration::lab::{Families, Lab, LabOptions};
use integration::load::{Load, Plan};
use integration::nftfault::Fault;
use integration::process::Signal;
use integration::scenario::Scenario;
use integration::streams::{Idle, Servers};
use serde_json::Value;

use super::restart;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Connections that are kept.
const KEPT: usize = 50;
const OTHER: &str = "table ip firewall { chain input { type filter hook input priority 0; counter; }; }";

pub(crate) fn owned(daemon: &Daemon) -> Result<bool> {
    let status = daemon.status()?;
    status["dataplane"]["table_owned"].as_bool().with_context(|| format!("{status:#}"))
}

/// How the kernel refuses a script of another program.
fn refused(lab: &Lab, script: &str) -> Result<String> {
    let mut nft = lab.node().command("nft");
    nft.args(["-f", "-"]);
    let finished = command::finish(nft, script, COMMAND_LIMIT)?;
    ensure!(!finished.status.success(), "{script:?} was taken");
    Ok(finished.stderr)
}

/// `kind` of connections to this port of the Service are opened all the time.
pub(crate) fn comes_and_goes(variant: Variant, kind: &str, port: u16) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, variant, &[1, 2, 3])?;
    let servers = Servers::start(&lab)?;
    servers.publish(&scenario.plane, &[1, 2, 3])?;
    let auto = scenario.options.clone();
    let off = auto.clone().arg("--table-owner=off");
    scenario.options = off.clone();
    let mut daemon = scenario.daemon()?;
    ensure!(!owned(&daemon)?, "a table that was to be nobody's has an owner");
    let vips: Vec<SocketAddr> = lab.vips().into_iter().map(|vip| SocketAddr::new(vip, port)).collect();
    let kept = Idle::start(lab.pod(1), &lab, &stream_vips(&lab), &[], KEPT, false)?;
    let established = if kind == "echo" { KEPT } else { 0 };
    let load = Plan { established, ..Plan::new(kind, &vips, 500) };
    let load = Load::planned(lab.pod(1), lab.dir(), "load", &load)?;
    for (options, expected) in [(&auto, true), (&off, false), (&auto, true)] {
        daemon.kill()?;
        // What the dead daemon owned is an orphan now, and still works.
        scenario.expect_everybody("without a daemon")?;
        scenario.options = options.clone();
        daemon = scenario.daemon()?;
        ensure!(owned(&daemon)? == expected, "the owner is not as {options:?} says");
    }
    let counted = restart::counted(lab.node())?;
    let report = load.finish_clean()?;
    kept.finish_clean()?;
    let opened = report.attempted + report.established.opened;
    ensure!(counted > opened / 2, "{counted} connections counted of {opened}: counters began anew");
    Ok(())
}

pub(crate) fn is_left_alone(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let scenario = Scenario::start(&lab, variant, &[1, 2, 3])?;
    let mut daemon = scenario.daemon()?;
    lab.node().nft_load(OTHER)?;
    let saved = lab.node().nft_text("ruleset")?;
    lab.node().nft_load("flush ruleset")?;
    let left = lab.node().nft_text("ruleset")?;
    ensure!(!left.contains("firewall") && left.contains("table inet apivip"), "{left}");
    for script in ["delete table inet apivip", "flush table inet apivip", &format!("flush ruleset\n{saved}")]
    {
        let said = refused(&lab, script)?;
        ensure!(said.contains("Operation not permitted"), "{script}: {said}");
    }
    ensure!(!lab.node().nft_text("ruleset")?.contains("firewall"), "the saved rules were loaded in part");
    scenario.expect_everybody("an owned table")?;
    ensure!(daemon.status()?["repairs"]["total"] == 0, "{:#}", daemon.status()?);
    daemon.stop()?;
    let orphan = lab.node().nft_text("ruleset")?;
    let said = refused(&lab, &orphan)?;
    ensure!(
        said.contains("syntax error"),
        "a new nft reads back what it prints of an orphan; say so in docs: {said}"
    );
    lab.node().nft_load("flush ruleset")?;
    ensure!(lab.node().nft_text("ruleset")?.is_empty(), "an orphan was not flushed");
    let daemon = scenario.daemon()?;
    ensure!(owned(&daemon)?, "the new table has no owner");
    scenario.expect_everybody("after the flush")
}

pub(crate) fn is_let_go(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut stage = Stage::start_on(&lab, variant, "auto")?;
    stage.faults.set(Fault::Failing)?;
    let mut first = stage.daemon("forwarder")?;
    let kept = Idle::start(lab.pod(1), &lab, &stream_vips(&lab), &[], 5, false)?;
    stage.faults.clear()?;
    first.wait_for_dataplane("nftables", LIMIT)?;
    ensure!(owned(&first)?, "the first daemon does not own the table");
    first.process().signal(Signal::TERM)?;
    let mut second = stage.scenario.daemon()?;
    // The first one may still have answered for it.
    let pid = second.pid();
    second.wait_for_status("the new daemon", LIMIT, |s| s["pid"] == pid && s["phase"] == "programmed")?;
    ensure!(owned(&second)?, "the second daemon does not own the table");
    let ports = |status: &Value| status["frontends"].as_array().map(Vec::len);
    let before = ports(&second.status()?);
    stage.touch(0)?;
    second.wait_for_status("a change", LIMIT, |status| ports(status) == before.map(|ports| ports - 1))?;
    ensure!(first.process().exited()?.is_none(), "the first daemon does not drain\n{}", first.log());
    let log = second.log();
    let (_, of_second) = log.rsplit_once("event=daemon_starting").context("no start in the log")?;
    ensure!(!of_second.contains("event=rules_failed"), "{log}");
    kept.finish_clean().context("a connection of the first daemon was cut")
}
