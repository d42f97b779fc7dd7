//! What one fault did, as its clients saw it. Pure.
//! In: an [`Outcome`]. Out: the figures of a line of the tables, and their words.

use std::net::IpAddr;

use integration::failover::{Notified, Outcome};
use integration::pictures::failover::Row;

/// A connection that took longer before the fault says nothing of the usual time.
const LATE_MS: u64 = 500;

/// What one fault did.
pub struct Judged {
    /// New connections.
    new: usize,
    /// Those of them that failed, and when the last of these began, in milliseconds after the fault.
    failed: usize,
    last_failed_ms: Option<i64>,
    longest_ms: u64,
    usual_ms: u64,
    notified: Notified,
    others_reset: usize,
}

impl Judged {
    /// Of API servers with these addresses.
    pub fn new(outcome: &Outcome, concerned: &[IpAddr]) -> Self {
        let mut judged = Self {
            new: 0,
            failed: 0,
            last_failed_ms: None,
            longest_ms: outcome.longest_ms(),
            usual_ms: 0,
            notified: outcome.notified(concerned, None),
            others_reset: outcome.reset_of_others(concerned).len(),
        };
        for (_, timeline) in outcome.timelines() {
            let fault = outcome.fault_ms(timeline);
            let mut usual = Vec::new();
            for connection in timeline.fresh() {
                if connection.started_ms + LATE_MS < fault {
                    usual.push(connection.took_ms().unwrap_or(u64::MAX));
                }
                // One that TCP had established before the fault is an established connection.
                if connection.connected_ms.is_some_and(|at| at < fault) {
                    continue;
                }
                let began = connection.started_ms.cast_signed() - fault.cast_signed();
                judged.new += usize::from(began >= 0);
                if connection.failed() {
                    judged.failed += 1;
                    judged.last_failed_ms = judged.last_failed_ms.max(Some(began));
                }
            }
            usual.sort_unstable();
            judged.usual_ms = usual.get(usual.len() / 2).copied().unwrap_or(0);
        }
        judged
    }

    /// How many failed of how many, and when the last of them began.
    pub fn failed(&self) -> String {
        let last = self.last_failed_ms.map(|at| format!(", the last began {at} ms after the fault"));
        format!("{} of {}{}", self.failed, self.new, last.unwrap_or_default())
    }

    /// By how much the slowest was slower than usual.
    pub fn extra_wait(&self) -> String {
        format!("{} ms", self.extra_wait_ms())
    }

    /// How many established connections to the failed API servers ended at their clients, and when.
    pub fn reset(&self) -> String {
        let Notified { flows, notified, first_ms, last_ms } = self.notified;
        if notified == 0 {
            return format!("none of {flows}");
        }
        format!("{notified} of {flows}, {first_ms} to {last_ms} ms after the fault")
    }

    /// How many connections to other API servers ended.
    pub fn others_reset(&self) -> usize {
        self.others_reset
    }

    /// The figures of a picture.
    pub fn row(&self, fault: &str, served_by: String) -> Row {
        Row {
            fault: fault.to_owned(),
            served_by,
            new: self.new,
            failed: self.failed,
            extra_wait_ms: self.extra_wait_ms(),
            established: self.notified.flows,
            notified: self.notified.notified,
            last_notified_ms: self.notified.last_ms,
        }
    }

    fn extra_wait_ms(&self) -> u64 {
        self.longest_ms.saturating_sub(self.usual_ms)
    }
}
