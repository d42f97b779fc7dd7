//! The links, addresses and routes of a lab, as batches of `ip` commands. Pure: in come the choices and the names of
//! the namespaces, out comes text.

use std::fmt::Write;

use apivip::model::types::Family;

use super::addresses as at;
use super::options::{DefaultRoute, LabOptions, PodAttachment};

/// The node's end of every pod's veth has one fixed MAC address, so that pods need not ask for it.
const NODE_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// The namespaces of a lab, by name.
pub(super) struct Names<'a> {
    pub(super) fabric: &'a str,
    pub(super) node: &'a str,
    pub(super) pods: Vec<&'a str>,
    /// Number and name of each apiserver that has a namespace of its own.
    pub(super) apiservers: Vec<(u8, &'a str)>,
}

/// All veth pairs, made from outside with both ends where they belong. Long cables are none.
pub(super) fn links(names: &Names<'_>, options: &LabOptions) -> String {
    let mut text = String::new();
    let mut veth = |inside: &str, namespace: &str, port: &str, switch: &str| {
        line(
            &mut text,
            format!("link add name {inside} netns {namespace} type veth peer name {port} netns {switch}"),
        );
    };
    veth("eth0", names.node, "node", names.fabric);
    if options.second_network {
        veth("eth1", names.node, "node-second", names.fabric);
    }
    for (i, name) in names.apiservers.iter().filter(|_| !options.long_cables) {
        veth("eth0", name, &format!("api{i}"), names.fabric);
    }
    for (i, name) in (1..).zip(&names.pods) {
        veth("eth0", name, &format!("pod{i}"), names.node);
    }
    text
}

/// Inside the fabric: one bridge per network, whose own address is the network's router.
pub(super) fn fabric(names: &Names<'_>, options: &LabOptions) -> String {
    let mut text = String::from("link set lo up\n");
    bridge(&mut text, "br0");
    port(&mut text, "node", "br0");
    for (i, _) in &names.apiservers {
        port(&mut text, &format!("api{i}"), "br0");
    }
    if options.second_network {
        bridge(&mut text, "br1");
        port(&mut text, "node-second", "br1");
    }
    for family in options.families.list() {
        address(&mut text, *family, at::router(*family), "br0");
        if options.second_network {
            address(&mut text, *family, at::router_second(*family), "br1");
        }
    }
    text
}

/// Inside the node: its own interfaces, then the pods'.
pub(super) fn node(options: &LabOptions) -> String {
    let mut text = String::from("link set lo up\nlink set eth0 up\n");
    if options.second_network {
        line(&mut text, "link set eth1 up");
    }
    let bridged = matches!(options.attachment, PodAttachment::Bridged { .. });
    if bridged {
        bridge(&mut text, "cni0");
    }
    for i in 1..=options.pods {
        if bridged {
            port(&mut text, &format!("pod{i}"), "cni0");
        } else {
            line(&mut text, format!("link set pod{i} address {NODE_MAC} up"));
        }
    }
    for family in options.families.list().iter().copied() {
        address(&mut text, family, at::node(family), "eth0");
        if options.second_network {
            address(&mut text, family, at::node_second(family), "eth1");
        }
        match options.default_route {
            DefaultRoute::Fabric => {
                line(&mut text, format!("route add default via {} dev eth0", at::router(family)))
            }
            DefaultRoute::SecondNetwork => {
                line(&mut text, format!("route add default via {} dev eth1", at::router_second(family)));
            }
            DefaultRoute::Absent => {}
        }
        if bridged {
            address(&mut text, family, at::pod_bridge(family), "cni0");
            continue;
        }
        for i in 1..=options.pods {
            if family == Family::V6 {
                line(&mut text, format!("addr add fe80::1/64 dev pod{i} nodad"));
            }
            line(&mut text, format!("route add {} dev pod{i}", at::pod(i, family)));
        }
    }
    text
}

/// Inside pod number `i`.
pub(super) fn pod(i: u8, options: &LabOptions) -> String {
    let mut text = String::from("link set lo up\nlink set eth0 up\n");
    for family in options.families.list().iter().copied() {
        if matches!(options.attachment, PodAttachment::Bridged { .. }) {
            address(&mut text, family, at::pod(i, family), "eth0");
            line(&mut text, format!("route add default via {}", at::pod_bridge(family)));
            continue;
        }
        // A gateway that no interface of the node holds: a fixed neighbour stands for proxy ARP, which answers only
        // where the node has a default route.
        let gateway = match family {
            Family::V4 => "169.254.1.1",
            Family::V6 => "fe80::1",
        };
        let nodad = if family == Family::V6 { " nodad" } else { "" };
        line(&mut text, format!("addr add {} dev eth0{nodad}", at::pod(i, family)));
        line(&mut text, format!("neigh replace {gateway} lladdr {NODE_MAC} dev eth0 nud permanent"));
        line(&mut text, format!("route add default via {gateway} dev eth0 onlink"));
    }
    text
}

/// Inside apiserver number `i`. It reaches pods through the node and nothing else beyond its network.
pub(super) fn apiserver(i: u8, options: &LabOptions) -> String {
    let mut text = String::from("link set lo up\nlink set eth0 up\n");
    for family in options.families.list().iter().copied() {
        address(&mut text, family, at::apiserver(i, family), "eth0");
        line(&mut text, format!("route add {} via {}", at::pod_range(family), at::node(family)));
    }
    text
}

fn bridge(text: &mut String, name: &str) {
    // Snooping would hold back neighbour discovery until the first report.
    line(text, format!("link add {name} type bridge mcast_snooping 0\nlink set {name} up"));
}

fn port(text: &mut String, name: &str, bridge: &str) {
    line(text, format!("link set {name} master {bridge} up"));
}

fn address(text: &mut String, family: Family, address: std::net::IpAddr, device: &str) {
    let nodad = if family == Family::V6 { " nodad" } else { "" };
    line(text, format!("addr add {address}/{} dev {device}{nodad}", at::subnet(family)));
}

fn line(text: &mut String, words: impl AsRef<str>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", words.as_ref());
}
