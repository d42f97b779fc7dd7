//! Kubelet, controller-manager and scheduler that reach the API through the virtual IP, while each apiserver loses its cable for
//! as long as a node's lease is good for.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::real::node::arm::Arm;
use integration::real::node::cluster;
use integration::real::node::leases::Leases;

/// After which the API takes a node whose lease was not renewed for dead.
const LEASE: Duration = Duration::from_secs(40);

#[test]
fn no_lease_is_lost_while_each_apiserver_is_unplugged_in_turn() -> Result<()> {
    let lab = cluster::lab(3)?;
    let mut leases = Leases::start(&lab, Arm::Apivip)?;
    let mut met = 0;
    for i in 1..=3 {
        let outage = leases.unplug(i, LEASE)?;
        println!(
            "apiserver {i} unplugged: connections to it | oldest lease of the node | ready | lost leases: {outage}"
        );
        met += outage.flows;
        ensure!(
            outage.lost.is_empty(),
            "apiserver {i} unplugged: {:?} lost their leases\n{}",
            outage.lost,
            outage.logs
        );
        ensure!(
            outage.oldest < LEASE,
            "apiserver {i} unplugged: the node's lease was {:?} old",
            outage.oldest
        );
        ensure!(!outage.not_ready, "apiserver {i} unplugged: the API took the node for dead");
    }
    // Whoever is not led to one of them is led to another.
    ensure!(met > 0, "no connection led to an apiserver when it was unplugged");
    Ok(())
}
