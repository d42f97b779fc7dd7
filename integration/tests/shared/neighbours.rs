//! Firewalls, zones and settings of other programs on the node: the virtual IP works beside each of them, or fails as the
//! manual says, and works again when the obstacle goes.

use std::net::{IpAddr, SocketAddr};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use apivip::model::types::Family;
use integration::control_plane::{SERVICE_PORT, Variant};
use integration::daemon::Daemon;
use integration::foreign::{fill_conntrack, fill_conntrack_at};
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::netns::Namespace;
use integration::scenario::Scenario;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// How often it is tried to keep a full table full, and with how many entries at most.
const TRIES: u16 = 5;
const SPARE: u32 = 1_000;
const ANSWERS: &str = "apivip_selftest_answers_total{component=\"rules\"}";

/// The chains of firewalld: an accepted way is one that is known, or that was translated.
const FIREWALLD: &str = "table inet other {
    chain rpfilter { type filter hook prerouting priority -140; meta nfproto ipv6 fib saddr . iif oif missing drop; }
    chain input { type filter hook input priority 10; ct state established,related accept; iifname lo accept; ct state invalid drop; ip6 nexthdr icmpv6 accept; reject with icmpx admin-prohibited; }
    chain forward { type filter hook forward priority 10; ct state established,related accept; ct status dnat accept; ct state invalid drop; ip6 nexthdr icmpv6 accept; reject with icmpx admin-prohibited; }
    chain output { type filter hook output priority 10; ct state established,related accept; oifname lo accept; }
    chain postrouting { type nat hook postrouting priority 110; }
}";

/// The chains of ufw, with the way to the apiservers that the manual asks for.
const DROP: &str = "table inet other {
    chain input { type filter hook input priority 0; policy drop; ct state invalid drop; ct state established,related accept; iifname lo accept; ip6 nexthdr icmpv6 accept; }
    chain forward { type filter hook forward priority 0; policy drop; ct state invalid drop; ct state established,related accept; ip6 nexthdr icmpv6 accept; ALLOWED }
    chain output { type filter hook output priority 0; policy drop; ct state invalid drop; ct state established,related,new accept; ip6 nexthdr icmpv6 accept; }
}";

/// One conntrack zone for all that passes the node, in both directions.
const ZONE: &str = "table inet other {
    chain prerouting { type filter hook prerouting priority -300; ct zone set 7; }
    chain output { type filter hook output priority -300; ct zone set 7; }
}";

const SETTINGS: [(&str, &str); 5] = [
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/ipv4/conf/eth0/rp_filter", "1"),
    ("net/netfilter/nf_conntrack_tcp_loose", "0"),
    ("net/netfilter/nf_conntrack_tcp_be_liberal", "0"),
];

fn remove(node: &Namespace) -> Result<()> {
    node.nft_load("delete table inet other")
}

/// Fails unless no client of `who` gets through. All try at once: each waits for 5 s.
fn expect_nobody(what: &str, scenario: &Scenario<'_>, lab: &Lab, who: &[&Namespace]) -> Result<()> {
    let ways: Vec<(&Namespace, IpAddr)> =
        who.iter().flat_map(|from| lab.vips().into_iter().map(|vip| (*from, vip))).collect();
    let answers = thread::scope(|scope| {
        let asking = ways.iter().map(|(from, vip)| scope.spawn(|| scenario.plane.fetch(from, *vip)));
        asking.collect::<Vec<_>>().into_iter().map(ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    for ((from, vip), answer) in ways.iter().zip(answers) {
        let answer = answer.map_err(|_| anyhow!("a client panicked"))?;
        ensure!(answer.is_err(), "{what}: {} gets {answer:?} from {vip}", from.name());
    }
    Ok(())
}

/// What the status names as problems.
fn problems(status: &Value) -> Vec<&str> {
    let problems = status["problems"].as_array().into_iter().flatten();
    problems.filter_map(|problem| problem["message"].as_str()).collect()
}

/// Waits until each virtual IP was tested anew, by two in turn and one that was under way, and the status is healthy: a probe
/// may be late for once.
fn expect_healthy(what: &str, daemon: &mut Daemon) -> Result<()> {
    let before = daemon.metric(ANSWERS)?;
    daemon.wait_for_metric(ANSWERS, LIMIT, |now| now > before + 2)?;
    daemon.wait_for_status(&format!("{what}: no problem"), LIMIT, |status| problems(status).is_empty())?;
    Ok(())
}

/// Waits until the status says of each virtual IP that connections of pods come and none leaves this node. The daemon's own
/// connections pass no forward chain, so its self-tests are answered.
fn expect_cut_off(what: &str, daemon: &mut Daemon, lab: &Lab) -> Result<()> {
    let status = daemon.wait_for_status(what, LIMIT, |status| {
        let problems = problems(status);
        lab.vips().iter().all(|vip| {
            let vip = format!("arrived for {} and none left", SocketAddr::new(*vip, SERVICE_PORT));
            problems.iter().any(|problem| problem.contains(&vip))
        })
    })?;
    let tests = status["selftests"].as_array().context("no self-tests in the status")?;
    ensure!(tests.iter().all(|test| test["ready"] == true), "{what}: {tests:#?}");
    Ok(())
}

/// Waits until the status names the failing self-test of each virtual IP, in words of the manual.
fn expect_failing(what: &str, daemon: &mut Daemon, lab: &Lab, reasons: &[&str]) -> Result<()> {
    let status = daemon.wait_for_status(what, LIMIT, |status| {
        let problems = problems(status);
        lab.vips().iter().all(|vip| {
            let vip = SocketAddr::new(*vip, SERVICE_PORT).to_string();
            let told = |problem: &&str| {
                let reason = problem.rsplit_once(" times in a row: ").map(|(_, reason)| reason);
                problem.contains(&vip) && reason.is_some_and(|reason| reasons.contains(&reason))
            };
            problems.iter().any(told)
        })
    })?;
    println!("{what}: {:?}", problems(&status));
    let condemned = problems(&status).iter().any(|problem| problem.contains("has not answered for"));
    ensure!(!condemned, "{what} condemned an apiserver: {:#}", status["problems"]);
    Ok(())
}

pub(crate) fn stand_in_nobodys_way(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, variant, &[1, 2, 3])?;
    scenario.options = scenario.options.arg("--selftest-interval=1s");
    let node = lab.node();
    node.sysctls(&SETTINGS)?;
    let mut daemon = scenario.daemon()?;
    scenario.expect_everybody("with rp_filter 1 and tcp_loose 0")?;
    let [v4, v6] = [Family::V4, Family::V6].map(addresses::pod_range);
    let allowed = format!("ip saddr {v4} tcp dport 6443 accept; ip6 saddr {v6} tcp dport 6443 accept;");
    for (what, rules) in [
        ("firewalld", FIREWALLD),
        ("policies that drop", &DROP.replace("ALLOWED", &allowed)),
        ("a conntrack zone", ZONE),
    ] {
        node.nft_load(rules).with_context(|| what.to_owned())?;
        scenario.expect_everybody(&format!("beside {what}"))?;
        expect_healthy(what, &mut daemon)?;
        remove(node)?;
    }
    Ok(())
}

/// What the manual says that the operator must mend is so, and is mended that way.
pub(crate) fn are_obstacles_as_the_manual_says(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, variant, &[1, 2, 3])?;
    let plain = scenario.options.clone();
    scenario.options = plain.clone().arg("--selftest-interval=1s");
    let (node, pod) = (lab.node(), lab.pod(1));
    let mut daemon = scenario.daemon()?;
    let vips: Vec<String> = lab.vips().iter().map(|vip| matches(*vip)).collect();

    node.nft_load(&DROP.replace("ALLOWED", ""))?;
    expect_nobody("a forward policy without a way to apiservers", &scenario, &lab, &[pod])?;
    expect_cut_off("a forward policy without a way to apiservers", &mut daemon, &lab)?;
    remove(node)?;
    scenario.expect_everybody("without that policy")?;
    expect_healthy("without that policy", &mut daemon)?;

    let notrack: String = vips.iter().map(|vip| format!("{vip} notrack;")).collect();
    node.nft_load(&format!(
        "table inet other {{ chain prerouting {{ type filter hook prerouting priority -300; {notrack} }}
         chain output {{ type filter hook output priority -300; {notrack} }}
}}"
    ))?;
    expect_nobody("a virtual IP that is not tracked", &scenario, &lab, &[pod, node])?;
    expect_failing("a virtual IP that is not tracked", &mut daemon, &lab, &["timeout", "unreachable"])?;
    remove(node)?;

    // A kube-proxy that believes that the Service has no endpoints checks at -110: in forward and input the packet has an
    // apiserver's address by then, in output it does not.
    let checks: String = vips.iter().map(|vip| format!("ct state new {vip} reject;")).collect();
    let chain = |hook: &str| format!("chain {hook} {{ type filter hook {hook} priority -110; {checks} }}\n");
    node.nft_load(&format!(
        "table inet other {{ {}{}{}}}",
        chain("input"),
        chain("forward"),
        chain("output")
    ))?;
    expect_nobody("kube-proxy without endpoints", &scenario, &lab, &[node])?;
    expect_failing("kube-proxy without endpoints", &mut daemon, &lab, &["refused"])?;
    for family in lab.families().iter().copied() {
        scenario.expect("kube-proxy without endpoints", pod, addresses::pod(1, family))?;
    }
    remove(node)?;

    // Entries of the self-test come and go, and leave room in the full table.
    daemon.stop()?;
    scenario.options = plain.arg("--selftest-interval=off");
    let daemon = scenario.daemon()?;
    let limit = node.run("cat", &["/proc/sys/net/netfilter/nf_conntrack_max"])?;
    // In a table that is nearly full the kernel takes away what has ended (`gc_worker`), and there would be room again.
    node.run("conntrack", &["-F"])?;
    let filled = fill_conntrack(node, lab.dir(), limit.trim().parse().context("parse the limit")?);
    let full = filled.is_err_and(|error| format!("{error:#}").contains("not enough memory"));
    ensure!(full, "there is room for more entries than the limit says");
    let ask = |turn| {
        // To a port of this turn's own. It fails when there is no room left, as it should be.
        let _full = fill_conntrack_at(turn, node, lab.dir(), SPARE);
        expect_nobody("a full conntrack table", &scenario, &lab, &[pod])
    };
    (1..TRIES).find_map(|turn| ask(turn).ok()).map_or_else(|| ask(TRIES), Ok)?;
    ensure!(!daemon.log().contains("API server does not answer"), "{}", daemon.log());
    let status = daemon.status()?;
    println!("a full conntrack table: {:?}", problems(&status));
    ensure!(
        !problems(&status).iter().any(|problem| problem.contains("has not answered for")),
        "{:#}",
        status["problems"]
    );
    node.run("conntrack", &["-F"])?;
    scenario.expect_everybody("after all of them")
}

fn matches(vip: IpAddr) -> String {
    format!("{} daddr {vip}", if vip.is_ipv4() { "ip" } else { "ip6" })
}
