//! Other programs' rules for the same virtual IP, before and after the daemon's, on a simulated control plane.

use anyhow::Result;
use integration::control_plane::Variant;

use crate::shared::coexistence;

#[test]
fn the_virtual_ip_is_ours_whoever_came_first() -> Result<()> {
    coexistence::either_may_come_first(Variant::Simulated)
}
