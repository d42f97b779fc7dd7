//! A commit that waits, on a simulated control plane.

use anyhow::Result;
use integration::control_plane::Variant;

use crate::shared::commit_mutex;

#[test]
fn a_commit_that_waits_delays_nothing_else() -> Result<()> {
    commit_mutex::waits_and_delays_nothing(Variant::Simulated)
}
