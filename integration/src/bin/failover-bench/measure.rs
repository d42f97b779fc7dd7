//! One fault after the other, each in a lab of its own, with clients in a Pod.
//! In: the fault. Out: a line of the table.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::failover::Failover;
use integration::failover::trial::{addresses, lab};
use integration::fault::Fault;
use integration::foreign;
use integration::lab::Families;
use serde_json::Value;

use crate::judged::Judged;

/// How long before and after the fault new connections are observed.
const BEFORE: Duration = Duration::from_secs(1);
/// Longer than all of it takes.
const AFTER: Duration = Duration::from_secs(20);

/// The API server that fails.
const FAILED: u8 = 2;

/// A line of the table.
pub struct Case {
    title: &'static str,
    fault: Fault,
    idle: usize,
}

/// The faults of the table.
pub const FAULTS: [Case; 3] = [
    Case { title: "process killed", fault: Fault::Killed, idle: 1_000 },
    Case { title: "cable unplugged", fault: Fault::Unplugged, idle: 5_000 },
    Case { title: "/readyz fails, process drains", fault: Fault::Unready, idle: 1_000 },
];

/// What one fault did.
pub struct Measured {
    title: &'static str,
    judged: Judged,
    /// From the decision to the last reset, as the daemon counts it.
    decided_ms: Option<u64>,
}

/// Injects the fault and observes the clients.
pub fn measure(case: &Case, foreign: u32) -> Result<Measured> {
    let lab = lab(Families::V4)?;
    foreign::fill_conntrack(lab.node(), lab.dir(), foreign)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &[1, 2, 3], &[])?;
    let mix = Mix {
        fresh_every: Some(Duration::from_millis(10)),
        timeout: Duration::from_secs(5),
        idle: case.idle,
        watch: 30,
        ..Mix::default()
    };
    let mut crowd = stage.crowd(&[lab.pod(1)], &mix)?;
    thread::sleep(BEFORE);
    stage.inflict(&mut crowd, case.fault, &[FAILED])?;
    thread::sleep(AFTER);
    let decided_ms = since_decision(&stage.daemon.status()?);
    let outcome = crowd.finish()?;
    let judged = Judged::new(&outcome, &addresses(&lab, &[FAILED]));
    println!("{}:\n{outcome}", case.title);
    Ok(Measured { title: case.title, judged, decided_ms })
}

/// What the daemon reports of the latest API server whose connections were reset.
fn since_decision(status: &Value) -> Option<u64> {
    let down = status["transitions"].as_array()?.iter().find(|transition| transition["to"] == "failed")?;
    Some(down["commit_ms"].as_u64()? + down["flows_ms"].as_u64()?)
}

/// Prints the table.
pub fn print(all: &[Measured]) {
    println!(
        "| fault | new connections that fail | longest extra wait | established flows reset | others reset |"
    );
    println!("|---|---|---|---|---|");
    for Measured { title, judged, decided_ms } in all {
        let decided = decided_ms.map_or_else(String::new, |ms| format!(", {ms} ms after the decision"));
        let (failed, wait, reset) = (judged.failed(), judged.extra_wait(), judged.reset());
        println!("| {title} | {failed} | {wait} | {reset}{decided} | {} |", judged.others_reset());
    }
}
