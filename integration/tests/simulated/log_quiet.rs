//! The log says what changed, once: nothing while nothing does, and one line for a failure that goes on.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::control_plane::Variant;
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::{Families, Lab, LabOptions};
use integration::nftfault::{Fault, NftFault};
use integration::scenario::Scenario;
use integration::sim::protocol::Canned;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// For so long nothing may be said.
const QUIET: Duration = Duration::from_secs(30);
/// A failure goes on for so long: hundreds of attempts of some, two looks at the credentials.
const FAILING: Duration = Duration::from_secs(25);
/// Different failures of one outage that are logged: `LOGGED_FAILURES` of the daemon.
const DIFFERENT: usize = 32;

/// All periodic work as often as its flags allow without taking a busy machine for a dead apiserver.
fn options(scenario: &Scenario<'_>) -> DaemonOptions {
    ["--log-format=json", "--probe-interval=500ms", "--readyz-interval=1s", "--selftest-interval=1s"]
        .into_iter()
        .fold(scenario.options.clone(), DaemonOptions::arg)
}

/// The members of each line, without the time.
fn events(daemon: &Daemon) -> Result<Vec<Value>> {
    let read = |line: &str| -> Result<Value> {
        let mut event: Value = serde_json::from_str(line).with_context(|| format!("read {line:?}"))?;
        event.as_object_mut().context("a line is an object")?.remove("timestamp");
        Ok(event)
    };
    // The last line may be half written.
    let log = daemon.log();
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole.lines().map(read).collect()
}

fn with(events: &[Value], id: &str) -> Vec<Value> {
    events.iter().filter(|event| event["event"] == id).cloned().collect()
}

/// Waits for the line of an event.
fn wait_for_event(daemon: &mut Daemon, id: &str) -> Result<()> {
    daemon.process().wait_for_line(&format!("\"event\":\"{id}\""), LIMIT).map(drop)
}

/// Waits until everything of the start has been said: rules stand, each apiserver is up, each virtual IP answers.
fn settled(lab: &Lab, options: &DaemonOptions) -> Result<Daemon> {
    let mut daemon = Daemon::start(lab.node(), lab.dir(), options)?;
    daemon.wait_for_status("a settled node", LIMIT, |status| {
        let all = |list: &Value, good: &dyn Fn(&Value) -> bool| {
            list.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(good))
        };
        let up = |frontend: &Value| all(&frontend["backends"], &|backend| backend["state"] == "healthy");
        status["api"]["state"] == "synced"
            && all(&status["frontends"], &up)
            && all(&status["selftests"], &|test| test["ready"] == true)
            && status["selftests"].as_array().is_some_and(|tests| tests.len() == lab.vips().len())
    })?;
    Ok(daemon)
}

#[test]
fn an_idle_daemon_says_nothing() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let daemon = settled(&lab, &options(&scenario))?;
    let tests = "apivip_selftest_answers_total{component=\"rules\"}";
    let (before, tested) = (events(&daemon)?, daemon.metric(tests)?);
    thread::sleep(QUIET / 2);
    // A watch ends every five minutes, and goes on where it was.
    scenario.plane.fleet()?.on_all(|control| async move { control.close_watches().await.map(drop) })?;
    thread::sleep(QUIET / 2);
    ensure!(daemon.metric(tests)? > tested + 3, "nothing was tested meanwhile");
    let said = events(&daemon)?;
    ensure!(said.len() == before.len(), "an idle daemon says {:#?}", &said[before.len()..]);
    Ok(())
}

#[test]
fn an_api_that_is_away_is_told_once_for_each_failure() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let mut daemon = settled(&lab, &options(&scenario))?;
    let before = events(&daemon)?.len();
    let kubeconfig = scenario.options.kubeconfig.clone().context("a kubeconfig")?;
    let good = fs::read_to_string(&kubeconfig)?;
    fs::write(&kubeconfig, "half a kubeconf")?;
    scenario.plane.fleet()?.on_all(|control| async move {
        control.answer(Some(Canned::status(503))).await?;
        control.close_watches().await.map(drop)
    })?;
    daemon.wait_for_status("an API that is away", LIMIT, |status| status["api"]["state"] == "degraded")?;
    let reconnects = daemon.metric("apivip_api_reconnects_total")?;
    thread::sleep(FAILING);
    let tried = daemon.metric("apivip_api_reconnects_total")? - reconnects;
    let said = events(&daemon)?.split_off(before);
    let lines = with(&said, "api_read_failed");
    let different: BTreeSet<String> = lines.iter().map(Value::to_string).collect();
    ensure!(tried > 3, "only {tried} attempts");
    ensure!(!lines.is_empty() && lines.len() == different.len(), "said twice: {lines:#?}");
    ensure!(lines.len() <= DIFFERENT, "{} lines of one outage: {lines:#?}", lines.len());
    let lines = with(&said, "credentials_reload_failed");
    ensure!(lines.len() == 1, "said more than once, or never: {lines:#?}");
    fs::write(&kubeconfig, good)?;
    scenario.plane.fleet()?.on_all(|control| async move { control.answer(None).await })?;
    let back = "api_recovered";
    daemon.wait_for_status("the API", LIMIT * 2, |status| status["api"]["state"] == "synced")?;
    wait_for_event(&mut daemon, back)?;
    wait_for_event(&mut daemon, "credentials_reload_recovered")?;
    let all = events(&daemon)?.split_off(before);
    ensure!(with(&all, back).len() == 1, "{all:#?}");
    Ok(())
}

#[test]
fn a_dead_apiserver_is_told_once() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let mut daemon = settled(&lab, &options(&scenario))?;
    let before = events(&daemon)?.len();
    scenario.plane.kill(3)?;
    daemon.process().wait_for_line("\"to\":\"suspect\"", LIMIT)?;
    let probes = |daemon: &Daemon| daemon.metric("apivip_probes_total{outcome=\"refused\"}");
    let failed = probes(&daemon)?;
    thread::sleep(FAILING);
    ensure!(probes(&daemon)? > failed + 10, "it was not asked again");
    let said = events(&daemon)?.split_off(before);
    // Each of its ports is a backend of its own in the log. Its clients were told by its host.
    let mut lines = with(&said, "backend_state_changed");
    lines.retain(|line| line["to"] == "suspect");
    let backends: BTreeSet<String> = lines.iter().map(|line| line["backend"].to_string()).collect();
    ensure!(!lines.is_empty() && lines.len() == backends.len(), "{lines:#?}");
    // The watch may have been with it.
    let rest: Vec<&Value> = said.iter().filter(|event| event["backend"].is_null()).collect();
    ensure!(rest.len() <= 4, "{rest:#?}");
    Ok(())
}

#[test]
fn rules_that_the_kernel_refuses_are_told_once() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let faults = NftFault::build(lab.dir())?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let options = faults.in_daemon(options(&scenario).arg("--mode=nftables"));
    let mut daemon = settled(&lab, &options)?;
    let before = events(&daemon)?.len();
    faults.set(Fault::Failing)?;
    scenario.plane.publish_apiservers(&[1, 2])?;
    daemon.wait_for_phase("failed", LIMIT)?;
    let refused = |daemon: &Daemon| daemon.metric("apivip_commit_failures_total{reason=\"refused\"}");
    let failed = refused(&daemon)?;
    thread::sleep(FAILING);
    ensure!(refused(&daemon)? >= failed + 3, "it was not tried again");
    let said = events(&daemon)?.split_off(before);
    let lines = with(&said, "rules_failed");
    ensure!(lines.len() == 1, "{lines:#?}");
    faults.clear()?;
    daemon.wait_for_phase("programmed", LIMIT)?;
    wait_for_event(&mut daemon, "rules_recovered")?;
    Ok(())
}
