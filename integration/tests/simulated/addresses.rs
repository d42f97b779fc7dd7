//! Which source address apiservers see, and the route that a node without a default route needs, on a simulated control
//! plane.

#[path = "../network/addresses.rs"]
mod several;

use std::time::Duration;

use anyhow::{Result, ensure};
use apivip::model::types::Family;
use integration::control_plane::Variant;
use integration::lab::{DefaultRoute, Families, Lab, LabOptions, addresses};
use integration::scenario::Scenario;

/// Longest until a deleted route is there again. Without events it would be ten seconds.
const REPAIRED: Duration = Duration::from_secs(4);

#[test]
fn a_node_on_two_networks_is_seen_with_the_address_of_the_apiservers_network() -> Result<()> {
    several::second_network(Variant::SimulatedSlices)
}

#[test]
fn an_address_on_lo_stays_where_the_routes_name_it() -> Result<()> {
    several::address_on_lo(Variant::SimulatedSlices)
}

/// The routes that the daemon made.
fn own_routes(lab: &Lab, family: Family) -> Result<String> {
    let version = if family == Family::V4 { "-4" } else { "-6" };
    lab.node().run("ip", &[version, "route", "show", "proto", "97"])
}

#[test]
fn a_node_without_default_route_gets_a_route_until_cleanup() -> Result<()> {
    let lab = Lab::start(LabOptions {
        families: Families::Dual,
        default_route: DefaultRoute::Absent,
        ..LabOptions::default()
    })?;
    let scenario = Scenario::start(&lab, Variant::SimulatedSlices, &[1, 2, 3])?;
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
