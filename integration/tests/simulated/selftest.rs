//! Which component answers at the virtual IP: the daemon's own connections name it, whoever it is, and say so where an
//! operator looks.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::admin::{self, get};
use integration::control_plane::Variant;
use integration::daemon::{Daemon, DaemonOptions};
use integration::forwarder::{Stage, TAKEN_OVER};
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::neighbour::Neighbour;
use integration::netns::Namespace;
use integration::nftfault::Fault;
use integration::scenario::Scenario;
use integration::sim::access_log::What;
use integration::socklb::SocketBalancer;
use serde_json::Value;

/// A test comes every second here; what happens is known after two.
const LIMIT: Duration = Duration::from_secs(60);
const VIP: &str = "10.96.0.1:443";
/// Of both families, in the order of the lab's.
const VIPS: [&str; 2] = [VIP, "[fd00:10:96::1]:443"];

fn options(scenario: &Scenario<'_>) -> DaemonOptions {
    scenario.options.clone().arg("--selftest-interval=1s")
}

/// The last test of one virtual IP.
fn test_of(status: &Value, vip: &str) -> Value {
    let tests = status["selftests"].as_array().cloned().unwrap_or_default();
    tests.into_iter().find(|test| test["vip"] == vip).unwrap_or_default()
}

/// Waits until the test of one virtual IP was answered by this component.
fn wait_for(daemon: &mut Daemon, vip: &str, component: &str, answered: bool) -> Result<Value> {
    let what = format!("{component} at {vip}");
    let status = daemon.wait_for_status(&what, LIMIT, |status| {
        let test = test_of(status, vip);
        test["answered_by"] == component && test["failure"].is_null() == answered
    });
    let status = daemon.explain(status)?;
    Ok(test_of(&status, vip))
}

/// A table with its own translation, ahead of apivip's.
fn translate(node: &Namespace, to: SocketAddr) -> Result<()> {
    let (family, vip) = if to.is_ipv4() { ("ip", "10.96.0.1") } else { ("ip6", "fd00:10:96::1") };
    node.nft_load(&format!(
        "table {family} other {{ chain output {{ type nat hook output priority -150;
         {family} daddr {vip} tcp dport 443 dnat to {to}\n}}\n}}\n"
    ))
}

#[test]
fn apivips_own_ways_are_named_and_cost_an_apiserver_one_request_each() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options(&scenario))?;
    for (vip, backend) in [(VIP, "192.0.2.1"), ("[fd00:10:96::1]:443", "[2001:db8::1")] {
        let test = wait_for(&mut daemon, vip, "rules", true)?;
        ensure!(test["ready"] == true && test["consecutive_failures"] == 0, "{test}");
        let seen = test["backend"].as_str().unwrap_or_default();
        ensure!(seen.starts_with(backend) && seen.ends_with(":6443"), "{test}");
    }
    let answers = "apivip_selftest_answers_total{component=\"rules\"}";
    let begin = daemon.metric(answers)?;
    daemon.wait_for_status("six more tests", LIMIT, |_| daemon_metric(lab.node(), answers) >= begin + 6)?;
    ensure!(daemon.metric("apivip_selftest_serving{component=\"rules\"}")? == 2, "not both are ours");
    daemon.stop()?;
    // Each test was one connection and one request without credentials.
    let mut requests = 0;
    for i in 1..=3 {
        for entry in scenario.plane.fleet()?.access_log(i)? {
            if let What::Request { user_agent, .. } = &entry.what {
                requests += u64::from(user_agent.starts_with("apivip-selftest/"));
            }
        }
    }
    ensure!((begin + 6..begin + 30).contains(&requests), "{requests} requests for {begin} and six tests");

    let forwarder = options(&scenario).arg("--mode=forwarder");
    let mut daemon = Daemon::spawn(lab.node(), lab.dir(), &forwarder)?;
    for vip in [VIP, "[fd00:10:96::1]:443"] {
        wait_for(&mut daemon, vip, "forwarder", true)?;
    }
    admin::wait_until_ready(lab.node(), LIMIT)
}

fn daemon_metric(node: &Namespace, name: &str) -> u64 {
    let text = get(node, "/metrics").map(|answer| answer.body).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn a_neighbour_in_the_way_is_named() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2])?;
    let node = lab.node();
    let mut daemon = Daemon::start(node, lab.dir(), &options(&scenario))?;
    for vip in VIPS {
        wait_for(&mut daemon, vip, "rules", true)?;
    }
    for (at, vip) in VIPS.into_iter().enumerate() {
        let backend = |i: u8| scenario.plane.apiservers(i)[at];
        let gone = ["delete table ip other", "delete table ip6 other"][at];
        // One that apivip does not use, and one that it does: the table's counter tells that it was not its doing.
        for i in [3, 1] {
            translate(node, backend(i))?;
            let test = wait_for(&mut daemon, vip, "other_program_dnat", true)?;
            ensure!(test["backend"] == backend(i).to_string(), "{test}");
            // The other family is not concerned.
            wait_for(&mut daemon, VIPS[1 - at], "rules", true)?;
            let text = get(node, "/")?.body;
            ensure!(text.contains("the rules of another program translate the virtual IP"), "{text}");
            node.nft_load(gone)?;
            wait_for(&mut daemon, vip, "rules", true)?;
        }
        // An outdated view leads to where nobody is.
        translate(node, SocketAddr::new(backend(3).ip(), 9))?;
        let failed = |status: &Value| test_of(status, vip)["consecutive_failures"].as_u64() > Some(1);
        let status = daemon.wait_for_status("a failure", LIMIT, failed)?;
        ensure!(test_of(&status, vip)["failure"] == "refused", "{status:#}");
        ensure!(get(node, "/readyz")?.status == 500, "ready though nobody answers");
        let frontends = status["frontends"].as_array().context("no frontends")?;
        let backends = frontends.iter().flat_map(|f| f["backends"].as_array().into_iter().flatten());
        ensure!(
            backends.clone().all(|backend| backend["state"] == "healthy"),
            "a self-test condemned one: {status:#}"
        );
        node.nft_load(gone)?;
        wait_for(&mut daemon, vip, "rules", true)?;
    }
    let log = daemon.log();
    for vip in VIPS {
        let said = |line: &str| line.contains("event=vip_served_by_other") && line.contains(vip);
        ensure!(log.lines().any(said), "nothing of {vip} in {log}");
    }
    Ok(())
}

/// kube-proxy's check in `output` sees the virtual IP while the forwarder serves it: the node is refused, Pods are not.
#[test]
fn a_neighbour_that_rejects_the_node_is_named() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut stage = Stage::start(&lab, "auto")?;
    stage.options().arguments.push("--selftest-interval=1s".to_owned());
    Neighbour::KubeProxyNft.load(lab.node(), lab.families())?;
    let mut daemon = stage.daemon("nftables")?;
    stage.scenario.expect_everybody("beside kube-proxy")?;
    stage.faults.set(Fault::Failing)?;
    stage.touch(0)?;
    daemon.wait_for_dataplane("forwarder", TAKEN_OVER)?;
    for vip in [VIP, "[fd00:10:96::1]:443"] {
        let test = wait_for(&mut daemon, vip, "other_program_reject", false)?;
        ensure!(test["failure"] == "refused" && test["backend"].is_null(), "{test}");
    }
    let sentence = "reject connections from this node while the forwarder serves the virtual IP";
    let status = daemon.wait_for_status("two failures in a row", LIMIT, |status| {
        status["problems"][0]["message"].as_str().is_some_and(|message| message.contains(sentence))
    })?;
    let action = status["problems"][0]["action"].as_str().unwrap_or_default();
    ensure!(action.contains("--listen"), "{status:#}");
    admin::wait_for(lab.node(), "/readyz", "the culprit", LIMIT, |answer| {
        answer.status == 500 && answer.body.contains(sentence)
    })?;
    for family in lab.families().iter().copied() {
        stage.scenario.expect("from the Pod", lab.pod(1), addresses::node(family))?;
        let refused = stage.scenario.plane.fetch(lab.node(), addresses::vip(family));
        ensure!(refused.is_err(), "the node reaches the virtual IP through kube-proxy's check: {refused:?}");
    }
    stage.expect_listening()?;
    stage.faults.clear()?;
    daemon.wait_for_dataplane("nftables", LIMIT)?;
    wait_for(&mut daemon, VIP, "rules", true)?;
    stage.scenario.expect_everybody("after the fault")
}

/// A route makes the address local, as a program that serves it itself does: the guard leaves it alone.
#[test]
fn a_local_listener_is_named() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let node = lab.node();
    // To bind an IPv6 address takes more than a route to it.
    node.sysctls(&[("net/ipv6/ip_nonlocal_bind", "1")])?;
    let mut daemon = Daemon::start(node, lab.dir(), &options(&scenario))?;
    for (vip, address) in VIPS.into_iter().zip(lab.vips()) {
        wait_for(&mut daemon, vip, "rules", true)?;
        node.ip(&format!("route add local {address} dev lo table local\n"))?;
        let listener = node.within(|| TcpListener::bind(vip).context("listen on the virtual IP"))?;
        listener.set_nonblocking(true)?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Takes every connection and says something that no apiserver says.
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if let Ok((mut stream, _)) = listener.accept() {
                        let _ = std::io::Write::write_all(&mut stream, b"220 mail.example\r\n");
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            let seen = wait_for(&mut daemon, vip, "local_listener", false);
            done.store(true, Ordering::Relaxed);
            seen
        })?;
        let limit =
            |answer: &admin::Answer| answer.body.contains("a program on this host listens on the virtual IP");
        admin::wait_for(node, "/readyz", "the culprit", LIMIT, limit)?;
        node.ip(&format!("route del local {address} dev lo table local\n"))?;
        wait_for(&mut daemon, vip, "rules", true)?;
    }
    Ok(())
}

#[test]
fn a_socket_load_balancer_is_named() -> Result<()> {
    for (at, vip) in VIPS.into_iter().enumerate() {
        let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
        let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
        let balancer = SocketBalancer::build(&lab)?;
        let backend = scenario.plane.apiservers(2)[at];
        let behind = balancer.in_daemon(options(&scenario), vip.parse()?, backend);
        let mut daemon = Daemon::start(lab.node(), lab.dir(), &behind)?;
        let test = wait_for(&mut daemon, vip, "before_netfilter", true)?;
        ensure!(test["backend"] == backend.to_string(), "{test}");
        // The other family is not concerned, nor are others on the node: they go through the rules.
        wait_for(&mut daemon, VIPS[1 - at], "rules", true)?;
        scenario.expect_everybody("beside a socket load balancer")?;
        let said = format!("event=vip_served_by_other vip={vip}");
        ensure!(daemon.log().contains(&said), "{}", daemon.log());
        daemon.stop()?;
    }
    Ok(())
}
