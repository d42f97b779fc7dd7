//! Real control planes of one and of two apiservers, one with an apiserver on the node itself, and a daemon that is killed while it
//! ends connections: who is ended needs a witness, and what was ended stays harmless.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::daemon::{Daemon, DaemonOptions};
use integration::failover::Failover;
use integration::failover::trial::{NOTIFIED, addresses};
use integration::failover::way::{SILENCE_MS, Way, expect_uncut, mix};
use integration::fault::Fault;
use integration::lab::{Families, Lab, LabOptions};

/// Longer than it takes to end those of one that is silent.
const LASTING: Duration = Duration::from_secs(12);

/// After a fault, until all that follows from it is over.
const HEALED: Duration = Duration::from_secs(4);

/// Longest until the kernel has the rules that end connections.
const ENDING: Duration = Duration::from_secs(60);

/// So many idle ones of each place that ending them takes a while.
const MANY: usize = 400;

fn patient() -> Mix {
    Mix { timeout: Duration::from_secs(60), ..mix() }
}

fn few(families: Families, apiservers: u8, node_is_apiserver: bool) -> Result<Lab> {
    Lab::start(LabOptions { families, apiservers, node_is_apiserver, ..LabOptions::default() })
}

/// This one stands still for longer than the timeout, and all of its clients stay.
fn keeps(stage: &mut Failover<'_>, way: Way, published: &[u8], i: u8) -> Result<()> {
    let mut crowd = way.crowd(stage, &patient(), published, i)?;
    let inflicted = stage.inflict(&mut crowd, Fault::Paused, &[i])?;
    thread::sleep(LASTING);
    let status = stage.daemon.status()?;
    println!("{way:?}: {:#}", status["problems"]);
    inflicted.heal(&mut stage.plane)?;
    thread::sleep(HEALED);
    stage.wait_for_backends(published)?;
    let outcome = crowd.finish()?;
    expect_uncut(&outcome, stage).with_context(|| format!("apiserver {i} stood still, {way:?}"))
}

/// The cable of this one is out, and its clients are told in time.
fn tells(stage: &mut Failover<'_>, way: Way, published: &[u8], i: u8) -> Result<()> {
    let dead = addresses(stage.lab, &[i]);
    let mut crowd = way.crowd(stage, &patient(), published, i)?;
    let inflicted = stage.inflict(&mut crowd, Fault::Unplugged, &[i])?;
    let waited = crowd.wait_notified(&dead, NOTIFIED);
    inflicted.heal(&mut stage.plane)?;
    stage.wait_for_backends(published)?;
    let outcome = crowd.finish()?;
    println!("{outcome}\n{}", outcome.by_kind(&dead));
    let told = stage.daemon.explain(waited.and_then(|()| outcome.expect_notified(&dead)))?;
    ensure!(told.first_ms >= SILENCE_MS, "told after {} ms of silence", told.first_ms);
    stage.daemon.explain(outcome.expect_uncut(&dead))
}

/// Without a witness nobody is ended.
fn single(way: Way) -> Result<()> {
    let lab = few(way.families(), 1, false)?;
    let mut stage = way.start(&lab, &[1])?;
    keeps(&mut stage, way, &[1], 1)
}

fn two(way: Way) -> Result<()> {
    let lab = few(way.families(), 2, false)?;
    let mut stage = way.start(&lab, &[1, 2])?;
    tells(&mut stage, way, &[1, 2], 2)
}

/// The one on the node is never given up, for nobody can see what it says to the node's clients.
fn on_the_node(way: Way) -> Result<()> {
    let all = [1, 2, 3];
    let lab = few(way.families(), 3, true)?;
    let mut stage = way.start(&lab, &all)?;
    keeps(&mut stage, way, &all, 1)?;
    tells(&mut stage, way, &all, 3)
}

/// Of two, one is on the node: it is no witness.
fn two_of_which_one_is_on_the_node(way: Way) -> Result<()> {
    let lab = few(way.families(), 2, true)?;
    let mut stage = way.start(&lab, &[1, 2])?;
    keeps(&mut stage, way, &[1, 2], 2)
}

/// Whether the sets of the dead hold anybody.
fn ending(lab: &Lab) -> Result<bool> {
    Ok(lab.node().run("nft", &["list", "table", "inet", "apivip"])?.contains("expires"))
}

/// A daemon that is killed while it ends the connections of one leaves nothing behind that hurts when that one is back.
fn killed_while_ending(families: Families) -> Result<()> {
    let all = [1, 2, 3];
    let lab = few(families, 3, false)?;
    let mut stage = Failover::start(&lab, Variant::Real, &all, &[])?;
    let dead: Vec<IpAddr> = addresses(&lab, &[3]);
    let mut crowd = stage.everybody(&Mix { idle: MANY, ..patient() })?;
    let inflicted = stage.inflict(&mut crowd, Fault::Unplugged, &[3])?;
    let begun = Instant::now();
    while !ending(&lab)? {
        if begun.elapsed() > ENDING + NOTIFIED {
            bail!("nothing was ended\n{}", stage.daemon.log());
        }
        thread::sleep(Duration::from_millis(20));
    }
    stage.daemon.kill()?;
    inflicted.heal(&mut stage.plane)?;
    let first = crowd.finish()?;
    println!("killed {:?} after the fault\n{first}\n{}", begun.elapsed(), first.by_kind(&dead));
    stage.daemon.explain(first.expect_uncut(&dead))?;
    stage.daemon =
        Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(stage.plane.kubeconfig()?))?;
    stage.wait_for_backends(&all)?;
    let second = stage.everybody(&patient())?;
    thread::sleep(LASTING);
    let second = second.finish()?;
    ensure!(second.notified(&dead, None).flows > 0, "nobody was led to the one that is back");
    expect_uncut(&second, &stage)
}

#[test]
fn the_only_one_keeps_its_clients_while_it_stands_still() -> Result<()> {
    single(Way::Rules(Families::Dual))
}

#[test]
fn clients_of_one_on_the_node_are_never_ended() -> Result<()> {
    on_the_node(Way::Rules(Families::V4))
}

#[test]
fn one_on_the_node_is_no_witness_against_another() -> Result<()> {
    two_of_which_one_is_on_the_node(Way::Rules(Families::V4))
}

#[test]
fn a_daemon_that_is_killed_while_it_ends_connections_does_no_harm() -> Result<()> {
    killed_while_ending(Families::Dual)
}

mod release {
    use super::*;

    #[test]
    fn the_only_one_keeps_its_clients_through_the_forwarder() -> Result<()> {
        single(Way::Forwarder(Families::Dual))
    }

    #[test]
    fn one_of_two_is_given_up_through_rules() -> Result<()> {
        two(Way::Rules(Families::Dual))
    }

    #[test]
    fn one_of_two_is_given_up_through_the_forwarder() -> Result<()> {
        two(Way::Forwarder(Families::Dual))
    }

    #[test]
    fn clients_of_one_on_the_node_are_never_ended_over_ipv6() -> Result<()> {
        on_the_node(Way::Rules(Families::V6))
    }

    #[test]
    fn clients_of_one_on_the_node_are_never_ended_through_the_forwarder() -> Result<()> {
        on_the_node(Way::Forwarder(Families::V4))
    }

    #[test]
    fn one_on_the_node_is_no_witness_through_the_forwarder() -> Result<()> {
        two_of_which_one_is_on_the_node(Way::Forwarder(Families::V6))
    }
}
