//! Drift of the table on a simulated control plane, and a daemon that cannot hear of it.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::control_plane::Variant;
use integration::lab::{Lab, LabOptions};
use integration::nftfault::{Fault, NftFault};
use integration::scenario::Scenario;

use crate::shared::drift::{self, HEARD, LIMIT, rules, wait_for};

/// The daemon looks each 30 s, whatever it hears.
const LOOKED: Duration = Duration::from_secs(45);

#[test]
fn every_change_is_put_right_at_once_and_its_culprit_is_named() -> Result<()> {
    drift::every_change_is_put_right(Variant::Simulated)
}

#[test]
fn a_fight_is_damped_and_lost_events_mean_a_look() -> Result<()> {
    drift::a_fight_is_damped(Variant::Simulated)
}

#[test]
fn who_hears_of_no_change_looks_at_the_regular_time() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let faults = NftFault::build(lab.dir())?;
    faults.set(Fault::Deaf)?;
    scenario.options = faults.in_daemon(scenario.options.arg("--table-owner=off"));
    let mut daemon = scenario.daemon()?;
    ensure!(faults.met().contains(&"deaf socket".to_owned()), "the fault met nobody: {:?}", faults.met());
    daemon.process().wait_for_line("event=nftables_events_unavailable", LIMIT)?;
    let wanted = rules(&lab);
    lab.node().nft_load("delete table inet apivip")?;
    thread::sleep(HEARD);
    ensure!(rules(&lab).is_empty(), "it heard of the change");
    wait_for(&lab, &wanted, LOOKED)?;
    let status = daemon.wait_for_status("the repair", LIMIT, |status| status["repairs"]["total"] == 1)?;
    ensure!(status["repairs"]["latest"][0]["found"] == "check", "{:#}", status["repairs"]);
    scenario.expect_everybody("after the look")
}
