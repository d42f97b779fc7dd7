//! What the API may say of the Service besides the usual: nothing, no address, no endpoint, addresses that must not be
//! programmed, another virtual IP, or that a client stays with one apiserver.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions, backends_of};
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::process::Spawned;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);
/// Within how many of them it is seen.
const TURNS: u32 = 4;
const VIP: IpAddr = IpAddr::V4(addresses::VIP_V4);

fn start(lab: &Lab, variant: Variant) -> Result<(ControlPlane<'_>, Daemon)> {
    let plane = ControlPlane::serving(lab, variant)?;
    let daemon = Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(plane.kubeconfig()?))?;
    Ok((plane, daemon))
}

fn all(plane: &ControlPlane<'_>) -> Vec<SocketAddr> {
    (1..=3).flat_map(|i| plane.apiservers(i)).collect()
}

/// Real apiservers write the Service again sooner or later, maybe before the daemon has told of it: another turn, then.
fn wait_for_hold(daemon: &mut Daemon, why: &str, empty: impl Fn() -> Result<()>) -> Result<Value> {
    let held = |status: &Value| status["retained"].to_string().contains(why);
    for _ in 1..TURNS {
        empty()?;
        if let Ok(status) = daemon.wait_for_status(why, LIMIT / TURNS, held) {
            return Ok(status);
        }
    }
    empty()?;
    daemon.wait_for_status(why, LIMIT / TURNS, held)
}

pub(crate) fn leave_the_last_good_rules(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let (plane, mut daemon) = start(&lab, variant)?;
    let vip = SocketAddr::new(VIP, 443);
    for (why, what) in [
        ("the Service has no ClusterIP", 0),
        ("the Service does not exist", 1),
        ("no endpoint of 10.96.0.1:443 is published", 2),
    ] {
        let empty = || match what {
            0 => plane.put_service(&[], false),
            1 => plane.delete_service(),
            _ => plane.publish(&[]),
        };
        let status = wait_for_hold(&mut daemon, why, empty)?;
        ensure!(backends_of(&status, vip) == all(&plane), "{why}: {:#}", status["frontends"]);
        ensure!(
            status["summary"].to_string().contains("Using cached API server endpoints"),
            "{}",
            status["summary"]
        );
        ensure!(plane.fetch(lab.pod(1), VIP)? == "ok", "{why}: the virtual IP does not answer");
        plane.put_service(&[VIP], false)?;
        plane.publish_apiservers(&[1, 2, 3])?;
        daemon.wait_for_status("no hold", LIMIT, |status| status["retained"] == serde_json::json!([]))?;
    }
    Ok(())
}

/// Which virtual IPs the chain of the node's own traffic has rules for, after each transaction that `nft -a monitor` saw.
/// `text` begins with the rules as they were listed.
fn served_by_generation(text: &str, vips: &[IpAddr]) -> Vec<BTreeSet<IpAddr>> {
    let mut rules: BTreeMap<&str, Option<IpAddr>> = BTreeMap::new();
    let mut served = Vec::new();
    for line in text.lines() {
        if line.starts_with("# new generation") {
            served.push(rules.values().copied().flatten().collect());
            continue;
        }
        let Some((rule, handle)) = line.rsplit_once("handle ") else { continue };
        if line.starts_with("delete rule inet apivip nat-output ") {
            rules.remove(handle);
        } else if line.starts_with("add rule inet apivip nat-output ") || line.starts_with("\t\t") {
            let vip = vips.iter().find(|vip| rule.contains(&format!("daddr {vip} tcp dport 443 ")));
            rules.insert(handle, vip.copied());
        }
    }
    served
}

/// A Service that is recreated moves the rules in one transaction.
pub(crate) fn move_the_rules_at_once(variant: Variant, families: Families) -> Result<()> {
    let lab = Lab::start(LabOptions { families, ..LabOptions::default() })?;
    let (plane, mut daemon) = start(&lab, variant)?;
    let new = |family: &Family| match family {
        Family::V4 => IpAddr::from([10, 96, 0, 99]),
        Family::V6 => IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x99]),
    };
    let (old, new): (_, Vec<IpAddr>) = (lab.vips(), lab.families().iter().map(new).collect());
    let mut monitor = lab.node().command("nft");
    monitor.args(["-a", "monitor"]);
    let mut monitor = Spawned::start("monitor", monitor, lab.dir())?;
    // It listens once it has shown a change.
    monitor.wait_until("a change", LIMIT, |process| {
        lab.node().nft_load("add table inet listens\ndelete table inet listens")?;
        Ok(process.stdout().contains("new generation").then_some(()))
    })?;
    let before = lab.node().run("nft", &["-a", "list", "chain", "inet", "apivip", "nat-output"])?;

    plane.delete_service()?;
    plane.put_service(&new, false)?;
    for vip in new.iter().copied() {
        let backends: Vec<SocketAddr> =
            all(&plane).into_iter().filter(|b| b.is_ipv4() == vip.is_ipv4()).collect();
        daemon.wait_for_backends(SocketAddr::new(vip, 443), &backends)?;
        ensure!(plane.fetch(lab.pod(1), vip)? == "ok", "the new virtual IP does not answer");
    }
    let table = lab.node().nft_text("table inet apivip")?;
    for vip in &old {
        ensure!(!table.contains(&format!("{vip} ")), "the old virtual IP is left in\n{table}");
    }
    ensure!(plane.fetch(lab.pod(1), VIP).is_err(), "the old virtual IP still answers");

    let all = [&old[..], &new[..]].concat();
    let (old, new): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
        (old.into_iter().collect(), new.into_iter().collect());
    let (text, served, moved) = monitor.wait_until(&format!("{new:?} served"), LIMIT, |monitor| {
        let text = format!("{before}{}", monitor.stdout());
        let served = served_by_generation(&text, &all);
        let moved = served.iter().position(|vips| *vips == new);
        Ok(moved.map(|moved| (text, served, moved)))
    })?;
    let torn = served[..moved].iter().any(|v| *v != old) || served[moved..].iter().any(|v| *v != new);
    ensure!(!torn, "it served {served:?}\n{text}");
    Ok(())
}

pub(crate) fn keep_a_client_with_its_apiserver(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions { pods: 2, ..LabOptions::default() })?;
    let (plane, mut daemon) = start(&lab, variant)?;
    plane.put_service(&[VIP], true)?;
    daemon.wait_for_status("client affinity", LIMIT, |status| {
        status["frontends"][0]["client_affinity"] == true
    })?;
    for number in [1, 2] {
        for _ in 0..12 {
            plane.fetch(lab.pod(number), VIP)?;
        }
        let pod = addresses::pod(number, Family::V4);
        let mut met = BTreeSet::new();
        for i in 1..=3 {
            if plane.source_addresses(i)?.contains(&pod) {
                met.insert(i);
            }
        }
        ensure!(met.len() == 1, "pod {number} met apiservers {met:?}");
    }
    Ok(())
}

/// `publish` publishes the address that it is given, and with it some that must not be programmed: the texts that the status
/// begins a complaint with, each with its reason in the metrics.
pub(crate) fn name_addresses_that_are_not_programmed(
    variant: Variant,
    bad: &[(&str, &str)],
    publish: impl FnOnce(&mut ControlPlane<'_>, IpAddr) -> Result<()>,
) -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let (mut plane, mut daemon) = start(&lab, variant)?;
    let good = lab.apiserver_addresses(1)[0];
    publish(&mut plane, good)?;
    let status = daemon.wait_for_backends(SocketAddr::new(VIP, 443), &[SocketAddr::new(good, 6443)])?;
    let rejected = status["rejected"].as_array().context("no list of rejected addresses")?;
    for (text, reason) in bad {
        let told = rejected.iter().filter_map(|r| r.as_str()).any(|r| r.starts_with(&format!("{text}:")));
        ensure!(told, "{text} is not among {rejected:?}");
        let count = daemon.metric(&format!("apivip_rejected_addresses_total{{reason=\"{reason}\"}}"))?;
        ensure!(count == 1, "{reason}: counted {count} times\n{}", daemon.metrics()?);
    }
    ensure!(plane.fetch(lab.pod(1), VIP)? == "ok", "the good address does not answer");
    Ok(())
}
