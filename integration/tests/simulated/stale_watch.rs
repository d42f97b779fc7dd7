//! An apiserver that lags repeats events and sends old ones: they change nothing. What a list says that was read through
//! to etcd rules all the same, also where its version is older.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions, backends_of};
use integration::lab::{Lab, LabOptions, addresses};
use integration::sim::fleet::endpoint_ports;
use integration::sim::objects;
use integration::sim::protocol::{Injection, Resource};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const STALE: &str = "apivip_api_stale_total";

/// Lines of a watch that name apiserver `i` alone, each with its type and version.
fn lines(lab: &Lab, i: u8, events: &[(&str, u64)]) -> String {
    let mut slice =
        objects::endpoint_slice(objects::SERVICE, "IPv4", &lab.apiserver_addresses(i), &endpoint_ports());
    let lines = events.iter().map(|(kind, version)| {
        slice["metadata"]["resourceVersion"] = json!(version.to_string());
        json!({"type": kind, "object": slice}).to_string()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn inject(plane: &mut ControlPlane<'_>, what: Injection) -> Result<()> {
    plane.fleet()?.on_all(|control| {
        let what = what.clone();
        async move { control.inject(Some(Resource::EndpointSlices), what).await.map(drop) }
    })
}

#[test]
fn what_comes_again_or_late_changes_nothing_and_a_list_rules() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(plane.kubeconfig()?))?;
    let vip = SocketAddr::new(addresses::VIP_V4.into(), 443);
    let all: Vec<SocketAddr> = (1..=3).flat_map(|i| plane.apiservers(i)).collect();
    // An event of its own, so that there is one to come again.
    plane.publish_apiservers(&[1, 2])?;
    plane.publish_apiservers(&[1, 2, 3])?;
    let reached = |status: &Value| -> Result<u64> {
        let version = status["api"]["resource_version"].as_str().context("a version")?;
        version.parse().context("parse the version")
    };
    // The slice of IPv6 was written last.
    let stats = plane.fleet()?.on(1, |control| async move { control.stats().await })?;
    let version = stats.resource_version;
    daemon.wait_for_status("both changes", LIMIT, |status| {
        let whole = reached(status).is_ok_and(|reached| reached == version);
        let synced = status["api"]["state"] == "synced" && status["generation"] == 3;
        whole && synced && backends_of(status, vip) == all
    })?;

    // The slice of IPv6 was published behind it.
    let events = [("MODIFIED", version - 1), ("DELETED", version - 1), ("MODIFIED", 2), ("ADDED", 1)];
    inject(&mut plane, Injection::Line(lines(&lab, 2, &events)))?;
    let bookmark = json!({"type": "BOOKMARK", "object": {
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": {"resourceVersion": "3"},
    }});
    inject(&mut plane, Injection::Line(bookmark.to_string()))?;
    let told = u64::try_from(events.len())? + 1;
    daemon.wait_for_metric(STALE, LIMIT, |count| count == told)?;
    let status = daemon.status()?;
    ensure!(backends_of(&status, vip) == all && status["generation"] == 3, "{:#}", status["frontends"]);
    ensure!(reached(&status)? == version, "{:#}", status["api"]);

    // Lines that are newer are believed, until the server says that it knows nothing of their time.
    inject(&mut plane, Injection::Line(lines(&lab, 2, &[("MODIFIED", version + 1000)])))?;
    daemon.wait_for_backends(vip, &plane.apiservers(2))?;
    inject(&mut plane, Injection::Error(410))?;
    let status = daemon.wait_for_backends(vip, &all)?;
    ensure!(reached(&status)? < version + 1000, "{:#}", status["api"]);
    ensure!(daemon.metric("apivip_api_relists_total")? > 0, "{}", daemon.metrics()?);
    Ok(())
}
