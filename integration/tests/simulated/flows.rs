//! The flows of a dead backend end at the client: of every kind, from pods and from the host, in both families, and
//! nobody else's do.

use std::collections::BTreeSet;
use std::time::SystemTime;

use anyhow::{Result, ensure};
use apivip::model::types::Family;
use integration::flows::{FlowStage, Held, Kind, backend};
use integration::lab::{Families, Lab, LabOptions, PodAttachment};

const ALL_KINDS: [(Kind, usize); 3] = [(Kind::Idle, 12), (Kind::Busy, 9), (Kind::HalfClosed, 9)];

fn check(what: &str, held: &Held, since: SystemTime) -> Result<()> {
    let (open, told) = held.count(1, &["reset", "aborted"]);
    ensure!(told > 0, "{what}: no connection led to the dead backend: {held:?}");
    ensure!(open == 0, "{what}: {open} connections to the dead backend hang: {held:?}");
    for i in [2, 3] {
        let (open, told) = held.count(i, &["reset", "aborted"]);
        ensure!(open > 0 && told == 0, "{what}: connections to backend {i} were cut: {held:?}");
    }
    let times = held.times(1, since);
    println!("{what}: {} told, {:.1} to {:.1} ms", times.len(), times[0], times[times.len() - 1]);
    Ok(())
}

fn everybody_is_told(attachment: PodAttachment) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, attachment, ..LabOptions::default() })?;
    let stage = FlowStage::start(&lab)?;
    let pod = stage.hold(lab.pod(1), lab.families(), &ALL_KINDS)?;
    let host = stage.hold(lab.node(), lab.families(), &ALL_KINDS)?;
    lab.unplug(1)?;
    stage.lead(&[1], true)?;
    let since = SystemTime::now();
    for family in lab.families() {
        let report = stage.kill(1, *family, &[], &[])?;
        ensure!(report["remaining"] == serde_json::json!({}), "{report}");
        ensure!(
            report["sockets"].as_u64() > Some(0) && report["challenge_syns"].as_u64() > Some(0),
            "{report}"
        );
        ensure!(report["degraded"].is_null(), "{report}");
    }
    check("pod", &pod.finish()?, since)?;
    check("host", &host.finish()?, since)
}

#[test]
fn clients_of_routed_pods_and_of_the_host_are_told() -> Result<()> {
    everybody_is_told(PodAttachment::Routed)
}

#[test]
fn clients_of_bridged_pods_and_of_the_host_are_told() -> Result<()> {
    everybody_is_told(PodAttachment::Bridged { netfilter: true })
}

#[test]
fn clients_are_told_without_the_kill_rule_by_resets_of_our_own() -> Result<()> {
    for attachment in [PodAttachment::Routed, PodAttachment::Bridged { netfilter: true }] {
        let lab = Lab::start(LabOptions { families: Families::Dual, attachment, ..LabOptions::default() })?;
        let stage = FlowStage::start(&lab)?;
        let pod = stage.hold(lab.pod(1), lab.families(), &ALL_KINDS)?;
        let host = stage.hold(lab.node(), lab.families(), &ALL_KINDS)?;
        lab.unplug(1)?;
        // Nothing was committed: the map still leads to the dead backend.
        stage.lead(&[], false)?;
        let since = SystemTime::now();
        for family in lab.families() {
            let report = stage.kill(1, *family, &[], &["--own-reset"])?;
            ensure!(report["remaining"] == serde_json::json!({}), "{report}");
            ensure!(report["resets"].as_u64() > Some(0), "{report}");
        }
        check("pod", &pod.finish()?, since)?;
        check("host", &host.finish()?, since)?;
    }
    Ok(())
}

#[test]
fn a_connection_in_syn_sent_moves_to_another_backend() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let stage = FlowStage::start(&lab)?;
    lab.unplug(1)?;
    let mut pod = stage.dial(lab.pod(1), lab.families(), &[(Kind::Idle, 24)])?;
    let mut host = stage.dial(lab.node(), lab.families(), &[(Kind::Idle, 24)])?;
    for family in lab.families() {
        stage.wait_for_syn_sent(1, *family)?;
    }
    stage.lead(&[1], true)?;
    for family in lab.families() {
        let purpose: &[&str] = if *family == Family::V4 { &[] } else { &["--move-only"] };
        let report = stage.kill(1, *family, &[], purpose)?;
        ensure!(report["syn_sent"].as_u64() > Some(0), "{report}");
    }
    for holder in [&mut pod, &mut host] {
        holder.wait_open()?;
    }
    for held in [pod.finish()?, host.finish()?] {
        let (open, _) = held.count(1, &[]);
        let others: usize = [2, 3].iter().map(|i| held.count(*i, &[]).0).sum();
        ensure!(open == 0 && others == 48, "{held:?}");
    }
    Ok(())
}

/// The host of a backend forgets its connections, as one does that lost power.
fn lose_power(lab: &Lab, i: u8) -> Result<()> {
    let host = lab.apiserver(i);
    host.nft_load("table inet dark { chain out { type filter hook output priority 0; policy drop; }; }")?;
    host.run("ss", &["-K", "state", "connected", "sport", "=", ":6443"])?;
    host.nft_load("delete table inet dark")
}

#[test]
fn asking_tells_the_clients_of_a_host_that_lost_its_memory_and_spares_all_others() -> Result<()> {
    for attachment in [PodAttachment::Routed, PodAttachment::Bridged { netfilter: true }] {
        let lab = Lab::start(LabOptions { families: Families::Dual, attachment, ..LabOptions::default() })?;
        let stage = FlowStage::start(&lab)?;
        let pod = stage.hold(lab.pod(1), lab.families(), &[(Kind::Idle, 24)])?;
        let host = stage.hold(lab.node(), lab.families(), &[(Kind::Idle, 24)])?;
        lose_power(&lab, 1)?;
        let since = SystemTime::now();
        for family in lab.families() {
            let asked = |i: u8| {
                let report = stage.kill(i, *family, &[], &["--ask"])?;
                ensure!(report["purpose"] == "challenge" && report["sockets"] == 0, "{report}");
                ensure!(report["remaining"] == serde_json::json!({}), "{report}");
                ensure!(report["challenged"].as_u64() > Some(0), "{report}");
                anyhow::Ok((report["challenged"].as_u64(), report["ended"].as_u64()))
            };
            let (told, ended) = asked(1)?;
            ensure!(told == ended, "{told:?} were asked, {ended:?} had ended");
            ensure!(asked(2)?.1 == Some(0), "an open connection ended");
            let report = stage.kill(3, *family, &[], &["--move-only"])?;
            ensure!(report["challenge_syns"] == 0 && report["flows"].as_u64() > Some(0), "{report}");
        }
        check("pod", &pod.finish()?, since)?;
        check("host", &host.finish()?, since)?;
    }
    Ok(())
}

#[test]
fn two_dead_backends_are_dealt_with_at_once() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let stage = FlowStage::start(&lab)?;
    let pod = stage.hold(lab.pod(1), lab.families(), &[(Kind::Idle, 60)])?;
    let host = stage.hold(lab.node(), lab.families(), &[(Kind::Idle, 24)])?;
    for i in [1, 2] {
        lab.unplug(i)?;
    }
    stage.lead(&[1, 2], true)?;
    let families = lab.families();
    let dead: Vec<_> =
        [1, 2].into_iter().flat_map(|i| families.iter().map(move |f| backend(i, *f))).collect();
    let reports = stage.kill_all(&dead, &[], &[])?;
    let reported: BTreeSet<&str> = reports.iter().filter_map(|report| report["backend"].as_str()).collect();
    ensure!(reported.len() == dead.len(), "{reports:?}");
    for report in &reports {
        // One round, unless this process is kept waiting for as long as it takes.
        let rounds = report["rounds"].as_u64();
        ensure!(report["remaining"] == serde_json::json!({}) && rounds <= Some(3), "{report}");
    }
    for held in [pod.finish()?, host.finish()?] {
        for i in [1, 2] {
            let (open, told) = held.count(i, &["reset", "aborted"]);
            ensure!(open == 0 && told > 0, "{held:?}");
        }
        let (open, told) = held.count(3, &["reset", "aborted"]);
        ensure!(open > 0 && told == 0, "{held:?}");
    }
    Ok(())
}
