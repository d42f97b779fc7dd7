//! Pods and the host reach a simulated apiserver through the virtual IP, in every kind of network and with every API
//! form, and the apiserver sees the address that the documentation promises.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use integration::check::Stage;
use integration::control_plane::{ControlPlane, SERVICE_PORT, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::echoes;
use integration::lab::{Families, Lab, LabOptions, PodAttachment, addresses};
use integration::netns::Namespace;

/// Requests of each client, to different apiservers.
const REQUESTS: usize = 6;

/// Asks the virtual IP from `from`; returns the addresses that all apiservers together saw because of it.
fn seen(lab: &Lab, plane: &ControlPlane<'_>, from: &Namespace, family: Family) -> Result<BTreeSet<IpAddr>> {
    let before = (1..=3).map(|i| plane.source_addresses(i)).collect::<Result<Vec<_>>>()?;
    for _ in 0..REQUESTS {
        let answer =
            plane.fetch(from, addresses::vip(family)).with_context(|| format!("{:?}", lab.options()))?;
        ensure!(answer == "ok", "the answer is {answer:?}");
    }
    let (mut all, mut count) = (BTreeSet::new(), 0);
    for (i, before) in (1..=3).zip(before) {
        let sources = plane.source_addresses(i)?;
        all.extend(sources[before.len()..].iter().copied());
        count += sources.len() - before.len();
    }
    ensure!(count == REQUESTS, "{count} of {REQUESTS} requests are in the access logs");
    Ok(all)
}

fn pods_and_host_keep_their_addresses(options: LabOptions) -> Result<()> {
    let lab = Lab::start(options)?;
    let plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let _daemon = Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(plane.kubeconfig()?))?;
    for family in lab.families().iter().copied() {
        let pod = seen(&lab, &plane, lab.pod(1), family)?;
        ensure!(pod == [addresses::pod(1, family)].into(), "{options:?}: the pod was seen as {pod:?}");
        let node = seen(&lab, &plane, lab.node(), family)?;
        ensure!(node == [addresses::node(family)].into(), "{options:?}: the node was seen as {node:?}");
    }
    Ok(())
}

#[test]
fn routed_pods_and_host_reach_an_apiserver_over_ipv4_and_are_seen_as_themselves() -> Result<()> {
    pods_and_host_keep_their_addresses(LabOptions::default())
}

#[test]
fn routed_pods_and_host_reach_an_apiserver_over_ipv6_and_are_seen_as_themselves() -> Result<()> {
    let options = LabOptions { families: Families::V6, ..LabOptions::default() };
    pods_and_host_keep_their_addresses(options)
}

#[test]
fn routed_pods_and_host_reach_an_apiserver_over_both_and_are_seen_as_themselves() -> Result<()> {
    pods_and_host_keep_their_addresses(LabOptions { families: Families::Dual, ..LabOptions::default() })
}

#[test]
fn bridged_pods_reach_an_apiserver_whether_or_not_netfilter_sees_the_bridge() -> Result<()> {
    for netfilter in [false, true] {
        let attachment = PodAttachment::Bridged { netfilter };
        let options = LabOptions { families: Families::Dual, attachment, ..LabOptions::default() };
        pods_and_host_keep_their_addresses(options)?;
    }
    Ok(())
}

/// An apiserver on the bridge of the pods answers them without a detour by the node's IP layer.
#[test]
fn an_apiserver_on_the_pods_own_bridge_is_reached_where_netfilter_sees_the_bridge_and_check_says_so()
-> Result<()> {
    for netfilter in [true, false] {
        let attachment = PodAttachment::Bridged { netfilter };
        let lab = Lab::start(LabOptions { attachment, ..LabOptions::default() })?;
        let own = addresses::apiserver(1, Family::V4);
        let bridge = addresses::pod_bridge(Family::V4);
        lab.fabric().ip(&format!("link set api1 nomaster\nlink set api1 netns {}\n", lab.node().name()))?;
        lab.node().ip(&format!("link set api1 master cni0 up\nroute add {own} dev cni0\n"))?;
        lab.apiserver(1).ip(&format!(
            "addr del {own}/24 dev eth0\naddr add {own}/32 dev eth0\naddr add 10.244.0.200/24 dev eth0\n\
             route add 192.0.2.0/24 via {bridge}\n"
        ))?;
        let stage = Stage::start(&lab)?;
        stage.scenario.plane.publish_apiservers(&[1])?;
        let _daemon = stage.scenario.daemon()?;
        let vip = SocketAddr::new(addresses::vip(Family::V4), SERVICE_PORT);
        let reached = echoes::connects(lab.pod(1), vip)?.is_ok();
        ensure!(reached == netfilter, "netfilter {netfilter}: the pod reached the apiserver: {reached}");
        ensure!(echoes::connects(lab.node(), vip)?.is_ok(), "netfilter {netfilter}: the node itself");
        let verdict = if netfilter { "ok" } else { "warning" };
        let words: &[&str] =
            if netfilter { &[] } else { &["cni0", "its replies to Pods on the same bridge"] };
        stage.check()?.expect("bridge-netfilter", verdict, words)?;
    }
    Ok(())
}

#[test]
fn masquerade_and_cluster_cidr_decide_which_address_an_apiserver_sees() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let (v4, v6) = (addresses::POD_RANGE_V4, addresses::POD_RANGE_V6);
    let (other_v4, other_v6) = ("10.245.0.0/24", "fd00:10:245::/64");
    let cases: [(&[&str], bool); 6] = [
        (&["--masquerade", "always"], true),
        (&["--masquerade", "never"], false),
        (&["--cluster-cidr", v4, "--cluster-cidr", v6], false),
        (&["--cluster-cidr", other_v4, "--cluster-cidr", other_v6], true),
        (&["--masquerade", "never", "--cluster-cidr", other_v4, "--cluster-cidr", other_v6], false),
        (&["--masquerade", "always", "--cluster-cidr", v4, "--cluster-cidr", v6], true),
    ];
    for (arguments, masqueraded) in cases {
        let mut options = DaemonOptions::kubeconfig(plane.kubeconfig()?);
        options.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let _daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
        for family in [Family::V4, Family::V6] {
            let expected = if masqueraded { addresses::node(family) } else { addresses::pod(1, family) };
            let pod = seen(&lab, &plane, lab.pod(1), family)?;
            ensure!(pod == [expected].into(), "{arguments:?}: the pod was seen as {pod:?}, not {expected}");
            let node = seen(&lab, &plane, lab.node(), family)?;
            ensure!(node == [addresses::node(family)].into(), "{arguments:?}: the node was seen as {node:?}");
        }
    }
    Ok(())
}
