//! Routes, routing rules and the device that lead the virtual IPs to the forwarder come back when somebody removes them.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::forwarder::{Stage, devices, is_local};
use integration::lab::{Families, Lab, LabOptions};

/// Before there were events, a look each 10 s found nothing of this.
const REPAIRED: Duration = Duration::from_secs(4);

/// An idle daemon runs for some 10 ms of a second, built for tests.
const BUSY: Duration = Duration::from_millis(300);

/// The processor time of the thread that everything but netlink and the forwarder's connections runs on.
fn running(daemon: &Daemon) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", daemon.pid()))?;
    let nanoseconds = stat.split(' ').next().context("an empty schedstat")?.parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

pub(crate) fn is_made_again(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let stage = Stage::start_on(&lab, variant, "forwarder")?;
    let mut daemon = stage.daemon("forwarder")?;
    let vips = lab.vips();
    let rules = |version: &str| lab.node().run("ip", &[version, "rule", "show", "pref", "97"]);
    let whole = || -> Result<bool> {
        let local = vips.iter().map(|vip| is_local(lab.node(), *vip)).collect::<Result<Vec<_>>>()?;
        let ruled = ["-4", "-6"].map(rules).into_iter().collect::<Result<Vec<_>>>()?;
        let there = devices(lab.node())?.iter().any(|name| name.starts_with("apivip"));
        Ok(there && local.iter().all(|l| *l) && ruled.iter().all(|r| r.contains("to ")))
    };
    ensure!(whole()?, "nothing leads to the forwarder");
    let (v4, v6) = (vips[0], vips[1]);
    for (round, tampering) in [
        format!("route del local {v4} dev apivip0 table 97\n"),
        format!("route del local {v6} dev apivip0 table 97\n"),
        "rule del pref 97\n".to_owned(),
        "link del apivip0\n".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        lab.node().ip(tampering)?;
        let repaired = u64::try_from(round + 1)?;
        daemon
            .process()
            .wait_until("the repair", REPAIRED, |_| Ok(whole()?.then_some(())))
            .with_context(|| tampering.clone())?;
        let status = daemon.wait_for_status("the repair", REPAIRED, |status| {
            status["repairs"]["total"].as_u64() >= Some(repaired)
        })?;
        ensure!(status["repairs"]["latest"][0]["object"] == "routes", "{status:#}");
    }
    let before = running(&daemon)?;
    thread::sleep(Duration::from_secs(1));
    let ran = running(&daemon)? - before;
    println!("its runtime ran for {ran:?} of a second");
    ensure!(ran < BUSY, "it ran for {ran:?} of a second\n{}", daemon.log());
    let total = daemon.status()?["repairs"]["total"].as_u64();
    ensure!(total.is_some_and(|total| total <= 8), "{total:?} repairs of 4 changes\n{}", daemon.log());
    stage.expect_forwarded("after all that")
}
