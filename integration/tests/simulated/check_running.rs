//! What a running daemon knows to be wrong is wrong for `apivip check`, too.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::check::{BAD, GOOD, Stage};
use integration::lab::{Lab, LabOptions};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_failing_self_test_fails_the_check() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut stage = Stage::start(&lab)?;
    stage.scenario.options = stage.scenario.options.clone().arg("--selftest-interval").arg("1s");
    let mut daemon = stage.scenario.daemon()?;
    let answered = |status: &serde_json::Value| status["selftests"][0]["ready"] == true;
    daemon.wait_for_status("an answered self-test", LIMIT, answered)?;
    let checked = stage.check()?;
    checked.expect("self-test", "ok", &["10.96.0.1:443", "answered"])?;
    checked.expect("daemon-problems", "ok", &[])?;
    ensure!(checked.code == Some(GOOD), "{:#}", checked.report);
    // Of this node's own connections only those to the virtual IP are lost.
    lab.node().nft_load(
        "table ip gap {\n chain p {\n type filter hook postrouting priority 90\n ct original ip daddr 10.96.0.1 \
         fib saddr type local drop\n }\n}\n",
    )?;
    daemon.wait_for_status("a failed self-test", LIMIT, |status| status["selftests"][0]["ready"] == false)?;
    let checked = stage.check()?;
    checked.expect("self-test", "fail", &["10.96.0.1:443", "failed"])?;
    ensure!(checked.code == Some(BAD), "{:#}", checked.report);
    Ok(())
}

#[test]
fn what_the_status_complains_of_is_a_warning_of_the_check() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    let mut daemon = stage.scenario.daemon()?;
    lab.unplug(2)?;
    daemon.wait_for_status("a problem", LIMIT, |status| {
        status["problems"].to_string().contains("192.0.2.12:6443")
    })?;
    stage.check()?.expect("daemon-problems", "warning", &["192.0.2.12:6443"])
}
