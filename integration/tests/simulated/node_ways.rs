//! Nodes whose packets take more than one way: a connection to the virtual IP works wherever a direct one to that apiserver
//! does, and carries the source address that the direct one has.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use integration::cold_boot::backend;
use integration::control_plane::{SERVICE_PORT, Variant};
use integration::lab::{DefaultRoute, Families, Lab, LabOptions, addresses};
use integration::scenario::Scenario;

/// How often a client asks: more often than there are apiservers and ways.
const ROUNDS: usize = 3;

/// A node with two uplinks, whose networks let through their own source addresses only.
fn two_uplinks(families: Families) -> Result<Lab> {
    let default_route = DefaultRoute::SecondNetwork;
    let lab =
        Lab::start(LabOptions { families, second_network: true, default_route, ..LabOptions::default() })?;
    let settings = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/rp_filter", "1"),
        ("net/ipv4/conf/br0/rp_filter", "1"),
        ("net/ipv4/conf/br1/rp_filter", "1"),
    ];
    lab.fabric().sysctls(&settings)?;
    // IPv6 has no rp_filter.
    lab.fabric().nft_load(
        "table inet providers {\n chain f {\n type filter hook prerouting priority -300\n \
         iifname \"br0\" ip6 saddr 2001:db8:1::/64 drop\n iifname \"br1\" ip6 saddr 2001:db8::/64 drop\n }\n}\n",
    )?;
    for i in 1..=3 {
        for family in lab.families().iter().copied() {
            let router = addresses::router(family);
            lab.apiserver(i).ip(&format!("route add default via {router}\n"))?;
        }
    }
    Ok(lab)
}

/// `from ADDRESS lookup TABLE` for each uplink; `full`: with the networks themselves in the tables.
fn source_rules(lab: &Lab, full: bool) -> Result<()> {
    let node = lab.node();
    for family in lab.families().iter().copied() {
        let (flag, length) = if family == Family::V4 { ("-4", 24) } else { ("-6", 64) };
        let ways = [
            (addresses::node(family), addresses::router(family), "eth0", "101"),
            (addresses::node_second(family), addresses::router_second(family), "eth1", "102"),
        ];
        for (own, router, device, table) in ways {
            let (own, router) = (own.to_string(), router.to_string());
            node.run(
                "ip",
                &[flag, "route", "add", "default", "via", &router, "dev", device, "table", table],
            )?;
            if full {
                let network = format!("{own}/{length}");
                let network = network.replace(".1/24", ".0/24").replace("::1/64", "::/64");
                node.run("ip", &[flag, "route", "add", &network, "dev", device, "table", table])?;
            }
            node.run(
                "ip",
                &[flag, "rule", "add", "from", &own, "lookup", table, "pref", &format!("1{table}")],
            )?;
        }
    }
    Ok(())
}

fn expect_all(scenario: &Scenario<'_>, lab: &Lab, what: &str) -> Result<()> {
    for family in lab.families().iter().copied() {
        for _ in 0..ROUNDS {
            scenario.reach(lab.node(), family).with_context(|| format!("{what}: the node, {family}"))?;
            scenario.reach(lab.pod(1), family).with_context(|| format!("{what}: the pod, {family}"))?;
        }
    }
    Ok(())
}

#[test]
fn source_based_routing_rules_break_no_connection() -> Result<()> {
    for (families, full) in [(Families::V4, false), (Families::V4, true), (Families::Dual, true)] {
        let lab = two_uplinks(families)?;
        source_rules(&lab, full)?;
        let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
        let _daemon = scenario.daemon()?;
        expect_all(&scenario, &lab, &format!("{families:?}, full {full}"))?;
    }
    Ok(())
}

#[test]
fn apiservers_that_know_no_way_to_the_second_uplink_are_reached_as_by_a_direct_connection() -> Result<()> {
    let lab = two_uplinks(Families::V4)?;
    source_rules(&lab, false)?;
    for i in 1..=3 {
        lab.apiserver(i).ip("route del default\n")?;
    }
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let _daemon = scenario.daemon()?;
    expect_all(&scenario, &lab, "without a way back")?;
    scenario.expect("the node", lab.node(), addresses::node(Family::V4))
}

#[test]
fn a_rule_about_marks_breaks_no_connection() -> Result<()> {
    let lab = two_uplinks(Families::V4)?;
    let router = addresses::router_second(Family::V4).to_string();
    lab.node().run("ip", &["route", "add", "default", "via", &router, "dev", "eth1", "table", "103"])?;
    lab.node().run("ip", &["rule", "add", "fwmark", "0x1", "lookup", "103", "pref", "1003"])?;
    // A neighbour that marks what the node itself sends to the virtual IP; direct connections stay on the first uplink.
    lab.node().nft_load(
        "table ip marks {\n chain o {\n type route hook output priority -150\n \
         ip daddr 10.96.0.1 meta mark set 1\n }\n}\n",
    )?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let _daemon = scenario.daemon()?;
    expect_all(&scenario, &lab, "with marks")
}

#[test]
fn equal_next_hops_break_no_connection() -> Result<()> {
    let lab = Lab::start(LabOptions { second_network: true, ..LabOptions::default() })?;
    let settings = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/br0/rp_filter", "1"),
        ("net/ipv4/conf/br1/rp_filter", "1"),
    ];
    lab.fabric().sysctls(&settings)?;
    // Apiservers beyond both uplinks.
    lab.fabric().ip(
        "link add br2 type bridge mcast_snooping 0\nlink set br2 up\naddr add 198.51.100.129/25 dev br2\n",
    )?;
    lab.fabric().ip("addr del 198.51.100.254/24 dev br1\naddr add 198.51.100.62/26 dev br1\n")?;
    lab.node().ip("addr del 198.51.100.1/24 dev eth1\naddr add 198.51.100.1/26 dev eth1\n")?;
    lab.node()
        .ip("route replace default nexthop via 192.0.2.254 dev eth0 nexthop via 198.51.100.62 dev eth1\n")?;
    for i in 1..=3 {
        let own = addresses::apiserver(i, Family::V4);
        lab.fabric().ip(&format!("link set api{i} master br2\n"))?;
        lab.fabric().ip(&format!("route add {own}/32 dev br2\n"))?;
        lab.apiserver(i).ip(&format!(
            "addr del {own}/24 dev eth0\naddr add {own}/32 dev eth0\nroute add 198.51.100.129 dev eth0\n\
             route add default via 198.51.100.129\n"
        ))?;
        lab.node().ip(&format!(
            "route add {own}/32 nexthop via 192.0.2.254 dev eth0 nexthop via 198.51.100.62 dev eth1\n"
        ))?;
    }
    lab.fabric().ip("route add 10.244.0.0/24 via 192.0.2.1\n")?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let _daemon = scenario.daemon()?;
    for _ in 0..2 * ROUNDS {
        scenario.reach(lab.node(), Family::V4)?;
    }
    Ok(())
}

/// The node's address is on lo; its links have networks of their own, which no apiserver knows a way to.
fn bgp_node() -> Result<Lab> {
    let lab = Lab::start(LabOptions { second_network: true, ..LabOptions::default() })?;
    lab.fabric().sysctl("net.ipv4.ip_forward", "1")?;
    lab.node().ip(
        "addr del 192.0.2.1/24 dev eth0\naddr del 198.51.100.1/24 dev eth1\naddr add 192.0.2.1/32 dev lo\n\
         addr add 198.51.100.1/31 dev eth0\naddr add 198.51.100.3/31 dev eth1\n\
         route add default src 192.0.2.1 nexthop via 198.51.100.0 dev eth0 nexthop via 198.51.100.2 dev eth1\n",
    )?;
    lab.fabric().ip(
        "link set node nomaster\nlink set node-second nomaster\naddr del 198.51.100.254/24 dev br1\n\
         addr add 198.51.100.0/31 dev node\naddr add 198.51.100.2/31 dev node-second\n\
         route add 192.0.2.1/32 nexthop via 198.51.100.1 dev node nexthop via 198.51.100.3 dev node-second\n\
         route add 10.244.0.0/24 via 198.51.100.1 dev node\n",
    )?;
    for i in 1..=3 {
        lab.apiserver(i).ip(
            "route del 10.244.0.0/24\nroute add 192.0.2.1/32 via 192.0.2.254\nroute add 10.244.0.0/24 via 192.0.2.254\n",
        )?;
    }
    Ok(lab)
}

#[test]
fn masquerading_takes_the_address_that_routes_name() -> Result<()> {
    for arguments in [&["--masquerade", "always"][..], &["--cluster-cidr", "10.245.0.0/16"]] {
        let lab = bgp_node()?;
        let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
        for argument in arguments {
            scenario.options = scenario.options.arg(*argument);
        }
        let _daemon = scenario.daemon()?;
        let own: IpAddr = addresses::node(Family::V4);
        for _ in 0..ROUNDS {
            scenario.expect(&format!("{arguments:?}: the pod"), lab.pod(1), own)?;
            scenario.expect(&format!("{arguments:?}: the node"), lab.node(), own)?;
        }
    }
    Ok(())
}

#[test]
fn a_hairpin_takes_the_address_that_routes_name() -> Result<()> {
    let lab = bgp_node()?;
    // Apiserver 2 sends what it has for the virtual IP to the node, and is led to itself.
    lab.fabric().ip("route add 10.96.0.1/32 via 198.51.100.1 dev node\n")?;
    lab.apiserver(2).ip("route add 10.96.0.1/32 via 192.0.2.254\n")?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[2])?;
    let _daemon = scenario.daemon()?;
    scenario.expect("the apiserver's own host", lab.apiserver(2), addresses::node(Family::V4))
}

#[test]
fn a_routing_rule_that_refuses_the_virtual_ip_is_named() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    lab.node().run("ip", &["rule", "add", "to", "10.96.0.0/16", "unreachable", "pref", "1234"])?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let mut daemon = integration::daemon::Daemon::spawn(lab.node(), lab.dir(), &scenario.options)?;
    let status = daemon.wait_for_phase("unrouted", std::time::Duration::from_secs(20))?;
    ensure!(status.to_string().contains("priority 1234 has the action unreachable"), "{status:#}");
    scenario.reach(lab.pod(1), Family::V4).context("pods are not concerned")?;
    Ok(())
}

#[test]
fn a_new_address_of_the_node_is_no_other_programs_doing() -> Result<()> {
    let lab = Lab::start(LabOptions { default_route: DefaultRoute::Absent, ..LabOptions::default() })?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let mut daemon = scenario.daemon()?;
    scenario.reach(lab.node(), Family::V4)?;
    // Another address of the same network goes with the first one otherwise.
    lab.node().sysctl("net.ipv4.conf.all.promote_secondaries", "1")?;
    lab.node().ip("addr add 192.0.2.77/24 dev eth0\naddr del 192.0.2.1/24 dev eth0\n")?;
    let line = "event=route_added";
    daemon.wait_for_status("a new route", std::time::Duration::from_secs(30), |_| {
        lab.node()
            .run("ip", &["route", "show", "10.96.0.1"])
            .is_ok_and(|routes| routes.contains("src 192.0.2.77"))
    })?;
    let log = daemon.log();
    ensure!(log.matches(line).count() == 2, "{log}");
    ensure!(!log.contains("event=drift_repaired"), "{log}");
    let status = daemon.status()?;
    ensure!(status["repairs"]["total"].as_u64().unwrap_or(0) == 0, "{:#}", status["repairs"]);
    Ok(())
}

/// Linux routes 240.0.0.0/4, and some networks use it for hosts.
#[test]
fn an_apiserver_in_240_0_0_0_is_reached() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1])?;
    let own = addresses::apiserver(1, Family::V4);
    lab.node().ip(&format!("route add 240.0.0.0/4 via {own}\n"))?;
    // It listens at its other address.
    lab.apiserver(1).nft_load(&format!(
        "table ip moved {{\n chain p {{\n type nat hook prerouting priority dstnat\n ip daddr 240.0.0.11 dnat to {own}\n }}\n}}\n"
    ))?;
    scenario.plane.publish(&["240.0.0.11".parse()?])?;
    let daemon = scenario.daemon()?;
    scenario.reach(lab.node(), Family::V4).context("the node")?;
    scenario.reach(lab.pod(1), Family::V4).context("the pod")?;
    let status = daemon.status()?;
    let vip = SocketAddr::new(addresses::vip(Family::V4), SERVICE_PORT);
    let found = backend(&status, vip, "240.0.0.11:6443".parse()?);
    ensure!(found.is_some_and(|backend| backend["state"] == "healthy"), "{status:#}");
    Ok(())
}
