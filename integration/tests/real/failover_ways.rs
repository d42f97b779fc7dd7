//! Failover of real apiservers by the other ways: through the forwarder, over one family alone, of the one that the daemon
//! watches, and of all of them one after the other.

use std::time::Duration;

use anyhow::{Context, Result};
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::failover::Failover;
use integration::failover::trial::{lab, leave, leave_with};
use integration::failover::way::{ALL, Way};
use integration::fault::Fault;
use integration::lab::Families;

fn mix() -> Mix {
    Mix { fresh_every: Some(Duration::from_millis(50)), ..Mix::default() }
}

#[test]
fn the_forwarder_leaves_real_apiservers_that_die() -> Result<()> {
    let way = Way::Forwarder(Families::V4);
    let lab = way.lab()?;
    let mut stage = way.start(&lab, &ALL)?;
    // One that was killed takes long to start again, and is the last.
    for (fault, i) in [(Fault::Unplugged, 2), (Fault::Paused, 3), (Fault::Killed, 1)] {
        let crowd = way.crowd(&mut stage, &mix(), &ALL, i)?;
        let (outcome, inflicted) = leave_with(&mut stage, fault, &[i], crowd)?;
        println!("{outcome}");
        if fault != Fault::Killed {
            inflicted.heal(&mut stage.plane)?;
            stage.wait_for_backends(&ALL)?;
        }
    }
    Ok(())
}

#[test]
fn over_ipv6_alone_the_watched_one_is_left_like_any_other() -> Result<()> {
    let lab = lab(Families::V6)?;
    let mut stage = Failover::start(&lab, Variant::Real, &ALL, &[])?;
    for fault in [Fault::Unplugged, Fault::Paused] {
        let watched = stage.watched()?;
        let (outcome, inflicted) = leave(&mut stage, fault, &[watched], &mix())?;
        println!("{outcome}");
        inflicted.heal(&mut stage.plane)?;
        stage.wait_for_backends(&ALL)?;
    }
    let watched = stage.watched()?;
    println!("{}", leave(&mut stage, Fault::Killed, &[watched], &mix())?.0);
    Ok(())
}

/// As an upgrade of the control plane does it: each is stopped in good order, and started again before the next one is.
#[test]
fn a_rolling_restart_fails_no_new_connection() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Real, &ALL, &[])?;
    let fresh_only = Mix { idle: 0, watch: 0, upload: 0, download: 0, ..mix() };
    for i in ALL {
        let mut crowd = stage.everybody(&fresh_only)?;
        // What the real ones do by themselves: one that stops is withdrawn at once.
        let left: Vec<u8> = ALL.into_iter().filter(|other| *other != i).collect();
        stage.plane.publish_apiservers(&left)?;
        let inflicted = stage.inflict(&mut crowd, Fault::Stopped, &[i])?;
        inflicted.heal(&mut stage.plane)?;
        stage.plane.publish_apiservers(&ALL)?;
        stage.wait_for_backends(&ALL)?;
        let outcome = crowd.finish()?;
        println!("apiserver {i}:\n{outcome}");
        let verdict = outcome.expect_nothing_refused();
        stage.daemon.explain(verdict).with_context(|| format!("apiserver {i}"))?;
    }
    Ok(())
}
