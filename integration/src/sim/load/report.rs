//! The result of a run.
//!
//! In: counts. Out: one JSON object for tests, or a few lines for a reader.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

pub use super::failure::Reason;

/// Everything that a run can say. While it goes on, attempts under way are in `in_flight`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Milliseconds since the run began.
    pub elapsed_ms: u64,
    /// Attempts begun.
    pub attempted: u64,
    /// Attempts that did all that their kind asks for.
    pub ok: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts under way; 0 at the end.
    pub in_flight: u64,
    /// Failed attempts by reason.
    pub failed_by: BTreeMap<Reason, u64>,
    /// The first 20 failures.
    pub failures: Vec<FailedAttempt>,
    /// Successful attempts by the name in the server's greeting (echo only).
    pub servers: BTreeMap<String, u64>,
    /// Successful attempts by the client address that the server saw (echo only).
    pub seen_as: BTreeMap<String, u64>,
    /// How long successful attempts took to connect.
    pub connect_us: Percentiles,
    /// How long successful attempts took as a whole.
    pub total_us: Percentiles,
    /// Successful attempts that took a second or more: their first SYN was lost.
    pub over_1s: u64,
    /// The longest that an attempt began after its time, because this process did not get to run.
    pub late_us: u64,
    /// The long-lived connections.
    pub established: EstablishedReport,
}

/// One failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAttempt {
    /// When the attempt began, in milliseconds since the run began.
    pub at_ms: u64,
    /// How long it took to fail.
    pub after_ms: u64,
    /// Its target.
    pub target: SocketAddr,
    /// The client's own address, when the socket got as far as having one.
    pub local: Option<SocketAddr>,
    /// Why.
    pub reason: Reason,
    /// The same in words.
    pub detail: String,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of them took at most this.
    pub p50: u64,
    /// 90 of a hundred.
    pub p90: u64,
    /// 99 of a hundred.
    pub p99: u64,
    /// 999 of a thousand.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
}

/// The long-lived connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EstablishedReport {
    /// How many were opened.
    pub opened: u64,
    /// How many failed to open, or broke before the end.
    pub broken: u64,
    /// The first 20 of those.
    pub failures: Vec<FailedAttempt>,
    /// How many were opened to each server.
    pub servers: BTreeMap<String, u64>,
    /// Exchanges done on all of them.
    pub exchanges: u64,
    /// The slowest exchange.
    pub max_exchange_us: u64,
}

impl Report {
    /// Whether every attempt succeeded and no long-lived connection broke.
    pub fn clean(&self) -> bool {
        self.failed == 0 && self.established.broken == 0
    }

    /// Refuses a final report that lost an attempt: a judge that cannot count must not judge.
    pub(super) fn checked(self) -> Result<Self> {
        let by_reason: u64 = self.failed_by.values().sum();
        ensure!(
            self.in_flight == 0 && self.attempted == self.ok + self.failed && self.failed == by_reason,
            "the generator lost count: attempted {}, ok {}, failed {} ({by_reason} by reason), in flight {}",
            self.attempted,
            self.ok,
            self.failed,
            self.in_flight
        );
        Ok(self)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Percentiles { p50, p99, max, .. } = self.total_us;
        writeln!(
            f,
            "{} connections in {} ms: {} ok, {} failed; p50 {p50} us, p99 {p99} us, max {max} us",
            self.attempted, self.elapsed_ms, self.ok, self.failed
        )?;
        for (server, count) in &self.servers {
            writeln!(f, "  {server}: {count}")?;
        }
        let established = &self.established;
        if established.opened + established.broken > 0 {
            writeln!(f, "long-lived: {} opened, {} broken", established.opened, established.broken)?;
        }
        for failure in self.failures.iter().chain(&established.failures) {
            let local = failure.local.map_or_else(|| "unbound".to_owned(), |local| local.to_string());
            writeln!(f, "  at {} ms {local} to {}: {}", failure.at_ms, failure.target, failure.detail)?;
        }
        Ok(())
    }
}
