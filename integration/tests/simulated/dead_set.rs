//! Who is dead stands in sets whose elements expire: the daemon keeps them there while it means it, and nobody takes that
//! for a change of the table.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::lab::{Families, Lab, LabOptions};
use integration::scenario::Scenario;
use serde_json::Value;

/// An element lives so long, and is put there again after a third of it.
const LIFE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(20);
/// For a busy machine.
const SLACK: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);

/// How many seconds each element of the set of this virtual IP has still to live, by its address.
fn dead(lab: &Lab, vip: &str) -> Result<Vec<(String, u64)>> {
    let listed =
        lab.node().run("nft", &["-j", "list", "set", "inet", "apivip", &format!("dead-{vip}-443")])?;
    let listed: Value = serde_json::from_str(&listed).context("parse what nft lists")?;
    let sets = listed["nftables"].as_array().into_iter().flatten();
    let elements = sets.filter_map(|object| object["set"]["elem"].as_array()).flatten();
    let read = |element: &Value| {
        let (element, concat) = (&element["elem"], &element["elem"]["val"]["concat"]);
        Some((concat[0].as_str()?.to_owned(), element["expires"].as_u64()?))
    };
    Ok(elements.filter_map(read).collect())
}

fn wait_for(lab: &Lab, vip: &str, limit: Duration, wanted: impl Fn(&[(String, u64)]) -> bool) -> Result<()> {
    let begin = Instant::now();
    loop {
        let found = dead(lab, vip)?;
        if wanted(&found) {
            return Ok(());
        }
        ensure!(begin.elapsed() < limit, "the set of {vip} holds {found:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn repairs(daemon: &Daemon) -> Result<u64> {
    daemon.status()?["repairs"]["total"].as_u64().context("no repairs in the status")
}

#[test]
fn the_dead_stay_in_the_sets_while_a_daemon_means_it_and_no_longer() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    scenario.options = scenario.options.arg("--table-owner=off");
    let mut daemon = scenario.daemon()?;
    scenario.expect_everybody("before anybody dies")?;
    let vips = ["10.96.0.1", "fd00_10_96__1"];
    for vip in vips {
        ensure!(dead(&lab, vip)?.is_empty(), "somebody is dead already");
    }
    lab.unplug(3)?;
    for vip in vips {
        wait_for(&lab, vip, LIMIT, |dead| dead.len() == 1)?;
    }
    // It is put there again, whoever took it away meanwhile.
    wait_for(&lab, vips[0], AGAIN + SLACK, |dead| dead[0].1 < LIFE.as_secs() - 15)?;
    lab.node().nft_load("flush set inet apivip dead-fd00_10_96__1-443")?;
    for vip in vips {
        wait_for(&lab, vip, AGAIN + SLACK, |dead| dead.len() == 1 && dead[0].1 >= LIFE.as_secs() - 5)?;
    }
    ensure!(repairs(&daemon)? == 0, "that was taken for a change of the table\n{}", daemon.log());
    // Who is put there by others is taken out at once.
    lab.node().nft_load("add element inet apivip dead-10.96.0.1-443 { 192.0.2.11 . 6443 timeout 1h }")?;
    wait_for(&lab, vips[0], SLACK, |dead| dead.len() == 1)?;
    ensure!(repairs(&daemon)? == 1, "the repair is not told\n{}", daemon.log());
    daemon.kill()?;
    for vip in vips {
        wait_for(&lab, vip, LIFE + SLACK, <[_]>::is_empty)?;
    }
    Ok(())
}
