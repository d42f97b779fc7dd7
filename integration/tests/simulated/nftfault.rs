//! The faults that other scenarios rely on are what they say: the daemon meets each, names it and gets over it, and
//! nothing but nf_tables is concerned.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::command;
use integration::control_plane::Variant;
use integration::daemon::{Daemon, run_to_end};
use integration::lab::{Lab, LabOptions};
use integration::nftfault::{Fault, NftFault};
use integration::scenario::{Scenario, commits};
use integration::sim::fleet::API_PORT;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

/// Long enough for a hundred commits.
const HANGING: Duration = Duration::from_secs(1);

/// Who gets new connections to the API.
fn used(status: &Value) -> Vec<String> {
    let frontends = status["frontends"].as_array().into_iter().flatten();
    let backends = frontends.filter(|f| f["port_name"] == "https").filter_map(|f| f["backends"].as_array());
    let used = backends.flatten().filter(|backend| backend["used"] == true);
    used.filter_map(|backend| backend["address"].as_str().map(str::to_owned)).collect()
}

struct Stage<'lab> {
    scenario: Scenario<'lab>,
    faults: NftFault,
    daemon: Daemon,
}

impl<'lab> Stage<'lab> {
    fn start(lab: &'lab Lab) -> Result<Self> {
        let mut scenario = Scenario::start(lab, Variant::Simulated, &[1, 2, 3])?;
        let faults = NftFault::build(lab.dir())?;
        scenario.options = faults.in_daemon(scenario.options).arg("--mode").arg("nftables");
        let daemon = scenario.daemon()?;
        Ok(Self { scenario, faults, daemon })
    }

    /// Publishes other endpoints after a fault has ended, and fails unless the daemon programs them.
    fn expect_healed(&mut self, lab: &Lab) -> Result<()> {
        self.faults.clear()?;
        self.daemon.wait_for_phase("programmed", LIMIT)?;
        self.scenario.plane.publish_apiservers(&[2])?;
        let wanted = SocketAddr::new(lab.apiserver_addresses(2)[0], API_PORT);
        self.daemon
            .wait_for_status("apiserver 2 alone", LIMIT, |status| used(status) == [wanted.to_string()])?;
        self.scenario.expect_everybody("after the fault")
    }

    /// Fails unless a program with the same library still reaches conntrack.
    fn expect_conntrack(&self, lab: &Lab) -> Result<()> {
        let mut conntrack = lab.node().command("conntrack");
        conntrack.arg("-C").envs(self.faults.environment());
        let count = command::run(conntrack, "").context("conntrack is not concerned")?;
        count.trim().parse::<u32>().with_context(|| format!("parse {count:?}")).map(drop)
    }
}

#[test]
fn each_refusal_is_named_and_got_over() -> Result<()> {
    for fault in Fault::REFUSALS {
        let lab = Lab::start(LabOptions::default())?;
        let mut stage = Stage::start(&lab)?;
        ensure!(stage.faults.met().is_empty(), "without a fault {:?} was met", stage.faults.met());
        let before = commits(&stage.daemon)?;
        stage.faults.set(fault)?;
        stage.scenario.plane.publish_apiservers(&[1, 2])?;
        let status = stage.daemon.wait_for_phase("failed", LIMIT).with_context(|| format!("{fault:?}"))?;
        let (summary, reason) = (status["summary"].as_str(), fault.reason().unwrap_or_default());
        ensure!(summary.is_some_and(|text| text.contains(reason)), "{fault:?}: {status:#}");
        ensure!(commits(&stage.daemon)? == before, "{fault:?}: something was committed");
        let met = stage.faults.met();
        ensure!(met.iter().any(|line| line.starts_with(fault.word())), "{fault:?} was not met: {met:?}");
        stage.expect_conntrack(&lab)?;
        stage.scenario.expect_everybody(&format!("the last good rules, with {fault:?}"))?;
        stage
            .expect_healed(&lab)
            .with_context(|| format!("{fault:?}; the log is\n{}", stage.daemon.log()))?;
    }
    Ok(())
}

#[test]
fn a_hanging_commit_waits_and_then_arrives() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut stage = Stage::start(&lab)?;
    let before = commits(&stage.daemon)?;
    stage.faults.set(Fault::Hanging)?;
    stage.scenario.plane.publish_apiservers(&[1, 2])?;
    let faults = &stage.faults;
    let met = |_: &_| Ok((faults.met() == ["hang commit"]).then_some(()));
    stage.daemon.process().wait_until("a commit that hangs", LIMIT, met)?;
    thread::sleep(HANGING);
    ensure!(commits(&stage.daemon)? == before, "a commit that hangs was made");
    ensure!(stage.faults.met().len() == 1, "more than one commit began: {:?}", stage.faults.met());
    stage.expect_conntrack(&lab)?;
    stage.expect_healed(&lab)
}

#[test]
fn without_netfilter_sockets_no_daemon_starts_on_nf_tables() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let faults = NftFault::build(lab.dir())?;
    faults.set(Fault::NoSocket)?;
    let options = faults.in_daemon(scenario.options).arg("--mode").arg("nftables");
    let finished = run_to_end(lab.node(), lab.dir(), &options, LIMIT)?;
    ensure!(!finished.status.success(), "the daemon ended with {}", finished.status);
    let reason = Fault::NoSocket.reason().unwrap_or_default();
    ensure!(finished.stderr.contains(reason), "the daemon said\n{}", finished.stderr);
    Ok(())
}
