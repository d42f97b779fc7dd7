//! What a cluster becomes in the course of years: dual-stack, larger, at another port, and with credentials that a
//! plugin makes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::control_plane::Variant;
use integration::lab::{Lab, LabOptions};
use integration::scenario::Scenario;

use crate::shared::growth;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_cluster_becomes_dual_stack_gets_64_endpoints_and_moves_to_another_port() -> Result<()> {
    growth::dual_stack_64_endpoints_and_another_port(Variant::Simulated)
}

#[test]
fn a_credential_plugin_is_asked_for_each_session() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let token = scenario.plane.token();
    let (plugin, asked) = (lab.dir().join("plugin"), lab.dir().join("asked"));
    let credential = format!(
        r#"{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{{"token":"{token}"}}}}"#
    );
    fs::write(&plugin, format!("#!/bin/sh\necho once >>{}\necho '{credential}'\n", asked.display()))?;
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
    let kubeconfig = scenario.options.kubeconfig.clone().context("a kubeconfig")?;
    let text = fs::read_to_string(&kubeconfig).context("read the kubeconfig")?;
    let exec = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: {}, interactiveMode: Never}}",
        plugin.display()
    );
    let old = format!("token: {token}");
    ensure!(text.contains(&old), "no token in\n{text}");
    let path = lab.dir().join("plugin.kubeconfig");
    fs::write(&path, text.replace(&old, &exec)).context("write the kubeconfig")?;
    scenario.options.kubeconfig = Some(path);
    let mut daemon = scenario.daemon()?;
    let synced = |status: &serde_json::Value| status["api"]["state"] == "synced";
    let status = daemon.wait_for_status("the API", LIMIT, synced)?;
    let times = || -> Result<usize> { Ok(fs::read_to_string(&asked)?.lines().count()) };
    let before = times()?;
    ensure!(before > 0, "the plugin was not run");
    let address = status["api"]["address"].as_str().context("an address")?.to_owned();
    let watched = (1..=3).find(|i| scenario.plane.apiservers(*i)[0].to_string() == address);
    scenario.plane.kill(watched.context("an apiserver that is watched")?)?;
    daemon.wait_for_status("another apiserver", LIMIT, |status| {
        synced(status) && status["api"]["address"].as_str().is_some_and(|now| now != address)
    })?;
    ensure!(times()? > before, "the plugin was not run again");

    // It hangs: the rules stand, the status names it, and the end comes as soon as ever.
    let running = lab.dir().join("running");
    let script = format!("#!/bin/sh\necho $$ >{}\nexec sleep 600\n", running.display());
    fs::write(&plugin, script).context("write the plugin")?;
    scenario.plane.end_connections()?;
    let waits = format!("Cannot read the API: the credential plugin {} has not answered", plugin.display());
    let status = daemon.wait_for_status("the plugin that hangs", LIMIT, |status| {
        let problems = status["problems"].as_array().into_iter().flatten();
        let mut problems = problems.filter_map(|problem| problem["message"].as_str());
        problems.any(|what| what.starts_with(&waits))
    })?;
    ensure!(status["phase"] == "programmed" && status["api"]["state"] == "degraded", "{status:#}");
    let (ended, took) = daemon.stop()?;
    ensure!(ended.success(), "it ended with {ended}");
    println!("it ended after {took:?}");
    let pid = fs::read_to_string(&running).context("read the plugin's id")?;
    lab.node().run("kill", &[pid.trim()])?;
    ensure!(!daemon.log().contains(token), "the token is in the log");
    Ok(())
}
