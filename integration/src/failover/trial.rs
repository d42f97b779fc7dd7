//! What the scenarios of a failover share: the clients, the limits, and the verdict over dead apiservers.
//! In: a fault and whom it concerns. Out: the [`Outcome`], or an error where the daemon did not do its work.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Crowd, Failover, Outcome, Told};
use crate::clients::Mix;
use crate::control_plane::Variant;
use crate::fault::{Fault, Inflicted};
use crate::lab::{Families, Lab, LabOptions};
use crate::sim::clients::timeline::Kind;

/// Longest until every client of a dead apiserver is told: 6.5 s after a cut cable at the most, and longer where this machine is so
/// busy that the daemon does not trust what it sees.
pub const TOLD: Duration = Duration::from_secs(60);

/// A killed process is noticed in 150 ms: a new connection that begins so much later, in milliseconds, is served.
const LEFT: u64 = 2_000;

/// How long one that lives on is watched: longer than silence would take to end anything.
const LIVES_ON: Duration = Duration::from_secs(10);

/// New connections that begin so long after the last client was told, in milliseconds, are served.
const SETTLED: u64 = 500;

/// How long new connections are watched after the last client was told.
const AFTERWARDS: Duration = Duration::from_millis(1500);

/// Some of every kind of client, with the one that only simulated apiservers can serve.
pub fn mix() -> Mix {
    Mix { half_closed: 4, ..Mix::default() }
}

/// A lab with these families and nothing unusual.
pub fn lab(families: Families) -> Result<Lab> {
    Lab::start(LabOptions { families, ..LabOptions::default() })
}

/// The addresses of these apiservers.
pub fn addresses(lab: &Lab, numbers: &[u8]) -> Vec<IpAddr> {
    numbers.iter().flat_map(|i| lab.apiserver_addresses(*i)).collect()
}

/// Apiservers die while clients of every kind are at work in a pod and on the node.
pub fn dies(families: Families, fault: Fault, numbers: &[u8]) -> Result<Outcome> {
    let lab = lab(families)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &[1, 2, 3], &[])?;
    Ok(leave(&mut stage, fault, numbers, &mix())?.0)
}

/// Apiservers die. Each client of a dead one is told, nobody else is, and new connections go elsewhere. The fault
/// lasts on.
pub fn leave(
    stage: &mut Failover<'_>,
    fault: Fault,
    numbers: &[u8],
    mix: &Mix,
) -> Result<(Outcome, Inflicted)> {
    let crowd = stage.everybody(mix)?;
    leave_with(stage, fault, numbers, crowd)
}

/// Whoever stops in good order ends its idle connections itself, and its watches live on: nobody else may end them.
fn stops(stage: &Failover<'_>, crowd: Crowd, dead: &[IpAddr]) -> Result<Outcome> {
    thread::sleep(LIVES_ON);
    let outcome = crowd.finish()?;
    println!("one that lives on: {}\n{outcome}", outcome.by_kind(dead));
    let kept = outcome.told(dead, Some(Kind::Watch));
    let verdict = || -> Result<()> {
        ensure!(kept.told == 0, "watches of one that lives on were ended: {kept:?}");
        outcome.expect_uncut(dead)?;
        outcome.expect_served(LEFT)
    };
    stage.daemon.explain(verdict())?;
    Ok(outcome)
}

/// The same with clients that are there already.
pub fn leave_with(
    stage: &mut Failover<'_>,
    fault: Fault,
    numbers: &[u8],
    mut crowd: Crowd,
) -> Result<(Outcome, Inflicted)> {
    let dead = addresses(stage.lab, numbers);
    let inflicted = stage.inflict(&mut crowd, fault, numbers)?;
    if fault == Fault::Stopped {
        return Ok((stops(stage, crowd, &dead)?, inflicted));
    }
    let waited = crowd.wait_told(&dead, TOLD);
    // Where the servers' own kernels tell clients, that says nothing of the daemon.
    let itself =
        !matches!(fault, Fault::Paused | Fault::Unplugged | Fault::InboundLost | Fault::OutboundLost);
    thread::sleep(if itself { AFTERWARDS + Duration::from_millis(LEFT) } else { AFTERWARDS });
    let outcome = crowd.finish()?;
    println!("{fault:?} of {numbers:?}: {}\n{outcome}", outcome.by_kind(&dead));
    let verdict = || -> Result<()> {
        waited?;
        let Told { last_ms, .. } = outcome.expect_told(&dead)?;
        outcome.expect_uncut(&dead)?;
        outcome.expect_served(if itself { LEFT } else { last_ms + SETTLED })
    };
    stage.daemon.explain(verdict()).with_context(|| format!("{fault:?} of {numbers:?}"))?;
    Ok((outcome, inflicted))
}
