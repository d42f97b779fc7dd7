//! A backend is asked on the path of its own clients: its host answers whatever its process does, nobody else notices, and
//! silence is silence.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use integration::flows::{BACKEND_PORT, FlowStage, Kind, backend};
use integration::lab::{Families, Lab, LabOptions, PodAttachment, addresses};
use serde_json::Value;

/// Until an entry is listed.
const LISTED: Duration = Duration::from_secs(10);

const IDLE: [(Kind, usize); 1] = [(Kind::Idle, 24)];

/// Whom segments without data were for, in answer to a question; before it nothing was heard.
fn answered(asked: &Value) -> Result<Vec<&str>> {
    ensure!(asked["asked"] == "sent" && asked["flows"].as_u64() > Some(0), "{asked}");
    ensure!(asked["before"] == serde_json::json!([]), "{asked}");
    let heard = asked["heard"].as_array().context("no list")?;
    ensure!(heard.iter().all(|heard| heard["data"] == false), "{asked}");
    Ok(heard.iter().filter_map(|heard| heard["to"].as_str()).collect())
}

/// The node itself can reach backend `i`, and conntrack follows that connection.
fn a_dial_is_tracked(lab: &Lab, stage: &FlowStage<'_>, i: u8, family: Family) -> Result<()> {
    let target = backend(i, family);
    let holder = stage.hold_direct(lab.node(), target)?;
    let (ip, port) = (target.ip().to_string(), BACKEND_PORT.to_string());
    let name = if family == Family::V4 { "ipv4" } else { "ipv6" };
    let arguments = ["-L", "-f", name, "-p", "tcp", "--orig-dst", &ip, "--orig-port-dst", &port];
    // While other tests' entries go, a listing may miss one.
    let begun = Instant::now();
    while !lab.node().run("conntrack", &arguments)?.contains("ESTABLISHED") {
        ensure!(begun.elapsed() < LISTED, "a dial of the node to {target} is not tracked");
        thread::sleep(Duration::from_millis(100));
    }
    let asked = stage.ask_backend(i, family, &[])?;
    ensure!(!answered(&asked)?.is_empty(), "{asked}");
    let own = holder.finish()?;
    ensure!(own.count(i, &[]) == (1, 0), "{own:?}");
    Ok(())
}

#[test]
fn a_living_host_answers_and_its_clients_go_on() -> Result<()> {
    for attachment in [PodAttachment::Routed, PodAttachment::Bridged { netfilter: true }] {
        let lab = Lab::start(LabOptions { families: Families::Dual, attachment, ..LabOptions::default() })?;
        let mut stage = FlowStage::start(&lab)?;
        for family in lab.families() {
            let asked = stage.ask_backend(1, *family, &[])?;
            ensure!(asked["asked"] == "no-flows", "{asked}");
            a_dial_is_tracked(&lab, &stage, 1, *family)?;
        }
        let mut pod = stage.hold(lab.pod(1), lab.families(), &IDLE)?;
        let tracked = |family: &str| lab.node().run("conntrack", &["-L", "-f", family, "-p", "tcp"]);
        for frozen in [false, true] {
            stage.freeze(1, frozen)?;
            for family in lab.families() {
                let name = if *family == Family::V4 { "ipv4" } else { "ipv6" };
                let before = tracked(name)?.lines().count();
                let asked = stage.ask_backend(1, *family, &[])?;
                let client = addresses::pod(1, *family).to_string();
                let whom = answered(&asked)?;
                ensure!(!whom.is_empty() && whom.iter().all(|to| to.contains(&client)), "{asked}");
                let after = tracked(name)?;
                ensure!(after.lines().count() == before, "conntrack saw what was forged:\n{after}");
            }
        }
        stage.freeze(1, false)?;
        pod.speak()?;
        let held = pod.finish()?;
        let (open, ended) = held.count(1, &["reset", "aborted", "unexpected end of file"]);
        ensure!(open > 0 && ended == 0 && held.echoed(1) == open, "{held:?}");
    }
    Ok(())
}

#[test]
fn clients_of_the_node_itself_serve_as_well() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let stage = FlowStage::start(&lab)?;
    let mut host = stage.hold(lab.node(), lab.families(), &IDLE)?;
    for family in lab.families() {
        let asked = stage.ask_backend(1, *family, &[])?;
        ensure!(!answered(&asked)?.is_empty(), "{asked}");
    }
    host.speak()?;
    let held = host.finish()?;
    let (open, _) = held.count(1, &[]);
    ensure!(open > 0 && held.echoed(1) == open, "{held:?}");
    Ok(())
}

#[test]
fn a_host_that_is_gone_is_silent() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let stage = FlowStage::start(&lab)?;
    let _pod = stage.hold(lab.pod(1), lab.families(), &IDLE)?;
    lab.unplug(1)?;
    for family in lab.families() {
        let asked = stage.ask_backend(1, *family, &[])?;
        ensure!(answered(&asked)?.is_empty(), "{asked}");
        let asked = stage.ask_backend(2, *family, &[])?;
        ensure!(!answered(&asked)?.is_empty(), "{asked}");
    }
    Ok(())
}

#[test]
fn a_policy_of_the_node_that_drops_its_dials_does_not_silence_anybody() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let stage = FlowStage::start(&lab)?;
    let mut pod = stage.hold(lab.pod(1), lab.families(), &IDLE)?;
    lab.node().nft_load(
        "table inet firewall { chain output { type filter hook output priority 0; tcp dport 6443 tcp flags syn / syn,ack counter drop; }; }",
    )?;
    for family in lab.families() {
        let asked = stage.ask_backend(1, *family, &[])?;
        ensure!(!answered(&asked)?.is_empty(), "{asked}");
    }
    let policy = lab.node().nft_text("table inet firewall")?;
    ensure!(!policy.contains("packets 0 "), "the policy dropped nothing\n{policy}");
    pod.speak()?;
    let held = pod.finish()?;
    ensure!(held.echoed(1) > 0 && held.echoed(1) == held.count(1, &[]).0, "{held:?}");
    Ok(())
}

#[test]
fn without_cap_net_raw_nobody_is_asked() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = FlowStage::start(&lab)?;
    let _pod = stage.hold(lab.pod(1), lab.families(), &IDLE)?;
    let refused =
        stage.ask_backend(1, Family::V4, &["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]);
    let error = format!("{:?}", refused.err().context("it was heard without the capability")?);
    ensure!(error.contains("not permitted"), "{error}");
    Ok(())
}
