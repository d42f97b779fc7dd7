//! Restarts of the daemon, and input without meaning, on a simulated control plane.

use anyhow::Result;
use integration::control_plane::{ControlPlane, Variant};
use integration::sim::fleet::{ECHO_SERVICE_PORT, endpoint_ports};
use integration::sim::objects;
use serde_json::json;

use crate::shared::restart;

#[test]
fn no_connection_fails_while_the_daemon_is_stopped_killed_and_restarted() -> Result<()> {
    restart::no_connection_fails(Variant::Simulated, "echo", ECHO_SERVICE_PORT)
}

/// A slice as the daemon has it already, except for what means nothing to it.
fn annotate(plane: &mut ControlPlane<'_>, value: &str) -> Result<()> {
    let backends: Vec<_> = (1..=3).flat_map(|i| plane.lab().apiserver_addresses(i)).collect();
    let mut slice = objects::endpoint_slice(objects::SERVICE, "IPv4", &backends, &endpoint_ports());
    slice["metadata"]["annotations"] = json!({ "example.com/note": value });
    plane.fleet()?.put(&slice)
}

#[test]
fn an_input_that_means_the_same_programs_nothing() -> Result<()> {
    restart::the_same_programs_nothing(Variant::Simulated, annotate)
}
