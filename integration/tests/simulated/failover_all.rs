//! What concerns all three apiservers, or all but one, and no longer than they can be waited for: the last good ones keep
//! their place, the daemon ends no flow, and whoever comes afterwards is served.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::clients::Mix;
use integration::control_plane::{SERVICE_PORT, Variant};
use integration::daemon::{backends_of, every_backend};
use integration::failover::Failover;
use integration::failover::trial::{lab, mix};
use integration::fault::Fault;
use integration::lab::Families;

const ALL: [u8; 3] = [1, 2, 3];

/// Four times gone and back.
const FLAPS: Duration = Duration::from_secs(8);

/// Until connections that began under the fault are over; then all are served.
const SETTLED: Duration = Duration::from_millis(500);

/// Longest until the daemon has seen an answer of `/readyz`, which it asks for each second here.
const SEEN: Duration = Duration::from_secs(30);

/// How long a slow apiserver is watched: it is asked several times, and each answer takes 3 s.
const SLOW: Duration = Duration::from_secs(5);

/// An apiserver's own kernel resets whatever is sent to it in a bad second, the answers of clients that are asked among it. The daemon
/// ends no connection.
#[test]
fn all_that_flap_each_second_keep_one_in_place_and_nobody_ends_their_connections() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &["--selftest-interval=off"])?;
    let idle = Mix { idle: 40, watch: 0, upload: 0, download: 0, ..Mix::default() };
    let mut crowd = stage.everybody(&idle)?;
    let begin = Instant::now();
    let inflicted = stage.inflict(&mut crowd, Fault::Flapping, &ALL)?;
    let mut open = 0;
    while begin.elapsed() < FLAPS {
        let status = stage.daemon.status()?;
        for vip in lab.vips() {
            let backends = backends_of(&status, (vip, 443).into());
            ensure!(!backends.is_empty(), "{vip} leads nowhere\n{status:#}");
        }
        open += usize::from(status["retained"].to_string().contains("answers probes"));
        thread::sleep(Duration::from_millis(100));
    }
    stage.heal(inflicted)?;
    let served = begin.elapsed() + SETTLED;
    thread::sleep(SETTLED * 4);
    let ended =
        |method: &str| stage.daemon.metric(&format!("apivip_flows_ended_total{{method=\"{method}\"}}"));
    let ended = [ended("reset")?, ended("socket")?];
    let outcome = crowd.finish()?;
    println!("{open} looks at an outage of all, {ended:?} flows ended\n{outcome}");
    let judge = || -> Result<()> {
        ensure!(open > 0, "nobody noticed that all were away");
        ensure!(ended == [0, 0], "the daemon ended flows: {ended:?}");
        outcome.expect_served(u64::try_from(served.as_millis())?)
    };
    stage.daemon.explain(judge())
}

/// Unready ones drain while another is ready, and serve while none is. Slow ones are ready, in their own time.
#[test]
fn two_and_all_that_are_unready_or_slow_cut_nobody() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &["--readyz-interval=1s"])?;
    let timeout = Duration::from_secs(60);
    let mut crowd =
        stage.everybody(&Mix { fresh_every: Some(Duration::from_millis(50)), timeout, ..mix() })?;
    let mut go = || -> Result<()> {
        let two = stage.inflict(&mut crowd, Fault::Unready, &[1, 2])?;
        stage.wait_for_backends(&[3])?;
        let third = Fault::Unready.inflict(&mut stage.plane, &[3])?;
        let none = |status: &serde_json::Value| {
            status["retained"].to_string().contains("is ready; the ones that answer")
        };
        stage.daemon.wait_for_status("that none is ready", SEEN, none)?;
        stage.wait_for_backends(&ALL)?;
        for inflicted in [two, third] {
            stage.heal(inflicted)?;
        }
        // All serve already, as none was ready: each must be seen ready before the next fault.
        stage.daemon.wait_for_status("that all are ready", SEEN, all_are_up)?;
        stage.wait_for_backends(&ALL)?;
        for numbers in [&[2][..], &[1, 3]] {
            let slow = Fault::Slow.inflict(&mut stage.plane, numbers)?;
            thread::sleep(SLOW);
            stage.expect_backends(&format!("{numbers:?} slow"), &ALL)?;
            stage.heal(slow)?;
        }
        Ok(())
    };
    let went = go();
    let outcome = crowd.finish()?;
    println!("{outcome}");
    let verdict = went.and_then(|()| outcome.expect_uncut(&[])).and_then(|()| outcome.expect_served(0));
    stage.daemon.explain(verdict)
}

fn all_are_up(status: &serde_json::Value) -> bool {
    every_backend(status).all(|backend| backend["state"] == "healthy")
}

/// The first that refuses leaves the path while the others are still taken to answer; one stays in it all the time.
#[test]
fn all_killed_or_stopped_serve_when_they_are_back() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &[])?;
    for fault in [Fault::Killed, Fault::Stopped] {
        let mut crowd = stage.everybody(&mix())?;
        let inflicted = stage.inflict(&mut crowd, fault, &ALL)?;
        thread::sleep(Duration::from_secs(3));
        let status = stage.daemon.status()?;
        for vip in lab.vips() {
            let used = backends_of(&status, (vip, SERVICE_PORT).into());
            ensure!(!used.is_empty(), "{fault:?}: nobody is left for {vip}");
        }
        stage.heal(inflicted)?;
        drop(crowd);
        stage.wait_for_backends(&ALL)?;
        let crowd = stage.everybody(&mix())?;
        thread::sleep(Duration::from_secs(2));
        let outcome = crowd.finish()?;
        let verdict = outcome.expect_uncut(&[]).and_then(|()| outcome.expect_nothing_refused());
        stage.daemon.explain(verdict).with_context(|| format!("after {fault:?}"))?;
    }
    Ok(())
}
