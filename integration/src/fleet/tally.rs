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
    /// Ended by the daemon, and alive: their apiserver went on within the timeout, or was never away.
    pub lived: u64,
    /// It was heard of within the timeout.
    pub heard: u64,
    /// Data of it arrived within the timeout.
    pub data: u64,
    /// After a longer silence that healed within a minute.
    pub price: u64,
    /// Dead ones, by who told them and after how long.
    pub by_kernel: Times,
    /// Asked by the daemon.
    pub by_asking: Times,
    /// Ended by it.
    pub by_daemon: Times,
    /// Of no use for a minute, and not told.
    pub untold: u64,
    /// New connections in a second at one apiserver, by node.
    pub peak: f64,
    /// Handshakes that one that stood still found of one node.
    pub storm: usize,
    /// New connections that met an apiserver that refused, or that took more than a second.
    pub missed: u64,
    /// What went wrong, in words, to be played again.
    pub wrong: Vec<String>,
}

impl Tally {
    /// What must not be.
    pub fn harm(&self) -> u64 {
        self.lived + self.heard + self.data
    }

    /// Takes in the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.node_seconds += other.node_seconds;
        self.faults += other.faults;
        self.connections += other.connections;
        self.lived += other.lived;
        self.heard += other.heard;
        self.data += other.data;
        self.price += other.price;
        self.by_kernel.0.extend(&other.by_kernel.0);
        self.by_asking.0.extend(&other.by_asking.0);
        self.by_daemon.0.extend(&other.by_daemon.0);
        self.untold += other.untold;
        self.peak = self.peak.max(other.peak);
        self.storm = self.storm.max(other.storm);
        self.missed += other.missed;
        self.wrong.extend(other.wrong.iter().cloned());
    }
}

/// The table as docs/benchmarks.md has it.
pub fn table(rows: &[(Kind, Tally)]) -> String {
    let mut text = String::from(
        "| fault | faults | connections | ended wrongly | ended after a silence that healed | dead: told by a kernel | told after asking | ended by apivip | not told | peak | handshakes |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
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
    let Tally { faults, connections, price, untold, peak, storm, .. } = tally;
    let wrong = tally.harm();
    let [kernel, asking, daemon] =
        [&tally.by_kernel, &tally.by_asking, &tally.by_daemon].map(|times| times.cell());
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "| {label} | {faults} | {connections} | {wrong} | {price} | {kernel} | {asking} | {daemon} | {untold} | {peak:.2} | {storm} |"
    );
}

/// As a user says it.
pub fn seconds(time: Time) -> f64 {
    time as f64 / SECOND as f64
}
