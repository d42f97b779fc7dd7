//! Firewalls, zones and settings of other programs on the node, on a simulated control plane.

use anyhow::Result;
use integration::control_plane::Variant;

use crate::shared::neighbours;

#[test]
fn firewalls_zones_and_strict_settings_stand_in_nobodys_way() -> Result<()> {
    neighbours::stand_in_nobodys_way(Variant::Simulated)
}

#[test]
fn what_the_manual_names_as_an_obstacle_is_one_until_it_is_gone() -> Result<()> {
    neighbours::are_obstacles_as_the_manual_says(Variant::Simulated)
}
