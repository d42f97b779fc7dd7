//! Counts what became of every attempt, in bounded memory.
//!
//! In: attempts that begin and end. Out: a [`Report`] at any time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::echo::Greeting;
use super::failure::Failure;
use super::histogram::Histogram;
use super::report::{EstablishedReport, FailedAttempt, Percentiles, Report};

/// Failures that are told one by one.
const FAILURES: usize = 20;
/// Different server names and client addresses that are counted one by one; more count as `other`.
const NAMES: usize = 256;

/// The counts of one run.
pub(super) struct Recorder {
    began: Instant,
    counts: Mutex<Counts>,
}

/// An attempt under way, and what is known of it so far.
pub(crate) struct Trial {
    pub(crate) began: Instant,
    pub(crate) target: SocketAddr,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) connected_after: Duration,
}

struct Counts {
    report: Report,
    connect: Histogram,
    total: Histogram,
}

impl Trial {
    pub(crate) fn new(target: SocketAddr) -> Self {
        Self { began: Instant::now(), target, local: None, connected_after: Duration::ZERO }
    }
}

impl Recorder {
    pub(super) fn new() -> Self {
        let counts = Counts { report: Report::default(), connect: Histogram::new(), total: Histogram::new() };
        Self { began: Instant::now(), counts: Mutex::new(counts) }
    }

    /// An attempt begins, so much after its time.
    pub(super) fn begin(&self, late: Duration) {
        let report = &mut self.counts().report;
        report.attempted += 1;
        report.in_flight += 1;
        report.late_us = report.late_us.max(micros(late));
    }

    /// It ended; returns how many succeeded so far.
    pub(super) fn end(&self, trial: &Trial, outcome: Result<Option<Greeting>, Failure>) {
        let took = trial.began.elapsed();
        let mut counts = self.counts();
        counts.report.in_flight -= 1;
        match outcome {
            Ok(greeting) => {
                counts.connect.record(micros(trial.connected_after));
                counts.total.record(micros(took));
                let report = &mut counts.report;
                report.ok += 1;
                report.over_1s += u64::from(took >= Duration::from_secs(1));
                if let Some(Greeting { server, peer }) = greeting {
                    add(&mut report.servers, server);
                    add(&mut report.seen_as, peer);
                }
            }
            Err(failure) => {
                let report = &mut counts.report;
                report.failed += 1;
                *report.failed_by.entry(failure.reason).or_default() += 1;
                self.keep(&mut report.failures, trial, took, failure);
            }
        }
    }

    /// A long-lived connection was opened.
    pub(super) fn opened(&self, server: String) {
        let established = &mut self.counts().report.established;
        established.opened += 1;
        add(&mut established.servers, server);
    }

    /// A long-lived connection exchanged its bytes.
    pub(super) fn exchanged(&self, took: Duration) {
        let established = &mut self.counts().report.established;
        established.exchanges += 1;
        established.max_exchange_us = established.max_exchange_us.max(micros(took));
    }

    /// A long-lived connection did not open, or broke.
    pub(super) fn broke(&self, trial: &Trial, failure: Failure) {
        let took = trial.began.elapsed();
        let EstablishedReport { broken, failures, .. } = &mut self.counts().report.established;
        *broken += 1;
        self.keep(failures, trial, took, failure);
    }

    /// Whether any attempt succeeded; without attempts, whether any long-lived connection was opened.
    pub(super) fn any_ok(&self) -> bool {
        let counts = self.counts();
        counts.report.ok > 0 || (counts.report.attempted == 0 && counts.report.established.opened > 0)
    }

    /// The counts so far.
    pub(super) fn report(&self) -> Report {
        let counts = self.counts();
        Report {
            elapsed_ms: millis(self.began.elapsed()),
            connect_us: percentiles(&counts.connect),
            total_us: percentiles(&counts.total),
            ..counts.report.clone()
        }
    }

    fn keep(&self, failures: &mut Vec<FailedAttempt>, trial: &Trial, took: Duration, failure: Failure) {
        if failures.len() < FAILURES {
            failures.push(FailedAttempt {
                at_ms: millis(trial.began.duration_since(self.began)),
                after_ms: millis(took),
                target: trial.target,
                local: trial.local,
                reason: failure.reason,
                detail: failure.detail,
            });
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(counts: &mut BTreeMap<String, u64>, name: String) {
    let known = counts.len() < NAMES || counts.contains_key(&name);
    *counts.entry(if known { name } else { "other".to_owned() }).or_default() += 1;
}

fn percentiles(histogram: &Histogram) -> Percentiles {
    let of = |per_mille| histogram.quantile(per_mille);
    Percentiles { p50: of(500), p90: of(900), p99: of(990), p999: of(999), max: histogram.max() }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
