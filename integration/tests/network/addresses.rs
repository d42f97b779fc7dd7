//! Nodes with several addresses: the one that apiservers see is the one that the node's routes give for them.

use anyhow::Result;
use apivip::model::types::Family;
use integration::control_plane::Variant;
use integration::lab::{DefaultRoute, Families, Lab, LabOptions, addresses};
use integration::scenario::Scenario;

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
