//! One fault after the other, each in a lab of its own, with clients in a pod.
//! In: the fault. Out: the three columns of the table, and what became of every new connection.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::failover::trial::{addresses, lab};
use integration::failover::{Failover, Told};
use integration::fault::Fault;
use integration::foreign;
use integration::lab::Families;
use serde_json::Value;

/// How long before and after the fault new connections are watched.
pub const BEFORE: Duration = Duration::from_secs(1);
/// Longer than kube-proxy is published to take.
pub const AFTER: Duration = Duration::from_secs(20);

/// The apiserver that it happens to.
const CONCERNED: u8 = 2;

/// A line of the table.
pub struct Case {
    pub title: &'static str,
    fault: Fault,
    idle: usize,
}

/// The faults of the table.
pub const FAULTS: [Case; 3] = [
    Case { title: "process killed", fault: Fault::Killed, idle: 1_000 },
    Case { title: "cable unplugged", fault: Fault::Unplugged, idle: 5_000 },
    Case { title: "/readyz fails, process drains", fault: Fault::Unready, idle: 1_000 },
];

/// What became of a new connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Served within half a second.
    Served,
    /// Served later.
    Late,
    /// Not served.
    Failed,
}

/// A connection that took longer was not served at its first SYN.
const LATE_MS: u64 = 500;

/// What one fault did.
pub struct Measured {
    pub title: &'static str,
    /// Start of each new connection, in milliseconds after the fault, and its fate.
    pub fates: Vec<(i64, Fate)>,
    /// When established connections ended, in milliseconds after the fault.
    pub ends: Vec<u64>,
    longest_ms: u64,
    usual_ms: u64,
    told: Told,
    /// From the decision to the last client told, as the daemon counts it.
    decided_ms: Option<u64>,
    cut: usize,
}

/// Lets it happen and watches.
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
    stage.inflict(&mut crowd, case.fault, &[CONCERNED])?;
    thread::sleep(AFTER);
    let decided_ms = since_decision(&stage.daemon.status()?);
    let outcome = crowd.finish()?;
    let dead = addresses(&lab, &[CONCERNED]);
    let drains = case.fault == Fault::Unready;
    let mut measured = Measured {
        title: case.title,
        fates: Vec::new(),
        ends: Vec::new(),
        longest_ms: outcome.longest_ms(),
        usual_ms: 0,
        told: outcome.told(&dead, None),
        decided_ms,
        cut: outcome.cut(if drains { &[] } else { &dead }).len(),
    };
    for (_, timeline) in outcome.timelines() {
        let fault = outcome.fault_ms(timeline);
        let mut usual = Vec::new();
        for connection in timeline.fresh() {
            let took = connection.took_ms().unwrap_or(u64::MAX);
            if connection.started_ms + LATE_MS < fault {
                usual.push(took);
            }
            let fate = match connection.failed() {
                true => Fate::Failed,
                false if took > LATE_MS => Fate::Late,
                false => Fate::Served,
            };
            // What TCP had let through before the fault is an established connection.
            let new = connection.connected_ms.is_none_or(|at| at >= fault);
            if new || connection.started_ms < fault && !connection.failed() {
                measured.fates.push((connection.started_ms.cast_signed() - fault.cast_signed(), fate));
            }
        }
        let ended = timeline.kept().filter_map(|c| c.ended_ms?.checked_sub(fault));
        measured.ends.extend(ended);
        usual.sort_unstable();
        measured.usual_ms = usual.get(usual.len() / 2).copied().unwrap_or(0);
    }
    println!("{}:\n{outcome}", case.title);
    Ok(measured)
}

/// What the daemon says of the latest apiserver that went down.
fn since_decision(status: &Value) -> Option<u64> {
    let down = status["transitions"].as_array()?.iter().find(|transition| transition["to"] == "down")?;
    Some(down["commit_ms"].as_u64()? + down["flows_ms"].as_u64()?)
}

/// Prints the table.
pub fn print(all: &[Measured]) {
    println!(
        "| fault | new connections that fail | longest extra wait | established flows told | others cut |"
    );
    println!("|---|---|---|---|---|");
    for m in all {
        let new = m.fates.iter().filter(|(at, _)| *at >= 0);
        let failed = m.fates.iter().filter(|(_, fate)| *fate == Fate::Failed);
        let last = failed.clone().map(|(at, _)| *at).max();
        let last = last.map_or_else(String::new, |at| format!(", the last began {at} ms after the fault"));
        let decided = m.decided_ms.map_or_else(String::new, |ms| format!(", {ms} ms after the decision"));
        println!(
            "| {} | {} of {}{last} | {} ms | {} of {}, first {} ms, last {} ms after the fault{decided} | {} |",
            m.title,
            failed.count(),
            new.count(),
            m.longest_ms.saturating_sub(m.usual_ms),
            m.told.told,
            m.told.flows,
            m.told.first_ms,
            m.told.last_ms,
            m.cut
        );
    }
}
