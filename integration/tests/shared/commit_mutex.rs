//! Another program reloads the rules of 10,000 Services, and nf_tables is its own for seconds: clients of an apiserver
//! that dies meanwhile are told all the same, the status answers, and a stop is heard.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::control_plane::Variant;
use integration::forwarder::stream_vips;
use integration::lab::{Families, Lab, LabOptions};
use integration::many_services;
use integration::process::{Signal, Spawned};
use integration::scenario::Scenario;
use integration::streams::{self, Idle, Servers};
use serde_json::Value;

/// The kernel takes nine times as long for twice as many: 14 s for these on a machine that takes 1.6 s for 5,000, which is
/// less than it takes to notice a cut cable and tell everybody.
const SERVICES: u32 = 10_000;
const LIMIT: Duration = Duration::from_secs(120);
/// Far more than an answer takes; that it comes before the reload is over is the proof.
const ANSWER: Duration = Duration::from_secs(5);

/// The first report of what became of the connections to a backend; more may follow when rules are committed later.
fn is_first_reset(line: &&str) -> bool {
    line.contains("event=connections_reset") && line.contains("repeated=false")
}

pub(crate) fn waits_and_delays_nothing(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let scenario = Scenario::start(&lab, variant, &[1, 2, 3])?;
    let servers = Servers::start(&lab)?;
    servers.publish(&scenario.plane, &[1, 2, 3])?;
    let mut daemon = scenario.daemon()?;
    let frontends = |status: &Value| status["frontends"].as_array().map(Vec::len);
    // In both families: https and streams, and in the simulation the echo server's port.
    let expected = if scenario.plane.is_simulated() { 6 } else { 4 };
    let clients = Idle::start(lab.pod(1), &lab, &stream_vips(&lab), &[], 120, false)?;
    let path = lab.dir().join("services.nft");
    std::fs::write(&path, many_services::script(SERVICES)).context("write the rules of the Services")?;
    let mut reload = lab.node().command("nft");
    reload.arg("-f").arg(&path);
    let mut reload = Spawned::start("reload", reload, lab.dir())?;
    // While it holds the lock, it is in one system call: its processor time grows and its answer does not come.
    let parsed = |process: &Spawned| -> Result<Option<()>> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap_or_default();
        let system = stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(13)?.parse::<u64>().ok());
        Ok((system > Some(20)).then_some(()))
    };
    reload.wait_until("a fifth of a second in the kernel", LIMIT, parsed)?;
    lab.unplug(1)?;
    let dead = lab.apiserver_addresses(1).into_iter().map(|ip| SocketAddr::new(ip, streams::PORT));
    let dead: Vec<SocketAddr> = dead.collect();
    let told = daemon.process().wait_until("the end of the flows", LIMIT, |process| {
        let log = process.stderr();
        let lines: Vec<&str> = log.lines().filter(is_first_reset).collect();
        let of = |dead: &SocketAddr| {
            lines.iter().any(|line| line.contains(&dead.to_string()) && !line.contains("flows=0 "))
        };
        let all = dead.iter().all(of);
        Ok(all.then(|| lines.join("\n")))
    })?;
    let begin = Instant::now();
    let status = daemon.status()?;
    let answered = begin.elapsed();
    let still = reload.exited()?.is_none();
    ensure!(still, "the reload was over before the clients were told: this test says nothing\n{told}");
    ensure!(answered < ANSWER, "the status took {answered:?}");
    ensure!(frontends(&status) == Some(expected), "{status:#}");
    ensure!(daemon.log().contains("event=nftables_busy"), "no commit waited\n{}", daemon.log());
    println!("{told}\nthe status took {answered:?}");
    let examined = clients.finish()?;
    ensure!(examined.told > 0 && examined.told + examined.working == examined.opened, "{examined:?}");
    // It may have come to its end by itself since.
    if reload.exited()?.is_none() {
        reload.signal(Signal::KILL)?;
        reload.wait(LIMIT)?;
    }
    daemon.wait_for_status("the rules without the dead one", LIMIT, |status| {
        status["phase"] == "programmed" && status["dataplane"]["in_use"] == "nftables"
    })?;
    scenario.expect_everybody("after the reload")?;
    let log = daemon.log();
    let lines = log.lines().filter(is_first_reset);
    let told: Vec<&str> = lines.filter_map(|line| line.split_once("backend=")?.1.split(' ').next()).collect();
    let distinct: BTreeSet<&str> = told.iter().copied().collect();
    ensure!(told.len() == distinct.len(), "told twice: {told:?}\n{log}");
    Ok(())
}
