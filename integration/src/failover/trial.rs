//! What the scenarios of a failover share: the clients, the limits, and the verdict over failed API servers.
//! In: a fault, and the API servers that it happens to. Out: the [`Outcome`], or an error where the daemon did not do its work.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Crowd, Failover, Notified, Outcome};
use crate::clients::Mix;
use crate::control_plane::Variant;
use crate::fault::{Fault, Inflicted};
use crate::lab::{Families, Lab, LabOptions};
use crate::sim::clients::timeline::Kind;

/// Longest until every client of a failed API server is notified: 6.5 s after a cut cable at the most, and longer where this machine
/// is so busy that the daemon does not trust what it sees.
pub const NOTIFIED: Duration = Duration::from_secs(60);

/// A killed process is noticed in 150 ms: a new connection that begins so much later, in milliseconds, is served.
const LEFT: u64 = 2_000;

/// How long one that keeps running is observed: longer than silence would take to end anything.
const LIVES_ON: Duration = Duration::from_secs(10);

/// New connections that begin so long after the last client was notified, in milliseconds, are served.
const SETTLED: u64 = 500;

/// How long new connections are watched after the last client was notified.
const AFTERWARDS: Duration = Duration::from_millis(1500);

/// Some of every kind of client, with the one that only simulated API servers can serve.
pub fn mix() -> Mix {
    Mix { half_closed: 4, ..Mix::default() }
}

/// A lab with these families and nothing unusual.
pub fn lab(families: Families) -> Result<Lab> {
    Lab::start(LabOptions { families, ..LabOptions::default() })
}

/// The addresses of these API servers.
pub fn addresses(lab: &Lab, numbers: &[u8]) -> Vec<IpAddr> {
    numbers.iter().flat_map(|i| lab.apiserver_addresses(*i)).collect()
}

/// API servers fail while clients of every kind are at work in a Pod and on the node.
pub fn dies(families: Families, fault: Fault, numbers: &[u8]) -> Result<Outcome> {
    let lab = lab(families)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &[1, 2, 3], &[])?;
    Ok(leave(&mut stage, fault, numbers, &mix())?.0)
}

/// API servers fail. Each client of a failed one is notified, no other client is, and new connections go elsewhere. The fault
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

/// An API server that is terminated in order ends its idle connections itself, and its watches continue: the daemon must not end
/// them.
fn stops(stage: &Failover<'_>, crowd: Crowd, failing: &[IpAddr]) -> Result<Outcome> {
    thread::sleep(LIVES_ON);
    let outcome = crowd.finish()?;
    println!("one that keeps running: {}\n{outcome}", outcome.by_kind(failing));
    let kept = outcome.notified(failing, Some(Kind::Watch));
    let verdict = || -> Result<()> {
        ensure!(kept.notified == 0, "watches of one that keeps running were ended: {kept:?}");
        outcome.expect_uncut(failing)?;
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
    let failing = addresses(stage.lab, numbers);
    let inflicted = stage.inflict(&mut crowd, fault, numbers)?;
    if fault == Fault::Stopped {
        return Ok((stops(stage, crowd, &failing)?, inflicted));
    }
    let waited = crowd.wait_notified(&failing, NOTIFIED);
    // Where the servers' own kernels reset clients, that says nothing of the daemon.
    let itself =
        !matches!(fault, Fault::Paused | Fault::Unplugged | Fault::InboundLost | Fault::OutboundLost);
    thread::sleep(if itself { AFTERWARDS + Duration::from_millis(LEFT) } else { AFTERWARDS });
    let outcome = crowd.finish()?;
    println!("{fault:?} of {numbers:?}: {}\n{outcome}", outcome.by_kind(&failing));
    let verdict = || -> Result<()> {
        waited?;
        let Notified { last_ms, .. } = outcome.expect_notified(&failing)?;
        outcome.expect_uncut(&failing)?;
        outcome.expect_served(if itself { LEFT } else { last_ms + SETTLED })
    };
    stage.daemon.explain(verdict()).with_context(|| format!("{fault:?} of {numbers:?}"))?;
    Ok((outcome, inflicted))
}
