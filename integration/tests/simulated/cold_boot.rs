//! Before the API can be read: seeds and saved state serve the virtual IP; once it can, its full list rules.

mod pod;
mod state;

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::cold_boot::{ColdBoot, LIMIT, backend, serves};
use integration::command;
use integration::control_plane::{SERVICE_PORT, Variant};
use integration::daemon::{Daemon, is_out, run_to_end};
use integration::forwarder::echo_vips;
use integration::lab::{Families, Lab, LabOptions};
use integration::load::{Load, Plan};
use integration::refusal::{self, MISUSED};

const SEEDS_V4: &str = "192.0.2.11:6443,192.0.2.12:6443,192.0.2.13:6443";
const SEEDS_V6: &str = "[2001:db8::11]:6443,[2001:db8::12]:6443,[2001:db8::13]:6443";

/// Many times the promise, which a benchmark measures: here an unoptimised daemon is started beside others.
const PROGRAMMED: Duration = Duration::from_secs(5);

/// Waits for the first commit and fails if it took far longer than promised.
fn expect_programmed_soon(daemon: &mut Daemon, begin: Instant) -> Result<()> {
    daemon.process().wait_for_line("event=rules_programmed", LIMIT)?;
    let took = begin.elapsed();
    ensure!(took < PROGRAMMED, "programmed {took:?} after the start\n{}", daemon.log());
    Ok(())
}

fn text_status(daemon: &Daemon) -> Result<String> {
    let mut status = std::process::Command::new(command::program("apivip")?);
    status.arg("status").arg("--run-dir").arg(daemon.run_dir());
    // What is served from seeds alone is not all well.
    let finished = command::finish(status, "", command::COMMAND_LIMIT)?;
    ensure!(matches!(finished.status.code(), Some(0 | 3 | 4)), "{finished:?}");
    Ok(finished.stdout)
}

fn v4(boot: &ColdBoot<'_>, numbers: &[u8]) -> Vec<SocketAddr> {
    numbers.iter().map(|i| boot.plane.apiservers(*i)[0]).collect()
}

#[test]
fn seeds_serve_the_virtual_ips_and_are_probed_while_the_api_cannot_be_read() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut boot = ColdBoot::start(&lab, Variant::Simulated, true)?;
    let seeds = format!("{SEEDS_V4},{SEEDS_V6}");
    let ranges = ["--service-cidr", "10.96.0.0/12", "--service-cidr", "fd00:10:96::/108"];
    let options = boot.options(&[&["--seed", &seeds], &ranges[..]].concat())?;

    let mut wrong = options.clone();
    wrong.arguments[1] = boot.vip().to_string();
    let refused = run_to_end(lab.node(), lab.dir(), &wrong, LIMIT)?;
    refusal::expect(&refused, MISUSED, &["--seed 10.96.0.1:443", "is the virtual IP itself"])?;

    let rehearsal = options.clone().arg("--dry-run");
    let mut dry = boot.spawn(&rehearsal)?;
    dry.process().wait_for_line("event=dry_run_rules", LIMIT)?;
    dry.stop()?;
    ensure!(!dry.state_dir().exists(), "a rehearsal keeps state");

    let begin = Instant::now();
    let mut daemon = boot.spawn(&options)?;
    expect_programmed_soon(&mut daemon, begin)?;
    boot.expect_served("from seeds")?;
    let (vip, all) = (boot.vip(), v4(&boot, &[1, 2, 3]));
    let status = daemon.wait_for_status("seeds that answer probes", LIMIT, |status| {
        serves(status, vip, &all, "seed")
            && backend(status, vip, all[0]).is_some_and(|b| b["state"] == "healthy")
    })?;
    ensure!(status["generation"] == 0 && status["api"]["state"] == "connecting", "{status:#}");
    ensure!(backend(&status, vip, all[0]).is_some_and(|b| b["published"] == false), "{status:#}");
    let text = text_status(&daemon)?;
    ensure!(text.contains(" seed ") && text.contains("The API has not been read yet"), "{text}");

    boot.plane.kill(1)?;
    let left = v4(&boot, &[2, 3]);
    boot.plane.wait_until_served(&mut daemon, &[2, 3])?;
    boot.expect_served("after the death of one")?;

    boot.may_read(true)?;
    daemon.wait_for_status("the API's own list", LIMIT, |s| {
        serves(s, vip, &left, "published") && s["generation"] != 0
    })?;
    boot.expect_served("from the API")
}

#[test]
fn saved_state_is_programmed_while_no_apiserver_lives() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut boot = ColdBoot::start(&lab, Variant::Simulated, true)?;
    boot.may_read(true)?;
    let (vip, all) = (boot.vip(), v4(&boot, &[1, 2, 3]));
    let options = boot.options(&["--seed", "192.0.2.13:6443"])?;
    let mut first = boot.spawn(&options)?;
    first.wait_for_status("the API's list", LIMIT, |status| serves(status, vip, &all, "published"))?;
    first.stop()?;
    let file = first.state_file();
    let (kept, written) = (fs::read(&file)?, fs::metadata(&file)?.modified()?);

    boot.plane.kill_all(&[1, 2, 3])?;
    boot.forget_rules()?;
    boot.watch_vip()?;
    let begin = Instant::now();
    let mut daemon = boot.spawn(&options)?;
    expect_programmed_soon(&mut daemon, begin)?;
    let status = daemon.wait_for_status("what was saved", LIMIT, |status| status["phase"] == "programmed")?;
    let saved = |i: usize| backend(&status, vip, all[i]).map(|found| found["source"].clone());
    ensure!(saved(0) == Some("saved".into()) && saved(2) == Some("seed".into()), "{status:#}");
    ensure!(status["api"]["state"] == "connecting" && status["generation"] == 0, "{status:#}");

    boot.plane.start_again(2)?;
    daemon.wait_for_status("the API's list again", LIMIT, |s| {
        s["api"]["state"] == "synced" && s["generation"] != 0
    })?;
    daemon.wait_for_backends(vip, &all[1..2])?;
    boot.expect_vip_undialled()?;
    boot.expect_served("from the one that is back")?;
    daemon.wait_for_status("a published one that is down", LIMIT, |status| {
        let found = backend(status, vip, all[0]);
        found.is_some_and(|found| found["source"] == "published" && is_out(&found))
    })?;
    let same = fs::read(&file)? == kept && fs::metadata(&file)?.modified()? == written;
    ensure!(same, "nothing new was learnt, and the file was written");
    Ok(())
}

#[test]
fn a_first_full_list_ends_what_was_saved_and_what_was_seeded() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let boot = ColdBoot::start(&lab, Variant::Simulated, true)?;
    boot.may_read(true)?;
    boot.plane.publish_apiservers(&[1])?;
    let (vip, all) = (boot.vip(), v4(&boot, &[1, 2, 3]));
    let mut first = boot.spawn(&boot.options(&["--seed", "192.0.2.13:6443"])?)?;
    first.wait_for_status("apiserver 1", LIMIT, |status| serves(status, vip, &all[..1], "published"))?;
    first.stop()?;
    let file = first.state_file();
    let keeps = |address: &SocketAddr| {
        fs::read_to_string(&file).is_ok_and(|text| text.contains(&address.to_string()))
    };
    ensure!(keeps(&all[0]), "what the API said last is not kept");

    boot.forget_rules()?;
    boot.plane.publish_apiservers(&[2])?;
    boot.may_read(false)?;
    let wrong = SocketAddr::from(([10, 96, 0, 99], SERVICE_PORT));
    let options =
        boot.options(&["--seed", "192.0.2.13:6443", "--vip", "10.96.0.99:443", "--removal-grace", "2s"])?;
    let mut daemon = boot.spawn(&options)?;
    let both = [all[0], all[2]];
    daemon.wait_for_backends(vip, &both)?;
    daemon.wait_for_backends(wrong, &both)?;
    let echo = echo_vips(&lab);
    let plan = Plan { established: 5, ..Plan::new("echo", &echo, 20) };
    let flows = Load::planned(lab.pod(1), lab.dir(), "load", &plan)?;
    // Reading begins with the next session, within the longest pause between two.
    boot.may_read(true)?;
    let status =
        daemon.wait_for_status("the API's list alone", LIMIT, |s| serves(s, vip, &all[1..2], "published"))?;
    ensure!(
        status["frontends"].as_array().is_some_and(|all| all.iter().all(|f| f["vip"] != wrong.to_string()))
    );
    boot.expect_served("from the API's list")?;
    // They keep whom they lead to for as long as they last.
    flows.finish_clean().context("flows to one that is no longer listed")?;
    daemon.wait_for_status("the end of the grace", LIMIT, |s| {
        both.iter().all(|gone| backend(s, vip, *gone).is_none())
    })?;
    daemon.stop()?;
    ensure!(!keeps(&all[0]) && keeps(&all[1]), "what ended is kept");
    Ok(())
}

#[test]
fn an_api_that_publishes_nothing_leaves_what_seeds_serve() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let boot = ColdBoot::start(&lab, Variant::Simulated, false)?;
    boot.may_read(true)?;
    let (vip, all) = (boot.vip(), v4(&boot, &[1, 2, 3]));
    let options = boot.options(&["--seed", SEEDS_V4, "--vip", "10.96.0.1:443"])?;
    let mut daemon = boot.spawn(&options)?;
    let held = |status: &serde_json::Value, word: &str| {
        let holds = status["retained"].as_array().cloned().unwrap_or_default();
        status["api"]["state"] == "synced"
            && holds.iter().any(|h| h.as_str().is_some_and(|h| h.contains(word)))
    };
    daemon.wait_for_status("a Service that is missing", LIMIT, |s| held(s, "does not exist"))?;
    ensure!(serves(&daemon.status()?, vip, &all, "seed"), "{:#}", daemon.status()?);
    boot.expect_served("without a Service")?;
    boot.plane.put_service(&lab.vips(), false)?;
    daemon
        .wait_for_status("endpoints that are missing", LIMIT, |s| held(s, "its last good backends stay"))?;
    ensure!(serves(&daemon.status()?, vip, &all, "seed"), "{:#}", daemon.status()?);
    boot.expect_served("without endpoints")?;
    boot.plane.publish_apiservers(&[1, 2])?;
    daemon.wait_for_status("endpoints", LIMIT, |status| serves(status, vip, &all[..2], "published"))?;
    boot.expect_served("from the API").map(drop)
}
