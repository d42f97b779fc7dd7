//! What is counted in a run, and the table of all.

use std::fmt::Write;

use super::fault::Kind;
use super::world::{MS, SECOND, Time};

/// Times until something, of which there may be none.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Time>);

impl Times {
    /// One more.
    pub fn note(&mut self, time: Time) {
        self.0.push(time);
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The latest one.
    pub fn latest(&self) -> Time {
        self.0.iter().copied().max().unwrap_or(0)
    }

    /// In seconds: how many, the median and the latest.
    fn cell(&self) -> String {
        if self.0.is_empty() {
            return "-".to_owned();
        }
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let seconds = |time: Time| (time / (10 * MS)) as f64 / 100.0;
        format!("{}: {:.2}, {:.2}", sorted.len(), seconds(sorted[sorted.len() / 2]), seconds(self.latest()))
    }
}

/// The counts of one kind of fault.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Nodes times seconds.
    pub node_seconds: u64,
    /// Faults that were drawn.
    pub faults: u64,
    /// Connections that clients opened.
    pub connections: u64,
    /// Ended by the daemon, and alive: their API server continued within the timeout, or was never away.
    pub alive: u64,
    /// Ended although something of the API server arrived within the timeout.
    pub heard: u64,
    /// Ended although data of it arrived within the timeout.
    pub data: u64,
    /// Ended after a longer silence that healed within a minute.
    pub healed: u64,
    /// Failed ones, and after how long: reset by the kernel of the API server.
    pub by_kernel: Times,
    /// Reset after a challenge SYN.
    pub by_challenge: Times,
    /// Ended by the daemon.
    pub by_daemon: Times,
    /// Of no use for a minute, and not reset.
    pub not_reset: u64,
    /// New connections in a second at one API server, for each node.
    pub peak: f64,
    /// Handshakes of one node that an API server found after it had been stopped.
    pub handshakes: usize,
    /// New connections that an API server refused, or that took more than a second.
    pub delayed: u64,
    /// What went wrong, in words.
    pub wrong: Vec<String>,
}

impl Tally {
    /// Connections that were ended wrongly: must be 0.
    pub fn ended_wrongly(&self) -> u64 {
        self.alive + self.heard + self.data
    }

    /// Takes in the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.node_seconds += other.node_seconds;
        self.faults += other.faults;
        self.connections += other.connections;
        self.alive += other.alive;
        self.heard += other.heard;
        self.data += other.data;
        self.healed += other.healed;
        self.by_kernel.0.extend(&other.by_kernel.0);
        self.by_challenge.0.extend(&other.by_challenge.0);
        self.by_daemon.0.extend(&other.by_daemon.0);
        self.not_reset += other.not_reset;
        self.peak = self.peak.max(other.peak);
        self.handshakes = self.handshakes.max(other.handshakes);
        self.delayed += other.delayed;
        self.wrong.extend(other.wrong.iter().cloned());
    }
}

/// The table as docs/benchmarks.md has it.
pub fn table(rows: &[(Kind, Tally)]) -> String {
    let mut text = String::from(
        "| fault | faults | connections | ended wrongly | ended after a silence that healed | failed: reset by a kernel | reset after a challenge SYN | ended by apivip | not reset | peak | handshakes |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut all = Tally::default();
    for (kind, tally) in rows {
        row(&mut text, kind.label(), tally);
        all.add(tally);
    }
    row(&mut text, "all", &all);
    let _ = writeln!(text, "\n{} node-seconds", all.node_seconds);
    text
}

fn row(text: &mut String, label: &str, tally: &Tally) {
    let Tally { faults, connections, healed, not_reset, peak, handshakes, .. } = tally;
    let wrong = tally.ended_wrongly();
    let [kernel, challenge, daemon] =
        [&tally.by_kernel, &tally.by_challenge, &tally.by_daemon].map(|times| times.cell());
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "| {label} | {faults} | {connections} | {wrong} | {healed} | {kernel} | {challenge} | {daemon} | {not_reset} | {peak:.2} | {handshakes} |"
    );
}

/// In seconds.
pub fn seconds(time: Time) -> f64 {
    time as f64 / SECOND as f64
}
