//! What is relied on of apiservers, on simulated ones.

use std::net::IpAddr;

use anyhow::Result;
use integration::control_plane::{ControlPlane, Variant};
use integration::lab::{Lab, LabOptions};
use integration::sim::fleet::{endpoint_ports, service_ports};

use crate::shared::behaviours;

#[test]
fn the_simulation_behaves_as_apiservers_do() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::start(&lab, Variant::Simulated)?;
    let addresses: Vec<IpAddr> = (1..=3).flat_map(|i| lab.apiserver_addresses(i)).collect();
    plane.fleet()?.put_service(&lab.vips(), &service_ports()[..1], false)?;
    plane.fleet()?.publish(&addresses, &endpoint_ports()[..1])?;
    behaviours::are_met(&lab, &mut plane)
}
