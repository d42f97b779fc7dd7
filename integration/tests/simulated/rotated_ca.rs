//! A CA that is replaced, on a simulated control plane.

use anyhow::Result;
use integration::control_plane::Variant;

use crate::shared::rotated_ca;

#[test]
fn a_ca_is_rotated_and_no_connection_fails() -> Result<()> {
    rotated_ca::no_connection_fails(Variant::Simulated)
}
