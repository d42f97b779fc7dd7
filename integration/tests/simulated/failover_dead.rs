//! Apiservers die in every way, one and two of three, while clients of every kind are at work in a pod and on the
//! node: clients of a dead apiserver are told, nobody else is, and new connections go to one that lives.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::control_plane::Variant;
use integration::failover::trial::{NOTIFIED, dies, lab, leave, mix};
use integration::failover::{Failover, Outcome};
use integration::fault::Fault;
use integration::lab::Families;

/// A cut cable is noticed in 2 s and the client's next SYN comes a second later at most.
const WAITED: Duration = Duration::from_secs(12);

/// Nobody failed whose SYN was lost, and nobody waited long.
fn expect_no_failure(outcome: &Outcome) -> Result<()> {
    outcome.expect_served(0)?;
    let longest = Duration::from_millis(outcome.longest_ms());
    ensure!(longest <= WAITED, "a new connection took {longest:?}\n{outcome}");
    Ok(())
}

#[test]
fn one_killed_is_left_at_once() -> Result<()> {
    dies(Families::Dual, Fault::Killed, &[2]).map(drop)
}

#[test]
fn two_killed_are_left_at_once() -> Result<()> {
    dies(Families::Dual, Fault::Killed, &[1, 3]).map(drop)
}

#[test]
fn one_stopped_by_its_operator_is_left_at_once_and_keeps_its_watches() -> Result<()> {
    dies(Families::Dual, Fault::Stopped, &[3]).map(drop)
}

#[test]
fn one_unplugged_is_left_and_no_new_connection_fails() -> Result<()> {
    expect_no_failure(&dies(Families::Dual, Fault::Unplugged, &[2])?)
}

#[test]
fn two_unplugged_are_left_and_no_new_connection_fails() -> Result<()> {
    expect_no_failure(&dies(Families::Dual, Fault::Unplugged, &[1, 2])?)
}

#[test]
fn one_that_accepts_but_never_answers_is_left() -> Result<()> {
    dies(Families::Dual, Fault::Paused, &[3]).map(drop)
}

#[test]
fn two_that_accept_but_never_answer_are_left() -> Result<()> {
    dies(Families::Dual, Fault::Paused, &[2, 3]).map(drop)
}

#[test]
fn one_that_hears_nothing_is_left_and_no_new_connection_fails() -> Result<()> {
    expect_no_failure(&dies(Families::Dual, Fault::InboundLost, &[1])?)
}

#[test]
fn one_that_is_not_heard_is_left_and_no_new_connection_fails() -> Result<()> {
    expect_no_failure(&dies(Families::Dual, Fault::OutboundLost, &[1])?)
}

#[test]
fn what_became_of_the_clients_is_counted_by_method_and_stage() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &[1, 2, 3], &[])?;
    leave(&mut stage, Fault::Unplugged, &[2], &mix())?;
    // A few clients may be told by their own kernels before.
    stage.daemon.process().wait_for_line("event=connections_reset", NOTIFIED)?;
    let daemon = &stage.daemon;
    for method in ["reset", "socket"] {
        let ended = daemon.metric(&format!("apivip_flows_ended_total{{method=\"{method}\"}}"))?;
        ensure!(ended > 0, "no flow was ended by {method}\n{}", daemon.log());
    }
    for name in ["decision", "commit", "reaction", "flows", "notified"] {
        let count = daemon.metric(&format!("apivip_transition_seconds_count{{stage=\"{name}\"}}"))?;
        ensure!(count > 0, "the stage {name} was not measured\n{}", daemon.log());
    }
    Ok(())
}
