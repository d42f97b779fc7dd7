//! The forwarder in front of real apiservers: clients in a pod and on the node, and kubectl through the node-local
//! endpoint; nftables that is refused and works again; an apiserver that dies while the forwarder serves.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::clients::Mix;
use integration::command;
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::failover::Failover;
use integration::failover::trial::leave_with;
use integration::fault::Fault;
use integration::forwarder::{LISTEN, TAKEN_OVER, is_local};
use integration::kubeconfig::{Authority, Kubeconfig, User};
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::nftfault::{self, NftFault};
use integration::pki::SERVER_NAME;
use integration::process::Spawned;
use integration::real::{ADMIN_TOKEN, cached};
use integration::scenario::Scenario;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

/// How often nftables is refused, and for how long each dataplane is left to serve.
const TURNS: usize = 3;
const STRETCH: Duration = Duration::from_millis(500);

/// Objects of the list, each of so many bytes.
const OBJECTS: usize = 60;
const OBJECT_BYTES: usize = 200_000;

fn kubectl_in(lab: &Lab, kubeconfig: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = lab.node().command(cached("kubectl")?);
    command.arg("--kubeconfig").arg(kubeconfig).args(arguments).env("HOME", lab.dir());
    Ok(command)
}

#[test]
fn kubectl_gets_watches_and_streams_through_the_local_endpoint() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::Real, &[1, 2, 3])?;
    scenario.options = LISTEN.iter().fold(scenario.options, |o, address| o.arg("--listen").arg(*address));
    let _daemon = scenario.daemon()?;
    let plane = &mut scenario.plane;
    let (authority, token) = (plane.authority().to_owned(), ADMIN_TOKEN);
    let writer = plane.real()?.client(1);
    let path = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str, bytes: usize| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
                "data": { "bytes": "x".repeat(bytes) } })
    };
    for i in 0..OBJECTS {
        writer.post(path, &map(&format!("large-{i}"), OBJECT_BYTES))?;
    }
    for (i, address) in LISTEN.iter().enumerate() {
        let kubeconfig = lab.dir().join(format!("kubectl-{i}.yaml"));
        let user = User::Token(token.to_owned());
        let authority = Authority::File(authority.clone());
        let named = Kubeconfig::new(format!("https://{address}"), authority, user);
        Kubeconfig { server_name: Some(SERVER_NAME.to_owned()), ..named }.write(&kubeconfig)?;
        let run = |arguments: &[&str]| command::run(kubectl_in(&lab, &kubeconfig, arguments)?, "");
        let service = run(&["get", "service", "kubernetes", "-o", "name"])?;
        ensure!(service.trim() == "service/kubernetes", "kubectl got {service:?}");
        let list = run(&["get", "--raw", path])?;
        ensure!(list.len() > OBJECTS * OBJECT_BYTES, "the list has only {} bytes", list.len());
        let list: serde_json::Value = serde_json::from_str(&list).context("parse the list")?;
        let large =
            list["items"].as_array().into_iter().flatten().filter(|item| {
                item["data"]["bytes"].as_str().is_some_and(|bytes| bytes.len() == OBJECT_BYTES)
            });
        ensure!(large.count() == OBJECTS, "objects are missing");
        let watch = kubectl_in(&lab, &kubeconfig, &["get", "configmaps", "--watch-only", "-o", "name"])?;
        let mut watch = Spawned::start(&format!("watch-{i}"), watch, lab.dir())?;
        // It says nothing when it is ready; an object that it does see tells that.
        let (mut round, name) = (0, format!("seen-{i}"));
        watch.wait_until("an object in the watch", LIMIT, |watch| {
            writer.post(path, &map(&format!("{name}-{round}"), 1))?;
            round += 1;
            std::thread::sleep(Duration::from_millis(200));
            Ok(watch.stdout().contains(&name).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn pod_and_node_are_forwarded_to_real_apiservers() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::Real, &[1, 2, 3])?;
    scenario.options = scenario.options.arg("--mode").arg("forwarder");
    let mut daemon = Daemon::spawn(lab.node(), lab.dir(), &scenario.options)?;
    daemon.wait_for_dataplane("forwarder", TAKEN_OVER)?;
    for family in lab.families().iter().copied() {
        for from in [lab.pod(1), lab.node()] {
            scenario.expect(&format!("from {}", from.name()), from, addresses::node(family))?;
        }
    }
    daemon.kill()?;
    for vip in lab.vips() {
        ensure!(!is_local(lab.node(), vip)?, "{vip} is local, and nobody serves it");
    }
    Ok(())
}

/// Has the kernel refuse what is to be programmed, and publishes these apiservers, which is to be.
fn refuse(stage: &mut Failover<'_>, faults: &NftFault, numbers: &[u8]) -> Result<()> {
    faults.set(nftfault::Fault::NotPermitted)?;
    stage.plane.publish_apiservers(numbers)?;
    stage.daemon.wait_for_dataplane("forwarder", TAKEN_OVER)?;
    stage.wait_for_backends(numbers)
}

#[test]
fn nftables_leaves_and_returns_under_tls_and_an_apiserver_dies_meanwhile() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let faults = NftFault::build(lab.dir())?;
    let mut stage = Failover::start_with(&lab, Variant::Real, &[1, 2, 3], |options| {
        *options = faults.in_daemon(options.clone());
    })?;
    let mix = Mix { fresh_every: Some(Duration::from_millis(50)), ..Mix::default() };
    let crowd = stage.everybody(&mix)?;
    for turn in 0..TURNS {
        let published: &[u8] = if turn.is_multiple_of(2) { &[1, 2] } else { &[1, 2, 3] };
        refuse(&mut stage, &faults, published).with_context(|| format!("turn {turn}"))?;
        thread::sleep(STRETCH);
        faults.clear()?;
        stage.daemon.wait_for_dataplane("nftables", LIMIT).with_context(|| format!("turn {turn}"))?;
        thread::sleep(STRETCH);
    }
    let outcome = crowd.finish()?;
    println!("{outcome}");
    let whole = outcome.expect_uncut(&[]).and_then(|()| outcome.expect_nothing_refused());
    stage.daemon.explain(whole)?;

    // While only the second one is published, whatever is opened leads to it.
    refuse(&mut stage, &faults, &[2])?;
    let crowd = stage.everybody(&mix)?.redirected_to(stage.plane.apiservers(2)[0]);
    stage.plane.publish_apiservers(&[1, 2, 3])?;
    stage.wait_for_backends(&[1, 2, 3])?;
    leave_with(&mut stage, Fault::Killed, &[2], crowd)?;
    ensure!(stage.daemon.status()?["dataplane"]["in_use"] == "forwarder", "the forwarder was not in use");
    Ok(())
}
