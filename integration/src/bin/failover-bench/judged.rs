//! What one fault did, as its clients saw it. Pure.
//! In: an [`Outcome`]. Out: the columns of the tables, and what became of every new connection.

use std::net::IpAddr;

use integration::failover::{Outcome, Told};

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
pub struct Judged {
    /// Start of each new connection, in milliseconds after the fault, and its fate.
    pub fates: Vec<(i64, Fate)>,
    /// When established connections ended, in milliseconds after the fault.
    pub ends: Vec<u64>,
    longest_ms: u64,
    usual_ms: u64,
    told: Told,
    cut: usize,
}

impl Judged {
    /// Of apiservers with these addresses.
    pub fn new(outcome: &Outcome, concerned: &[IpAddr]) -> Self {
        let mut judged = Self {
            fates: Vec::new(),
            ends: Vec::new(),
            longest_ms: outcome.longest_ms(),
            usual_ms: 0,
            told: outcome.told(concerned, None),
            cut: outcome.cut(concerned).len(),
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
                    judged.fates.push((connection.started_ms.cast_signed() - fault.cast_signed(), fate));
                }
            }
            let ended = timeline.kept().filter_map(|c| c.ended_ms?.checked_sub(fault));
            judged.ends.extend(ended);
            usual.sort_unstable();
            judged.usual_ms = usual.get(usual.len() / 2).copied().unwrap_or(0);
        }
        judged
    }

    /// How many failed of how many, and when the last of them began.
    pub fn failed(&self) -> String {
        let new = self.fates.iter().filter(|(at, _)| *at >= 0).count();
        let failed = self.fates.iter().filter(|(_, fate)| *fate == Fate::Failed);
        let last = failed.clone().map(|(at, _)| *at).max();
        let last = last.map_or_else(String::new, |at| format!(", the last began {at} ms after the fault"));
        format!("{} of {new}{last}", failed.count())
    }

    /// By how much the slowest that was served was slower than usual.
    pub fn extra_wait(&self) -> String {
        format!("{} ms", self.longest_ms.saturating_sub(self.usual_ms))
    }

    /// How many established connections to those concerned ended at their clients, and when.
    pub fn told(&self) -> String {
        let Told { flows, told, first_ms, last_ms } = self.told;
        if told == 0 {
            return format!("none of {flows}");
        }
        format!("{told} of {flows}, first {first_ms} ms, last {last_ms} ms after the fault")
    }

    /// How many other connections ended.
    pub fn cut(&self) -> usize {
        self.cut
    }
}
