//! Two of three apiservers fail, by one fault after the other, and so does the one that the daemon's watch hangs on.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::failover::Failover;
use integration::failover::trial::{lab, leave, mix};
use integration::fault::Fault;
use integration::lab::Families;

const ALL: [u8; 3] = [1, 2, 3];

/// One fault follows the other on the same node, for so many apiservers that one is left.
fn in_turn(faults: &[(Fault, [u8; 2])]) -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &[])?;
    for (fault, numbers) in faults {
        let (_, inflicted) = leave(&mut stage, *fault, numbers, &mix())?;
        stage.heal(inflicted)?;
        stage.wait_for_backends(&ALL)?;
    }
    Ok(())
}

#[test]
fn two_that_stop_or_are_cut_off_one_way_are_left() -> Result<()> {
    in_turn(&[(Fault::Stopped, [1, 2]), (Fault::InboundLost, [2, 3]), (Fault::OutboundLost, [3, 1])])
}

#[test]
fn two_that_nobody_should_believe_are_left() -> Result<()> {
    in_turn(&[(Fault::ForeignCertificate, [1, 2]), (Fault::NotYetValid, [2, 3]), (Fault::Expired, [3, 1])])
}

/// Whatever becomes of the one that it watches, the daemon leaves it like any other, and reads the API elsewhere where that
/// one no longer lets it.
#[test]
fn the_watched_one_is_left_like_any_other() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &[])?;
    for fault in
        [Fault::Unplugged, Fault::Paused, Fault::Killed, Fault::OutboundLost, Fault::ForeignCertificate]
    {
        let watched = stage.watched()?;
        let (_, inflicted) = leave(&mut stage, fault, &[watched], &mix())?;
        if fault != Fault::ForeignCertificate {
            let elsewhere = |status: &serde_json::Value| {
                let address = status["api"]["address"].as_str().and_then(|address| address.parse().ok());
                status["api"]["state"] == "synced"
                    && address.is_some_and(|a| !stage.plane.apiservers(watched).contains(&a))
            };
            let limit = Duration::from_secs(60);
            stage.daemon.wait_for_status("the API read from another apiserver", limit, elsewhere)?;
        }
        stage.heal(inflicted)?;
        stage.wait_for_backends(&ALL)?;
    }
    Ok(())
}

/// A cable that is cut concerns whoever is asked to drain as well: what was alive and unready is dead now.
#[test]
fn one_that_drains_can_die() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &["--readyz-interval=1s"])?;
    let crowd = stage.everybody(&Mix { fresh_every: Some(Duration::from_millis(50)), ..mix() })?;
    let drains = Fault::Unready.inflict(&mut stage.plane, &[2])?;
    stage.wait_for_backends(&[1, 3])?;
    let (outcome, inflicted) =
        integration::failover::trial::leave_with(&mut stage, Fault::Unplugged, &[2], crowd)?;
    ensure!(outcome.failures(0, u64::MAX).is_empty(), "new connections failed\n{outcome}");
    inflicted.heal(&mut stage.plane)?;
    drains.heal(&mut stage.plane)
}
