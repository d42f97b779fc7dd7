//! Nodes with several addresses: the one that apiservers see is the one that the node's routes give for them. Nodes without
//! a default route get what they need.

use std::time::Duration;

use anyhow::{Result, ensure};
use apivip::model::types::Family;
use integration::control_plane::Variant;
use integration::lab::{DefaultRoute, Families, Lab, LabOptions, addresses};
use integration::scenario::Scenario;

/// Longest until a deleted route is there again. Without events it would be ten seconds.
const REPAIRED: Duration = Duration::from_secs(4);

/// The route to the virtual IP leads to the second network, the apiservers are on the first.
pub(crate) fn second_network(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions {
        families: Families::Dual,
        second_network: true,
        default_route: DefaultRoute::SecondNetwork,
        ..LabOptions::default()
    })?;
    let scenario = Scenario::start(&lab, variant, &[1, 2, 3])?;
    let _daemon = scenario.daemon()?;
    scenario.expect_everybody("with the default route on a second network")
}

/// Nodes that speak BGP have their address on lo and name it in their routes.
pub(crate) fn address_on_lo(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    for family in lab.families().iter().copied() {
        let (own, network, nodad) = match family {
            Family::V4 => ("198.51.100.77", "192.0.2.0/24", ""),
            // Until duplicate address detection is over, no route may name the address.
            Family::V6 => ("2001:db8:1::77", "2001:db8::/64", " nodad"),
        };
        let router = addresses::router(family);
        lab.node().ip(&format!(
            "addr add {own} dev lo{nodad}\nroute del {network} dev eth0\n\
             route add {network} dev eth0 src {own}\n\
             route replace default via {router} dev eth0 src {own}\n"
        ))?;
        for i in 1..=lab.options().apiservers {
            lab.apiserver(i).ip(&format!("route add {own} via {}\n", addresses::node(family)))?;
        }
    }
    let scenario = Scenario::start(&lab, variant, &[1, 2, 3])?;
    let mut daemon = scenario.daemon()?;
    for own in ["198.51.100.77", "2001:db8:1::77"] {
        scenario.expect("with an address on lo", lab.node(), own.parse()?)?;
    }
    daemon.stop()?;
    // The hint is only where the apiservers are: the source that the route to the virtual IP gives is another.
    for family in lab.families().iter().copied() {
        let router = addresses::router(family);
        let eth0 = addresses::node(family);
        lab.node().ip(&format!("route replace default via {router} dev eth0 src {eth0}\n"))?;
    }
    let _daemon = scenario.daemon()?;
    for own in ["198.51.100.77", "2001:db8:1::77"] {
        scenario.expect("with an address on lo for apiservers only", lab.node(), own.parse()?)?;
    }
    for family in lab.families().iter().copied() {
        scenario.expect("with an address on lo", lab.pod(1), addresses::pod(1, family))?;
    }
    Ok(())
}

/// The routes that the daemon made.
fn own_routes(lab: &Lab, family: Family) -> Result<String> {
    let version = if family == Family::V4 { "-4" } else { "-6" };
    lab.node().run("ip", &[version, "route", "show", "proto", "97"])
}

/// A node without a default route gets a route, again when somebody deletes it, until the cleanup.
pub(crate) fn no_default_route(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions {
        families: Families::Dual,
        default_route: DefaultRoute::Absent,
        ..LabOptions::default()
    })?;
    let scenario = Scenario::start(&lab, variant, &[1, 2, 3])?;
    for family in lab.families().iter().copied() {
        let vip = addresses::vip(family);
        let before = lab.node().run("ip", &["route", "get", &vip.to_string()]);
        ensure!(before.is_err(), "the node has a route to {vip} already: {before:?}");
    }
    let mut daemon = scenario.daemon()?;
    scenario.expect_everybody("without a default route")?;
    for family in lab.families().iter().copied() {
        let routes = own_routes(&lab, family)?;
        let (vip, source) = (addresses::vip(family), addresses::node(family));
        let as_said = routes.starts_with(&format!("{vip} dev eth0 "))
            && routes.contains(&format!("src {source} "))
            && routes.lines().count() == 1;
        ensure!(as_said, "expected one route to {vip} by eth0 from {source}, found:\n{routes}");
    }
    let made = own_routes(&lab, Family::V4)?;
    lab.node().ip(&format!("route del {}\n", addresses::vip(Family::V4)))?;
    let again = |_: &_| Ok((own_routes(&lab, Family::V4)? == made).then_some(()));
    daemon.process().wait_until("the route that somebody deleted", REPAIRED, again)?;
    daemon.wait_for_status("the repair", REPAIRED, |status| {
        status["repairs"]["latest"][0]["object"] == "routes"
    })?;
    daemon.stop()?;
    scenario.expect_everybody("without a default route and without the daemon")?;
    let said = scenario.cleanup(&daemon)?;
    for family in lab.families().iter().copied() {
        let line = format!("removed the route to {}", addresses::vip(family));
        ensure!(said.lines().any(|found| found == line), "no {line:?} in\n{said}");
        let left = own_routes(&lab, family)?;
        ensure!(left.is_empty(), "cleanup left {left}");
    }
    Ok(())
}
