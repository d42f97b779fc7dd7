//! What a running daemon knows to be wrong is wrong for `apivip check`, too.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::check::{BAD, GOOD, Stage};
use integration::control_plane::SERVICE_PORT;
use integration::echoes;
use integration::lab::{Lab, LabOptions};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// Beyond this the counters were read after a self-test.
const COUNTED: Duration = Duration::from_secs(2);

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

/// The node's own connections pass no chain of the hook forward.
#[test]
fn a_forward_policy_that_drops_pods_is_seen_by_what_becomes_of_their_connections() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    let mut daemon = stage.scenario.daemon()?;
    let vip = SocketAddr::new(lab.vips()[0], SERVICE_PORT);
    let dial = |times: usize| (0..times).try_for_each(|_| echoes::connects(lab.pod(1), vip).map(drop));
    let pod_traffic = |status: &Value, expected: &str| status["selftests"][0]["pod_traffic"] == expected;
    // From then on what comes is compared with what was there.
    daemon.wait_for_status("a self-test", LIMIT, |status| status["selftests"][0]["ready"] == true)?;
    thread::sleep(COUNTED);
    dial(1)?;
    daemon
        .wait_for_status("a pod's connection that went on", LIMIT, |status| pod_traffic(status, "passing"))?;
    stage.check()?.expect("daemon-problems", "ok", &[])?;
    lab.node().nft_load(
        "table inet fw {\n chain f {\n type filter hook forward priority 0\n policy drop\n }\n}\n",
    )?;
    dial(1)?;
    daemon.wait_for_status("pods that are cut off", LIMIT, |status| pod_traffic(status, "blocked"))?;
    ensure!(daemon.status()?["selftests"][0]["ready"] == true, "the node's own way is another");
    stage.check()?.expect("daemon-problems", "warning", &["10.96.0.1:443", "and none left"])?;
    lab.node().nft_load("delete table inet fw\n")?;
    dial(1)?;
    daemon.wait_for_status("pods that are served again", LIMIT, |status| pod_traffic(status, "passing"))?;
    daemon.process().wait_for_line("event=pod_connections_recovered", LIMIT).map(drop)
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
