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
    dies(Families::Dual, Fault::ForeignCertificate, &[2]).map(drop)
}

#[test]
fn an_expired_certificate_is_left() -> Result<()> {
    dies(Families::Dual, Fault::Expired, &[2]).map(drop)
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_left() -> Result<()> {
    dies(Families::Dual, Fault::NotYetValid, &[3]).map(drop)
}

#[test]
fn one_that_flaps_each_second_is_damped() -> Result<()> {
    flaps(Families::V4, &[1])
}

#[test]
fn two_that_flap_each_second_are_damped() -> Result<()> {
    flaps(Families::V6, &[2, 3])
}

/// Connections are reset during one second, and served during the next.
fn flaps(families: Families, numbers: &[u8]) -> Result<()> {
    let lab = lab(families)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &[1, 2, 3], &[])?;
    let mut crowd = stage.everybody(&mix())?;
    let commits = |stage: &Failover<'_>| stage.daemon.metric("apivip_commits_total{outcome=\"ok\"}");
    let before = commits(&stage)?;
    let inflicted = stage.inflict(&mut crowd, Fault::Flapping, numbers)?;
    thread::sleep(Duration::from_secs(16));
    let changes = commits(&stage)? - before;
    inflicted.heal(&mut stage.plane)?;
    let outcome = crowd.finish()?;
    println!("{changes} changes\n{outcome}");
    outcome.expect_uncut(&addresses(&lab, numbers))?;
    // Each, followed blindly, would be 16 changes; unnoticed, it would fail a sixth of all connections.
    let count = numbers.len();
    ensure!((1..=12 * count as u64).contains(&changes), "{changes} changes in 16 s");
    let (failed, attempts) = (outcome.failures(0, u64::MAX).len(), outcome.attempts());
    ensure!(
        failed * 9 <= attempts * count,
        "{failed} of {attempts} new connections failed\n{outcome}\nthe daemon says\n{}",
        stage.daemon.log()
    );
    Ok(())
}
