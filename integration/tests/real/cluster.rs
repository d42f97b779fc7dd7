//! What the API says of the Service and what a cluster becomes, on the real control plane.

use std::net::IpAddr;

use anyhow::Result;
use integration::control_plane::{ControlPlane, Variant};
use integration::lab::Families;

use crate::shared::{dead_apiserver, growth, odd_objects, rotated_ca};

/// What a real apiserver takes, and must not be programmed.
const BAD: [(&str, &str); 3] =
    [("10.96.0.1", "is_vip"), ("239.1.1.1", "multicast"), ("255.255.255.255", "reserved")];

#[test]
fn the_last_good_rules_stay_when_the_api_publishes_none_and_the_status_says_why() -> Result<()> {
    odd_objects::leave_the_last_good_rules(Variant::Real)
}

/// One family: apiservers may write the old Service again in between, and they give it one address.
#[test]
fn a_service_recreated_with_another_address_moves_the_rules_in_one_transaction() -> Result<()> {
    odd_objects::move_the_rules_at_once(Variant::Real, Families::V4)
}

#[test]
fn with_client_affinity_one_pod_always_meets_the_same_apiserver() -> Result<()> {
    odd_objects::keep_a_client_with_its_apiserver(Variant::Real)
}

fn publish(plane: &mut ControlPlane<'_>, good: IpAddr) -> Result<()> {
    let bad = BAD.iter().filter_map(|(text, _)| text.parse().ok());
    plane.publish(&bad.chain([good]).collect::<Vec<_>>())
}

#[test]
fn addresses_that_must_not_be_programmed_are_told_and_the_good_ones_work() -> Result<()> {
    odd_objects::name_addresses_that_are_not_programmed(Variant::Real, &BAD, publish)
}

#[test]
fn a_cluster_becomes_dual_stack_gets_64_endpoints_and_moves_to_another_port() -> Result<()> {
    growth::dual_stack_64_endpoints_and_another_port(Variant::Real)
}

#[test]
fn a_ca_is_rotated_and_no_connection_fails() -> Result<()> {
    rotated_ca::no_connection_fails(Variant::Real)
}

#[test]
fn an_unplugged_apiserver_is_left_for_another() -> Result<()> {
    dead_apiserver::is_left(Variant::Real, |lab, _, i| lab.unplug(i))
}

#[test]
fn a_paused_apiserver_is_left_for_another() -> Result<()> {
    dead_apiserver::is_left(Variant::Real, |_, plane, i| plane.pause(i))
}

#[test]
fn the_virtual_ip_is_not_dialled_once_apiservers_are_known() -> Result<()> {
    dead_apiserver::the_virtual_ip_is_not_dialled(Variant::Real)
}
