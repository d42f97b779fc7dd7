//! Which source address apiservers see, and the route that a node without a default route needs, on a simulated control
//! plane.

use anyhow::Result;
use integration::control_plane::Variant;

use crate::shared::addresses;

#[test]
fn a_node_on_two_networks_is_seen_with_the_address_of_the_apiservers_network() -> Result<()> {
    addresses::second_network(Variant::Simulated)
}

#[test]
fn an_address_on_lo_stays_where_the_routes_name_it() -> Result<()> {
    addresses::address_on_lo(Variant::Simulated)
}

#[test]
fn a_node_without_default_route_gets_a_route_until_cleanup() -> Result<()> {
    addresses::no_default_route(Variant::Simulated)
}
