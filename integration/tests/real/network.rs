//! Neighbours and nodes with several addresses, on the real control plane.

#[path = "../network/coexistence.rs"]
mod coexistence;
#[path = "../network/addresses.rs"]
mod several;

use anyhow::Result;
use integration::control_plane::Variant;

#[test]
fn the_virtual_ip_is_ours_whoever_came_first() -> Result<()> {
    coexistence::either_may_come_first(Variant::RealEndpoints)
}

#[test]
fn a_node_on_two_networks_is_seen_with_the_address_of_the_apiservers_network() -> Result<()> {
    several::second_network(Variant::RealEndpoints)
}

#[test]
fn an_address_on_lo_stays_where_the_routes_name_it() -> Result<()> {
    several::address_on_lo(Variant::RealSlices)
}
