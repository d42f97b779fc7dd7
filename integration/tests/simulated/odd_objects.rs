//! What the API may say of the Service besides the usual, on a simulated control plane.

use std::net::IpAddr;

use anyhow::Result;
use integration::control_plane::{ControlPlane, Variant};
use integration::lab::Families;
use integration::sim::fleet::endpoint_ports;
use integration::sim::objects::{self, Port};

use crate::shared::odd_objects;

/// What must not be programmed, as the status names it, and why. A real apiserver takes few of these.
const BAD: [(&str, &str); 6] = [
    ("10.96.0.1", "is_vip"),
    ("127.0.0.1", "loopback"),
    ("169.254.1.1", "link_local"),
    ("224.0.0.1", "multicast"),
    ("2001:db8::5", "wrong_family"),
    ("192.0.2.12 port 0", "port_zero"),
];

#[test]
fn the_last_good_rules_stay_when_the_api_publishes_none_and_the_status_says_why() -> Result<()> {
    odd_objects::leave_the_last_good_rules(Variant::Simulated)
}

#[test]
fn a_service_recreated_with_other_addresses_moves_the_rules_in_one_transaction() -> Result<()> {
    odd_objects::move_the_rules_at_once(Variant::Simulated, Families::Dual)
}

#[test]
fn with_client_affinity_one_pod_always_meets_the_same_apiserver() -> Result<()> {
    odd_objects::keep_a_client_with_its_apiserver(Variant::Simulated)
}

fn publish(plane: &mut ControlPlane<'_>, good: IpAddr) -> Result<()> {
    let addresses = BAD.iter().filter_map(|(text, _)| text.parse().ok());
    let listed: Vec<IpAddr> = addresses.chain([good]).collect();
    let no_port =
        objects::endpoint_slice("no-port", "IPv4", &["192.0.2.12".parse()?], &[Port::new("https", 0)]);
    plane.fleet()?.put(&no_port)?;
    plane.fleet()?.put(&objects::endpoint_slice(objects::SERVICE, "IPv4", &listed, &endpoint_ports()))
}

#[test]
fn addresses_that_must_not_be_programmed_are_told_and_the_good_ones_work() -> Result<()> {
    odd_objects::name_addresses_that_are_not_programmed(Variant::Simulated, &BAD, publish)
}
