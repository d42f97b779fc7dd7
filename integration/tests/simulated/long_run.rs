//! What a cluster becomes in the course of years: dual-stack, larger, at another port, and with credentials that a
//! plugin makes.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::control_plane::{ControlPlane, SERVICE_PORT, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::{Families, Lab, LabOptions};
use integration::load::Load;
use integration::scenario::Scenario;
use integration::sim::objects::{self, Port};

/// Probes of 61 addresses that nobody has end within 5 s.
const LIMIT: Duration = Duration::from_secs(60);

/// In an apiserver's namespace: it answers at a second port as well.
const MOVED: &str = "table inet moved {
    chain ports {
        type nat hook prerouting priority dstnat
        tcp dport 6444 redirect to :6443
    }
}";

#[test]
fn a_cluster_becomes_dual_stack_gets_64_endpoints_and_moves_to_another_port() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut plane = ControlPlane::start(&lab, Variant::SimulatedSlices)?;
    let vips = lab.vips();
    let v4 = |i: u8| lab.apiserver_addresses(i).into_iter().filter(IpAddr::is_ipv4);
    let real: Vec<IpAddr> = (1..=3).flat_map(v4).collect();
    plane.put_service(&vips[..1], false)?;
    plane.publish(&real)?;
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(plane.kubeconfig()?))?;
    let vip = SocketAddr::new(vips[0], SERVICE_PORT);
    let load = Load::start(lab.pod(1), lab.dir(), "conversion", "tcp", &[vip], 200)?;

    plane.put_service(&vips, false)?;
    plane.publish_apiservers(&[1, 2, 3])?;
    for vip in &vips {
        let of_family = (1..=3).flat_map(|i| plane.apiservers(i)).filter(|b| b.is_ipv4() == vip.is_ipv4());
        let of_family: Vec<SocketAddr> = of_family.collect();
        daemon.wait_for_backends(SocketAddr::new(*vip, SERVICE_PORT), &of_family)?;
        for from in [lab.pod(1), lab.node()] {
            ensure!(plane.fetch(from, *vip)? == "ok", "{} does not reach {vip}", from.name());
        }
    }
    load.finish_clean()?;

    // Connections to those that nobody has may fail until probes have found them dead; none may after that.
    let nobody = (101..=161).map(|last| IpAddr::from([192, 0, 2, last]));
    plane.publish(&real.iter().copied().chain(nobody).collect::<Vec<_>>())?;
    let all: Vec<SocketAddr> = real.iter().map(|ip| SocketAddr::new(*ip, 6443)).collect();
    daemon.wait_for_status("64 endpoints", LIMIT, |status| {
        status["frontends"].as_array().is_some_and(|frontends| {
            frontends.iter().any(|f| f["backends"].as_array().is_some_and(|b| b.len() == 64))
        })
    })?;
    daemon.wait_for_backends(vip, &all)?;
    let load = Load::start(lab.pod(1), lab.dir(), "move", "tcp", &[vip], 200)?;
    plane.publish(&real)?;
    daemon.wait_for_backends(vip, &all)?;

    // The apiservers move to another port, and answer at the old one a while longer.
    for i in 1..=3 {
        lab.apiserver(i).nft_load(MOVED)?;
    }
    let ports = [Port::new("https", 6444), Port::new("echo", 7007)];
    plane.fleet()?.put(&objects::endpoint_slice(objects::SERVICE, "IPv4", &real, &ports))?;
    let moved: Vec<SocketAddr> = real.iter().map(|ip| SocketAddr::new(*ip, 6444)).collect();
    daemon.wait_for_backends(vip, &moved)?;
    ensure!(plane.fetch(lab.pod(1), vip.ip())? == "ok", "the pod does not reach the new port");
    load.finish_clean()?;
    Ok(())
}

/// Ends every connection to the API; the next need credentials.
fn end_sessions(plane: &mut ControlPlane<'_>) -> Result<()> {
    plane.fleet()?.on_all(|control| async move { control.reset(false).await })
}

#[test]
fn a_credential_plugin_is_asked_for_each_session() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::SimulatedSlices, &[1, 2, 3])?;
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
    end_sessions(&mut scenario.plane)?;
    let waits = format!("the API is not read: the credential plugin {} has not answered", plugin.display());
    let status = daemon.wait_for_status("the plugin that hangs", LIMIT, |status| {
        let problems = status["problems"].as_array().into_iter().flatten();
        let mut problems = problems.filter_map(|problem| problem["what"].as_str());
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
