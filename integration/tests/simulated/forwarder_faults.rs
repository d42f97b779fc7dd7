//! nftables is refused and works again, over and over, under new connections and established ones: the forwarder takes
//! over and hands back, no new connection fails and no established one is cut.
//!
//! What the kernel of this machine cannot show (a missing chain type, a failing commit) is injected at the daemon's
//! netlink socket.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::forwarder::{Stage, TAKEN_OVER, echo_vips};
use integration::lab::{Families, Lab, LabOptions};
use integration::load::{Load, Plan};
use integration::neighbour::Neighbour;
use integration::nftfault::Fault;
use integration::sources;

/// How often a fault leaves and returns.
const TURNS: usize = 40;
/// New connections a second, and the variable that asks for another number: an unoptimised build carries a third of what
/// `cargo test --release` does on the same machine.
const RATE: u32 = 1_000;
const RATE_VARIABLE: &str = "APIVIP_TEST_RATE";
/// One in so many of them carries bytes to an apiserver and back; the others only connect.
const ECHOES: u32 = 5;
/// Connections that live through all of it.
const ESTABLISHED: usize = 20;
/// How long each dataplane is left to serve.
const STRETCH: Duration = Duration::from_millis(200);
/// Longest until nftables is found to work again, which is tried at most a second after the last time.
const HANDED_BACK: Duration = Duration::from_secs(20);

/// One at a time: each loads the machine as far as it goes.
static TURN: Mutex<()> = Mutex::new(());

fn leaves_and_returns(families: Families, fault: Fault, neighbour: Option<Neighbour>) -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let rate: u32 = match std::env::var(RATE_VARIABLE) {
        Ok(rate) => rate.parse().with_context(|| format!("{RATE_VARIABLE}={rate}"))?,
        Err(_) => RATE,
    };
    let lab = Lab::start(LabOptions { families, ..LabOptions::default() })?;
    let mut stage = Stage::start(&lab, "auto")?;
    if let Some(neighbour) = neighbour {
        neighbour.load(lab.node(), lab.families())?;
    }
    let mut daemon = stage.daemon("nftables")?;
    let (vips, sources) = (echo_vips(&lab), sources::add(&lab, 10)?);
    let connects = Plan { sources: &sources, ..Plan::new("tcp", &vips, rate - rate / ECHOES) };
    let echoes =
        Plan { sources: &sources, established: ESTABLISHED, ..Plan::new("echo", &vips, rate / ECHOES) };
    let connects = Load::planned(lab.pod(1), lab.dir(), "connects", &connects)?;
    let echoes = Load::planned(lab.pod(1), lab.dir(), "echoes", &echoes)?;
    let mut longest = Duration::ZERO;
    for turn in 0..TURNS {
        let what = || format!("turn {turn} of {fault:?}");
        stage.faults.set(fault)?;
        stage.touch(turn)?;
        let begin = Instant::now();
        let status = daemon.wait_for_dataplane("forwarder", TAKEN_OVER).with_context(what)?;
        longest = longest.max(begin.elapsed());
        let (reason, expected) = (status["dataplane"]["reason"].as_str(), fault.reason().unwrap_or_default());
        ensure!(reason.is_some_and(|reason| reason.contains(expected)), "{}: {status:#}", what());
        thread::sleep(STRETCH);
        stage.faults.clear()?;
        daemon.wait_for_dataplane("nftables", HANDED_BACK).with_context(what)?;
        thread::sleep(STRETCH);
    }
    println!("{fault:?}: the forwarder had taken over after {longest:?} at most");
    let verdict = || -> Result<()> {
        connects.finish_clean()?;
        let report = echoes.finish_clean()?;
        let opened = report.established.opened;
        ensure!(opened == ESTABLISHED as u64, "{opened} long-lived connections\n{report}");
        Ok(())
    };
    verdict().with_context(|| format!("{fault:?}; the daemon says\n{}", daemon.log()))?;
    for to in ["forwarder", "nftables"] {
        let switches = daemon.metric(&format!("apivip_dataplane_switches_total{{to=\"{to}\"}}"))?;
        ensure!(switches >= TURNS as u64, "only {switches} switches to {to}");
    }
    Ok(())
}

#[test]
fn without_permission() -> Result<()> {
    leaves_and_returns(Families::V4, Fault::NotPermitted, None)
}

#[test]
fn without_the_chain_type() -> Result<()> {
    leaves_and_returns(Families::V6, Fault::NoChainType, None)
}

#[test]
fn with_commits_that_fail() -> Result<()> {
    leaves_and_returns(Families::Dual, Fault::Failing, None)
}

#[test]
fn beside_a_kube_proxy() -> Result<()> {
    leaves_and_returns(Families::V4, Fault::Failing, Some(Neighbour::KubeProxyNft))
}
