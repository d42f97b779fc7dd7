//! Failover of real apiservers: cut off from etcd, unplugged, paused and killed, one after the other, with clients in a
//! pod and on the node.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::failover::Failover;
use integration::failover::trial::{lab, leave};
use integration::fault::Fault;
use integration::lab::Families;

/// Longer than the time between two questions for `/readyz`, and than the apiserver's own patience with its etcd.
const UNREADY: Duration = Duration::from_secs(12);

#[test]
fn real_apiservers_that_die_are_left_and_those_that_drain_keep_their_clients() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::RealEndpoints, &[1, 2, 3], &[])?;
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
    for (fault, i) in [(Fault::Unplugged, 1), (Fault::Paused, 2), (Fault::Killed, 3)] {
        let (outcome, inflicted) = leave(&mut stage, fault, &[i], &mix)?;
        println!("{outcome}");
        // A killed one takes long to start again, and is the last.
        if fault != Fault::Killed {
            inflicted.heal(&mut stage.plane)?;
            stage.wait_for_backends(&[1, 2, 3])?;
        }
    }
    Ok(())
}
