//! What stands in the way of nudges: a policy of the node or of the pod, a missing capability, the client's own limit
//! of answers, and a conntrack table full of other people's flows. Each is overcome, or reported.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use apivip::model::types::Family;
use integration::flows::{FlowStage, Held, Kind};
use integration::lab::{Families, Lab, LabOptions, PodAttachment};
use serde_json::{Value, json};

/// To each virtual IP, which spreads them by chance: among so many, some lead to each of three backends.
const IDLE: [(Kind, usize); 2] = [(Kind::Idle, 40), (Kind::HalfClosed, 20)];

fn dual() -> LabOptions {
    LabOptions { families: Families::Dual, ..LabOptions::default() }
}

/// Open connections to the dead backend, and those that were reset.
fn dead(held: &Held) -> (usize, usize) {
    held.count(1, &["reset", "aborted"])
}

#[test]
fn an_output_policy_that_drops_nudges_is_passed_by() -> Result<()> {
    for attachment in [PodAttachment::Routed, PodAttachment::Bridged { netfilter: true }] {
        let lab = Lab::start(LabOptions { attachment, ..dual() })?;
        let stage = FlowStage::start(&lab)?;
        lab.node().nft_load(
            "table inet firewall { chain output { type filter hook output priority 0; ct state untracked tcp sport 443 counter drop; }; }",
        )?;
        let pod = stage.hold(lab.pod(1), lab.families(), &IDLE)?;
        lab.unplug(1)?;
        stage.lead(&[1], true)?;
        for family in lab.families() {
            let report = stage.kill(1, *family, &[], &[])?;
            ensure!(report["remaining"] == json!({}), "{report}");
        }
        let policy = lab.node().nft_text("table inet firewall")?;
        ensure!(!policy.contains("packets 0 "), "the policy dropped nothing\n{policy}");
        let held = pod.finish()?;
        ensure!(dead(&held).0 == 0 && dead(&held).1 > 0, "{held:?}");
    }
    Ok(())
}

#[test]
fn a_pod_that_drops_invalid_is_reported() -> Result<()> {
    let lab = Lab::start(dual())?;
    let stage = FlowStage::start(&lab)?;
    lab.pod(1).nft_load(
        "table inet firewall { chain input { type filter hook input priority 0; ct state invalid drop; }; }",
    )?;
    let pod = stage.hold(lab.pod(1), lab.families(), &IDLE)?;
    lab.unplug(1)?;
    stage.lead(&[1], true)?;
    let mut reported = 0;
    for family in lab.families() {
        let report = stage.kill(1, *family, &[], &["--bound-ms", "2500"])?;
        let remaining = report["remaining"]["no_answer"].as_u64().unwrap_or_default();
        ensure!(
            report["rounds"].as_u64() > Some(1) && Some(remaining) == report["flows"].as_u64(),
            "{report}"
        );
        reported += remaining;
    }
    let held = pod.finish()?;
    ensure!(u64::try_from(dead(&held).0)? == reported && reported > 0, "{reported} of {held:?}");
    Ok(())
}

#[test]
fn without_cap_net_raw_the_rule_alone_tells_those_who_speak() -> Result<()> {
    let lab = Lab::start(dual())?;
    let stage = FlowStage::start(&lab)?;
    let idle = stage.hold(lab.pod(1), lab.families(), &[(Kind::Idle, 40)])?;
    let host = stage.hold(lab.node(), lab.families(), &IDLE)?;
    lab.unplug(1)?;
    stage.lead(&[1], true)?;
    let wrapper = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"];
    for family in lab.families() {
        let report = stage.kill(1, *family, &wrapper, &["--bound-ms", "1500"])?;
        let degraded = report["degraded"].as_str().unwrap_or_default();
        ensure!(degraded.contains("raw socket") && report["challenge_syns"] == 0, "{report}");
        ensure!(report["remaining"]["not_permitted"].as_u64() > Some(0), "{report}");
        ensure!(report["sockets"].as_u64() > Some(0), "{report}");
    }
    let (idle, host) = (idle.finish()?, host.finish()?);
    ensure!(dead(&idle).0 > 0 && dead(&idle).1 == 0, "{idle:?}");
    ensure!(dead(&host).0 == 0 && dead(&host).1 > 0, "{host:?}");
    Ok(())
}

#[test]
fn a_cancelled_order_stops() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = FlowStage::start(&lab)?;
    let pod = stage.hold(lab.pod(1), lab.families(), &[(Kind::Idle, 60)])?;
    stage.lead(&[1], true)?;
    let report = stage.kill(1, Family::V4, &[], &["--rate", "1", "--cancel-after-ms", "600"])?;
    ensure!(report["cancelled"] == true && report["challenge_syns"].as_u64() < Some(4), "{report}");
    let held = pod.finish()?;
    ensure!(dead(&held).0 > 0 && dead(&held).1 < 4, "{held:?}");
    Ok(())
}

/// Ends 5,000 idle connections of one pod, and prints how long that took at the client.
fn five_thousand(limit: Option<&str>) -> Result<Value> {
    let lab = Lab::start(LabOptions { apiservers: 2, ..LabOptions::default() })?;
    let stage = FlowStage::start(&lab)?;
    if let Some(limit) = limit {
        lab.pod(1).sysctl("net.ipv4.tcp_challenge_ack_limit", limit)?;
    }
    stage.lead(&[2], false)?;
    let pod = stage.hold(lab.pod(1), lab.families(), &[(Kind::Idle, 5000)])?;
    lab.unplug(1)?;
    stage.lead(&[1], true)?;
    let since = SystemTime::now();
    let report = stage.kill(1, Family::V4, &[], &[])?;
    let held = pod.finish()?;
    let times = held.times(1, since);
    ensure!(dead(&held) == (0, 5000), "{} open, {} told", dead(&held).0, dead(&held).1);
    println!(
        "limit {limit:?}: median {:.0} ms, last {:.0} ms, from the start of the order's process",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    Ok(report)
}

#[test]
fn five_thousand_idle_connections_are_told() -> Result<()> {
    let report = five_thousand(None)?;
    ensure!(report["remaining"] == json!({}) && report["flows"] == 5000, "{report}");
    Ok(())
}

#[test]
fn five_thousand_idle_connections_of_a_host_that_limits_its_answers_are_told() -> Result<()> {
    let report = five_thousand(Some("1000"))?;
    ensure!(report["remaining"] == json!({}) && report["rounds"].as_u64() > Some(2), "{report}");
    Ok(())
}

#[test]
fn sixty_thousand_flows_of_others_do_not_hold_an_order_up() -> Result<()> {
    let lab = Lab::start(dual())?;
    let stage = FlowStage::start(&lab)?;
    let mut entries = String::new();
    for n in 0..60_000u32 {
        let (host, port) = (n / 30_000, 10_000 + n % 30_000);
        // Writing to a String cannot fail.
        let _ = writeln!(
            entries,
            "-I -s 198.51.100.{host} -d 203.0.113.{} -r 203.0.113.{} -q 198.51.100.{host} -p tcp --sport {port} \
             --dport 443 --reply-port-src 443 --reply-port-dst {port} --state ESTABLISHED -u ASSURED -t 600",
            n % 200,
            n % 200
        );
    }
    let file = lab.dir().join("entries");
    std::fs::write(&file, entries)?;
    lab.node().run("conntrack", &["-R", &file.display().to_string()])?;
    let count = lab.node().run("sh", &["-c", "cat /proc/sys/net/netfilter/nf_conntrack_count"])?;
    ensure!(count.trim().parse::<u32>()? >= 60_000, "only {count} entries");
    let pod = stage.hold(lab.pod(1), lab.families(), &IDLE)?;
    lab.unplug(1)?;
    stage.lead(&[1], true)?;
    for family in lab.families() {
        let report = stage.kill(1, *family, &[], &[])?;
        ensure!(report["remaining"] == json!({}), "{report}");
        let first = Duration::from_secs_f64(report["found_after"].as_f64().unwrap_or(f64::MAX) / 1e3);
        ensure!(first < Duration::from_secs(1), "{report}");
    }
    let held = pod.finish()?;
    ensure!(dead(&held).0 == 0 && dead(&held).1 > 0, "{held:?}");
    Ok(())
}
