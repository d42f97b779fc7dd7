//! Failover of real apiservers, one fault after the other: of one, of two and of all of them, with clients in a pod and on
//! the node.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::failover::Failover;
use integration::failover::trial::{addresses, lab, leave};
use integration::fault::Fault;
use integration::lab::Families;

/// Longer than the time between two questions for `/readyz`, and than the apiserver's own patience with its etcd.
const UNREADY: Duration = Duration::from_secs(12);

/// How long what concerns all apiservers lasts.
const AWAY: Duration = Duration::from_secs(5);

/// How long the network gets back to work between two faults.
const HEALED: Duration = Duration::from_secs(2);

/// How long one flaps.
const FLAPS: Duration = Duration::from_secs(16);

#[test]
fn real_apiservers_that_die_are_left_and_those_that_drain_keep_their_clients() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Real, &[1, 2, 3], &[])?;
    let mix = Mix { fresh_every: Some(Duration::from_millis(50)), ..Mix::default() };
    // Without its etcd an apiserver ends watches by itself.
    let mut crowd = stage.everybody(&Mix { watch: 0, ..mix })?;
    let inflicted = stage.inflict(&mut crowd, Fault::Unready, &[1])?;
    thread::sleep(UNREADY);
    ensure!(!stage.plane.real()?.client(1).is_ready(), "an apiserver without etcd is ready");
    inflicted.heal(&mut stage.plane)?;
    let outcome = crowd.finish()?;
    println!("{outcome}");
    outcome.expect_uncut(&[])?;
    outcome.expect_nothing_refused()?;
    stage.plane.real()?.wait_ready(1)?;
    stage.wait_for_backends(&[1, 2, 3])?;
    for (fault, numbers) in [
        (Fault::Unplugged, vec![1]),
        (Fault::Paused, vec![2]),
        (Fault::InboundLost, vec![3]),
        (Fault::OutboundLost, vec![1]),
        (Fault::Unplugged, vec![2, 3]),
        (Fault::Paused, vec![1, 3]),
    ] {
        let (outcome, inflicted) = leave(&mut stage, fault, &numbers, &mix)?;
        println!("{outcome}");
        inflicted.heal(&mut stage.plane)?;
        stage.wait_for_backends(&[1, 2, 3])?;
    }
    // Stopped or killed ones take long to start again, and are the last.
    for (fault, i) in [(Fault::Stopped, 2), (Fault::Killed, 3)] {
        println!("{}", leave(&mut stage, fault, &[i], &mix)?.0);
    }
    Ok(())
}

/// All of them at once, or the node's own link: nobody is cut off, and all go on when it is over.
#[test]
fn clients_of_real_apiservers_outlast_what_concerns_all_of_them() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Real, &[1, 2, 3], &[])?;
    let (fresh_every, timeout) = (Some(Duration::from_millis(50)), Duration::from_secs(60));
    let mut crowd = stage.everybody(&Mix { fresh_every, timeout, ..Mix::default() })?;
    for fault in [Fault::UplinkDown, Fault::Unplugged, Fault::InboundLost, Fault::OutboundLost, Fault::Paused]
    {
        let inflicted = stage.inflict(&mut crowd, fault, &[1, 2, 3])?;
        thread::sleep(AWAY);
        stage.expect_backends(&format!("{fault:?} for all"), &[1, 2, 3])?;
        inflicted.heal(&mut stage.plane)?;
        thread::sleep(HEALED);
        stage.wait_for_backends(&[1, 2, 3])?;
    }
    let outcome = crowd.finish()?;
    println!("{outcome}");
    let verdict = outcome.expect_uncut(&[]).and_then(|()| outcome.expect_nothing_refused());
    stage.daemon.explain(verdict)
}

/// One resets its connections during one second and serves during the next.
#[test]
fn a_real_apiserver_that_flaps_cuts_nobody_elsewhere() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Real, &[1, 2, 3], &[])?;
    let mut crowd =
        stage.everybody(&Mix { fresh_every: Some(Duration::from_millis(50)), ..Mix::default() })?;
    let inflicted = stage.inflict(&mut crowd, Fault::Flapping, &[2])?;
    thread::sleep(FLAPS);
    inflicted.heal(&mut stage.plane)?;
    let outcome = crowd.finish()?;
    println!("{outcome}");
    outcome.expect_uncut(&addresses(&lab, &[2]))?;
    let (failed, attempts) = (outcome.failures(0, u64::MAX).len(), outcome.attempts());
    ensure!(failed * 12 <= attempts, "{failed} of {attempts} new connections failed\n{}", stage.daemon.log());
    Ok(())
}
