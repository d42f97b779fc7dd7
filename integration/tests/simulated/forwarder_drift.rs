//! What leads to the forwarder and is removed, on a simulated control plane.

use anyhow::Result;
use integration::control_plane::Variant;

use crate::shared::forwarder_drift;

#[test]
fn what_the_forwarder_needs_is_made_again() -> Result<()> {
    forwarder_drift::is_made_again(Variant::Simulated)
}
