//! Neighbours, and nodes with several addresses or too few routes, on the real control plane.

use anyhow::Result;
use integration::control_plane::Variant;

use crate::shared::{addresses, coexistence, neighbours};

#[test]
fn the_virtual_ip_is_ours_whoever_came_first() -> Result<()> {
    coexistence::either_may_come_first(Variant::Real)
}

#[test]
fn a_node_on_two_networks_is_seen_with_the_address_of_the_apiservers_network() -> Result<()> {
    addresses::second_network(Variant::Real)
}

#[test]
fn an_address_on_lo_stays_where_the_routes_name_it() -> Result<()> {
    addresses::address_on_lo(Variant::Real)
}

#[test]
fn a_node_without_default_route_gets_a_route_until_cleanup() -> Result<()> {
    addresses::no_default_route(Variant::Real)
}

#[test]
fn firewalls_zones_and_strict_settings_stand_in_nobodys_way() -> Result<()> {
    neighbours::stand_in_nobodys_way(Variant::Real)
}

#[test]
fn what_the_manual_names_as_an_obstacle_is_one_until_it_is_gone() -> Result<()> {
    neighbours::are_obstacles_as_the_manual_says(Variant::Real)
}
