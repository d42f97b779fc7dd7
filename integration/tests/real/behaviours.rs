//! What is relied on of apiservers, on real ones.

use std::time::Duration;

use anyhow::Result;
use integration::control_plane::ControlPlane;
use integration::lab::{Lab, LabOptions};

use crate::shared::behaviours;

/// A round of 10 s, and time to spare.
const ENDPOINTS_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn apiservers_behave_as_the_simulation_has_it() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::self_published(&lab)?;
    let all: Vec<_> = (1..=3).flat_map(|i| plane.apiservers(i)).collect();
    plane.real()?.wait_for_endpoints(&all, ENDPOINTS_LIMIT)?;
    behaviours::are_met(&lab, &mut plane)
}
