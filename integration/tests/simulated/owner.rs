//! Whose the table is on a simulated control plane, and a kernel that knows of no owners.

use anyhow::{Result, ensure};
use integration::control_plane::Variant;
use integration::lab::{Lab, LabOptions};
use integration::nftfault::{Fault, NftFault};
use integration::scenario::Scenario;
use integration::sim::fleet::ECHO_SERVICE_PORT;

use crate::shared::owner::{self, LIMIT, owned};

#[test]
fn an_owner_comes_and_goes_and_no_connection_breaks() -> Result<()> {
    owner::comes_and_goes(Variant::Simulated, "echo", ECHO_SERVICE_PORT)
}

#[test]
fn others_leave_an_owned_table_alone_and_may_flush_an_orphan() -> Result<()> {
    owner::is_left_alone(Variant::Simulated)
}

#[test]
fn a_daemon_that_drains_has_let_the_table_go() -> Result<()> {
    owner::is_let_go(Variant::Simulated)
}

#[test]
fn without_owners_in_the_kernel_the_table_is_plain() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let faults = NftFault::build(lab.dir())?;
    faults.set(Fault::NoOwner)?;
    scenario.options = faults.in_daemon(scenario.options);
    let mut daemon = scenario.daemon()?;
    ensure!(faults.met() == ["noowner commit", "noowner commit"], "{:?}", faults.met());
    ensure!(!owned(&daemon)?, "the table has an owner");
    ensure!(daemon.log().contains("event=table_owner_unsupported"), "{}", daemon.log());
    lab.node().nft_load("delete table inet apivip")?;
    daemon.wait_for_status("the repair", LIMIT, |status| status["repairs"]["total"] == 1)?;
    scenario.plane.publish_apiservers(&[1, 2])?;
    scenario.plane.wait_until_served(&mut daemon, &[1, 2])?;
    scenario.expect_everybody("a plain table")
}
