//! Clients on an apiserver's own host: the node itself, and another host that uses this node as its router.

use anyhow::Result;
use integration::control_plane::Variant;
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::scenario::Scenario;

#[test]
fn a_node_that_is_an_apiserver_reaches_itself_and_the_others() -> Result<()> {
    let lab = Lab::start(LabOptions {
        families: Families::Dual,
        node_is_apiserver: true,
        ..LabOptions::default()
    })?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1])?;
    let mut daemon = scenario.daemon()?;
    scenario.expect_everybody("with the node as the only apiserver")?;
    daemon.stop()?;
    scenario.plane.publish_apiservers(&[1, 2, 3])?;
    let _daemon = scenario.daemon()?;
    scenario.expect_everybody("with the node as one of three apiservers")
}

/// Apiserver 2 sends what it has for the virtual IP to the node.
fn route_through_node(lab: &Lab) -> Result<()> {
    for family in lab.families().iter().copied() {
        let (vip, node) = (addresses::vip(family), addresses::node(family));
        lab.apiserver(2).ip(&format!("route add {vip} via {node}\n"))?;
    }
    Ok(())
}

#[test]
fn an_apiserver_that_is_led_to_itself_gets_its_answer() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    route_through_node(&lab)?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[2])?;
    let _daemon = scenario.daemon()?;
    for family in lab.families().iter().copied() {
        scenario.expect("from the only apiserver", lab.apiserver(2), addresses::node(family))?;
    }
    Ok(())
}

#[test]
fn an_apiserver_outside_of_the_cluster_cidr_reaches_all_of_them() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    route_through_node(&lab)?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    for family in lab.families().iter().copied() {
        scenario.options = scenario.options.arg(format!("--cluster-cidr={}", addresses::pod_range(family)));
    }
    let _daemon = scenario.daemon()?;
    for family in lab.families().iter().copied() {
        scenario.expect("from one of three apiservers", lab.apiserver(2), addresses::node(family))?;
    }
    scenario.expect_everybody("with --cluster-cidr")
}
