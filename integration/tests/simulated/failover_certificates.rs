//! Apiservers that nobody should believe, and one that comes and goes.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::control_plane::Variant;
use integration::failover::Failover;
use integration::failover::trial::{addresses, dies, lab, mix};
use integration::fault::Fault;
use integration::lab::Families;

#[test]
fn a_certificate_of_a_foreign_authority_is_left() -> Result<()> {
    dies(Families::V4, Fault::ForeignCertificate, &[2]).map(drop)
}

#[test]
fn two_expired_certificates_are_left() -> Result<()> {
    dies(Families::V6, Fault::Expired, &[1, 2]).map(drop)
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_left() -> Result<()> {
    dies(Families::V4, Fault::NotYetValid, &[3]).map(drop)
}

#[test]
fn one_that_flaps_each_second_is_damped() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut stage = Failover::start(&lab, Variant::SimulatedSlices, &[1, 2, 3], &[])?;
    let mut crowd = stage.everybody(&mix())?;
    let commits = |stage: &Failover<'_>| stage.daemon.metric("apivip_commits_total{outcome=\"ok\"}");
    let before = commits(&stage)?;
    let inflicted = stage.inflict(&mut crowd, Fault::Flapping, &[1])?;
    thread::sleep(Duration::from_secs(16));
    let changes = commits(&stage)? - before;
    inflicted.heal(&mut stage.plane)?;
    let outcome = crowd.finish()?;
    println!("{changes} changes\n{outcome}");
    outcome.expect_uncut(&addresses(&lab, &[1]))?;
    // Followed blindly it would be 16 changes; unnoticed, a sixth of all connections would fail.
    ensure!((1..=12).contains(&changes), "{changes} changes in 16 s");
    let (failed, attempts) = (outcome.failures(0, u64::MAX).len(), outcome.attempts());
    ensure!(
        failed * 12 <= attempts,
        "{failed} of {attempts} new connections failed\n{outcome}\nthe daemon says\n{}",
        stage.daemon.log()
    );
    Ok(())
}
