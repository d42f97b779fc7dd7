//! What happens on the node, on the real control plane: others change what is the daemon's, it is restarted, its clock jumps.

use anyhow::Result;
use integration::control_plane::{ControlPlane, SERVICE_PORT, Variant};
use serde_json::json;

use crate::shared::{clock, commit_mutex, drift, forwarder_drift, owner, restart};

/// The slice of IPv4.
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";

#[test]
fn every_change_is_put_right_at_once_and_its_culprit_is_named() -> Result<()> {
    drift::every_change_is_put_right(Variant::Real)
}

#[test]
fn a_fight_is_damped_and_lost_events_mean_a_look() -> Result<()> {
    drift::a_fight_is_damped(Variant::Real)
}

#[test]
fn an_owner_comes_and_goes_and_no_connection_breaks() -> Result<()> {
    owner::comes_and_goes(Variant::Real, "tcp", SERVICE_PORT)
}

#[test]
fn others_leave_an_owned_table_alone_and_may_flush_an_orphan() -> Result<()> {
    owner::is_left_alone(Variant::Real)
}

#[test]
fn a_daemon_that_drains_has_let_the_table_go() -> Result<()> {
    owner::is_let_go(Variant::Real)
}

#[test]
fn a_commit_that_waits_delays_nothing_else() -> Result<()> {
    commit_mutex::waits_and_delays_nothing(Variant::Real)
}

#[test]
fn what_the_forwarder_needs_is_made_again() -> Result<()> {
    forwarder_drift::is_made_again(Variant::Real)
}

#[test]
fn no_connection_fails_while_the_daemon_is_stopped_killed_and_restarted() -> Result<()> {
    restart::no_connection_fails(Variant::Real, "tcp", SERVICE_PORT)
}

#[test]
fn an_input_that_means_the_same_programs_nothing() -> Result<()> {
    let annotate = |plane: &mut ControlPlane<'_>, value: &str| {
        plane
            .real()?
            .client(1)
            .patch(SLICE, &json!({ "metadata": { "annotations": { "example.com/note": value } } }))
            .map(drop)
    };
    restart::the_same_programs_nothing(Variant::Real, annotate)
}

#[test]
fn jumps_of_the_clock_cut_nobody_and_apiservers_that_die_are_still_left() -> Result<()> {
    clock::jumps_cut_nobody(Variant::Real)
}

#[test]
fn a_daemon_that_starts_with_a_wrong_clock_serves_what_it_knew_and_says_so() -> Result<()> {
    clock::is_wrong_at_the_start(Variant::Real)
}

#[test]
fn a_day_forward_and_back_stops_nothing() -> Result<()> {
    clock::goes_a_day_forward_and_back(Variant::Real)
}
