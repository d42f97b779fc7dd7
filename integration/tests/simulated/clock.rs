//! A daemon's clock that jumps, on a simulated control plane.

use anyhow::Result;
use integration::control_plane::Variant;

use crate::shared::clock;

#[test]
fn jumps_cut_nobody_and_apiservers_that_die_are_still_left() -> Result<()> {
    clock::jumps_cut_nobody(Variant::Simulated)
}

#[test]
fn a_daemon_that_starts_with_a_wrong_clock_serves_what_it_knew_and_says_so() -> Result<()> {
    clock::is_wrong_at_the_start(Variant::Simulated)
}

#[test]
fn a_day_forward_and_back_stops_nothing() -> Result<()> {
    clock::goes_a_day_forward_and_back(Variant::Simulated)
}
