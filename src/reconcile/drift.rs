//! Drift repair: what other programs changed of what the reconciler made, how soon it is made again, and what is logged of it.
//!
//! In: drift as the kernel reports it, repairs that were made. Out: whether and when rules or routes are applied again, one
//! log event for each of a few repairs, and a summary once a minute of many, so that a fight with another program is neither
//! a busy loop nor fills the log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::now;
use crate::dataplane::{Drift, DriftSource};
use crate::metrics::Metrics;
use crate::model::report::{Repair, RepairedObject, Repairs};

/// So many of the latest repairs are shown.
const SHOWN: usize = 8;

/// Repairs that are due, and those that were made.
#[derive(Debug, Default)]
pub(super) struct DriftRepair {
    due: Option<Drift>,
    backoff: RepairBackoff,
    routes: RepairBackoff,
    /// Of the table, and of routes.
    log_throttles: [LogThrottle; 2],
    total: u64,
    latest: VecDeque<Repair>,
}

impl DriftRepair {
    /// How long the next repair has to wait.
    pub fn wait(&self) -> Duration {
        self.backoff.wait(now())
    }

    /// How long the next check of routes has to wait.
    pub fn routes_wait(&self) -> Duration {
        self.routes.wait(now())
    }

    /// The rules are no longer what was applied.
    pub fn begin(&mut self, drift: Drift) {
        self.due = Some(drift);
    }

    /// Whether the rules must be applied though the desired state is the same.
    pub fn is_due(&self) -> bool {
        self.due.is_some()
    }

    /// The rules are what they should be. Returns how that was logged, if it took a repair.
    pub fn applied(&mut self, metrics: &Metrics) -> Option<LogDecision> {
        let drift = self.due.take()?;
        self.backoff.note(now());
        let after = drift.noticed.elapsed();
        let (by, changes) = (drift.who(), drift.changes);
        let decision = self.log_decision(RepairedObject::Table, by.as_deref());
        let object = RepairedObject::Table.label();
        let duration_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        match (decision, drift.source) {
            (LogDecision::Individually, DriftSource::Event) => {
                tracing::warn!(
                    event = %"drift_repaired", object, by, changes, duration_us,
                    "Rules restored after another program changed them"
                );
            }
            (LogDecision::Individually, DriftSource::Lost | DriftSource::Check) => {
                tracing::warn!(
                    event = %"drift_repaired", object, found = drift.source.label(), duration_us,
                    "Rules restored that were not as programmed"
                );
            }
            (LogDecision::StartSummary | LogDecision::InSummary, _) => {}
        }
        self.note(RepairedObject::Table, &drift, metrics);
        metrics.table_repaired(after);
        Some(decision)
    }

    /// So many routes and routing rules were made again.
    pub fn routes(&mut self, count: usize, metrics: &Metrics) {
        if count > 0 {
            self.routes.note(now());
            if self.log_decision(RepairedObject::Routes, None) == LogDecision::Individually {
                let object = RepairedObject::Routes.label();
                tracing::warn!(
                    event = %"drift_repaired", object, count,
                    "Routes or routing rules restored after another program removed them"
                );
            }
            self.note(RepairedObject::Routes, &Drift::new(DriftSource::Event), metrics);
        }
    }

    fn log_decision(&mut self, what: RepairedObject, by: Option<&str>) -> LogDecision {
        let decision = self.log_throttles[what as usize].note(now(), by);
        if decision == LogDecision::StartSummary {
            let object = what.label();
            tracing::warn!(
                event = %"drift_summary_started", object, by,
                "Other programs keep making changes, summarizing repairs"
            );
        }
        decision
    }

    /// When the next summary is due, if repairs are summarized.
    pub fn summary_due(&self) -> Option<Instant> {
        self.log_throttles.iter().filter_map(LogThrottle::due).min()
    }

    /// Logs the summaries that are due.
    pub fn log_summaries(&mut self) {
        for what in RepairedObject::ALL {
            let object = what.label();
            match self.log_throttles[what as usize].summary(now()) {
                Some(LogSummary::More { count, by }) => {
                    tracing::warn!(
                        event = %"drift_summary", object, count, by,
                        "Changes of other programs were repaired each time"
                    );
                }
                Some(LogSummary::Over { total }) => {
                    tracing::info!(
                        event = %"drift_ended", object, total,
                        "Other programs have stopped making changes"
                    );
                }
                None => {}
            }
        }
    }

    fn note(&mut self, what: RepairedObject, drift: &Drift, metrics: &Metrics) {
        metrics.repaired(what, drift.source);
        self.total = self.total.saturating_add(1);
        self.latest.truncate(SHOWN - 1);
        self.latest.push_front(Repair {
            what,
            at: drift.noticed,
            found: drift.source.label(),
            changes: drift.changes,
            by: drift.who(),
        });
    }

    pub fn report(&self) -> Arc<Repairs> {
        Arc::new(Repairs { total: self.total, latest: self.latest.iter().cloned().collect() })
    }
}

/// So many repairs follow at once. A reload of a firewall is one, or a few.
const IMMEDIATE_REPAIRS: u32 = 10;
/// One is forgotten for each such time without any: who comes no more often is no fight, and a commit a second costs nothing.
const STRIKE_EXPIRY: Duration = Duration::from_secs(1);
/// The first wait, doubled with each further repair.
const WAIT_MIN: Duration = Duration::from_millis(50);
/// The longest time without rules, however often another program changes them.
const WAIT_DOUBLINGS: u32 = 5;

/// Remembers repairs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RepairBackoff {
    strikes: u32,
    last: Option<Instant>,
    wait: Duration,
}

impl RepairBackoff {
    /// A repair was made.
    pub fn note(&mut self, now: Instant) {
        let quiet = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let forgotten = u32::try_from(quiet.as_nanos() / STRIKE_EXPIRY.as_nanos()).unwrap_or(u32::MAX);
        self.strikes = self.strikes.saturating_sub(forgotten).saturating_add(1);
        self.last = Some(now);
        self.wait = match self.strikes.checked_sub(IMMEDIATE_REPAIRS + 1) {
            None => Duration::ZERO,
            Some(more) => WAIT_MIN * 2u32.pow(more.min(WAIT_DOUBLINGS)),
        };
    }

    /// How long the next one still has to wait.
    pub fn wait(&self, now: Instant) -> Duration {
        let end = self.last.map(|last| last + self.wait);
        end.map_or(Duration::ZERO, |end| end.saturating_duration_since(now))
    }
}

/// So many within [`PERIOD`] are logged individually: what a reload of a firewall or a rollout causes.
const MAX_INDIVIDUAL: usize = 10;
/// Between two summaries, and how long nothing must happen until a conflict is over.
const PERIOD: Duration = Duration::from_secs(60);

/// How one repair is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogDecision {
    /// Individually.
    Individually,
    /// As the first of those that are summarized.
    StartSummary,
    /// With the next summary.
    InSummary,
}

/// The summary after a [`PERIOD`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogSummary {
    /// So many more repairs; the latest known program.
    More { count: u64, by: Option<String> },
    /// There were no more; so many were summarized in all.
    Over { total: u64 },
}

/// Repairs of one kind of object.
#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    /// The latest that were logged individually, at most [`MAX_INDIVIDUAL`].
    individual: VecDeque<Instant>,
    summarizing: Option<Summarizing>,
}

#[derive(Debug)]
struct Summarizing {
    due: Instant,
    count: u64,
    total: u64,
    by: Option<String>,
}

impl LogThrottle {
    /// A repair was made.
    pub fn note(&mut self, now: Instant, by: Option<&str>) -> LogDecision {
        if let Some(summarizing) = &mut self.summarizing {
            summarizing.count = summarizing.count.saturating_add(1);
            if let Some(by) = by {
                summarizing.by = Some(by.to_owned());
            }
            return LogDecision::InSummary;
        }
        self.individual.retain(|at| now.saturating_duration_since(*at) < PERIOD);
        if self.individual.len() < MAX_INDIVIDUAL {
            self.individual.push_back(now);
            return LogDecision::Individually;
        }
        self.summarizing =
            Some(Summarizing { due: now + PERIOD, count: 1, total: 0, by: by.map(str::to_owned) });
        LogDecision::StartSummary
    }

    /// When the next summary is due, if any is.
    pub fn due(&self) -> Option<Instant> {
        self.summarizing.as_ref().map(|summarizing| summarizing.due)
    }

    /// The summary, if it is due.
    pub fn summary(&mut self, now: Instant) -> Option<LogSummary> {
        let summarizing = self.summarizing.as_mut().filter(|summarizing| summarizing.due <= now)?;
        let total = summarizing.total.saturating_add(summarizing.count);
        if summarizing.count == 0 {
            self.summarizing = None;
            self.individual.clear();
            return Some(LogSummary::Over { total });
        }
        let (count, by) = (summarizing.count, summarizing.by.take());
        (summarizing.due, summarizing.count, summarizing.total) = (now + PERIOD, 0, total);
        Some(LogSummary::More { count, by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_repairs_are_immediate_and_many_back_off() {
        let (mut backoff, mut now) = (RepairBackoff::default(), Instant::now());
        for _ in 0..IMMEDIATE_REPAIRS {
            backoff.note(now);
            assert_eq!(backoff.wait(now), Duration::ZERO);
        }
        let mut waits = Vec::new();
        for _ in 0..9 {
            backoff.note(now);
            waits.push(backoff.wait(now).as_millis());
            now += backoff.wait(now);
        }
        // Longer waits are forgotten in part.
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 1600, 1600, 1600]);
    }

    #[test]
    fn one_change_per_second_is_repaired_at_once() {
        let (mut backoff, mut now) = (RepairBackoff::default(), Instant::now());
        for _ in 0..1000 {
            backoff.note(now);
            assert_eq!(backoff.wait(now), Duration::ZERO);
            now += STRIKE_EXPIRY;
        }
    }

    #[test]
    fn backoff_expires() {
        let (mut backoff, mut now) = (RepairBackoff::default(), Instant::now());
        (0..30).for_each(|_| backoff.note(now));
        assert!(backoff.wait(now) > Duration::from_secs(1));
        now += Duration::from_secs(600);
        backoff.note(now);
        assert_eq!(backoff.wait(now), Duration::ZERO);
    }

    #[test]
    fn few_and_rare_repairs_are_logged_individually() {
        let (mut log_throttles, mut now) = (LogThrottle::default(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(log_throttles.note(now, None), LogDecision::Individually);
            now += PERIOD / 10;
        }
        assert_eq!((log_throttles.due(), log_throttles.summary(now)), (None, None));
    }

    #[test]
    fn many_repairs_are_summarized_until_they_stop() {
        let (mut log_throttles, begin) = (LogThrottle::default(), Instant::now());
        let decision: Vec<LogDecision> =
            (0..MAX_INDIVIDUAL + 5).map(|_| log_throttles.note(begin, Some("nft"))).collect();
        assert!(
            decision[..MAX_INDIVIDUAL].iter().all(|decision| *decision == LogDecision::Individually),
            "{decision:?}"
        );
        assert_eq!(decision[MAX_INDIVIDUAL], LogDecision::StartSummary);
        assert!(
            decision[MAX_INDIVIDUAL + 1..].iter().all(|decision| *decision == LogDecision::InSummary),
            "{decision:?}"
        );
        assert_eq!(log_throttles.summary(begin + PERIOD / 2), None);
        let by = Some("nft".to_owned());
        assert_eq!(log_throttles.summary(begin + PERIOD), Some(LogSummary::More { count: 5, by }));
        log_throttles.note(begin + PERIOD, Some("ufw"));
        log_throttles.note(begin + PERIOD, None);
        let by = Some("ufw".to_owned());
        assert_eq!(log_throttles.summary(begin + 2 * PERIOD), Some(LogSummary::More { count: 2, by }));
        assert_eq!(log_throttles.summary(begin + 3 * PERIOD), Some(LogSummary::Over { total: 7 }));
        assert_eq!((log_throttles.due(), log_throttles.summary(begin + 9 * PERIOD)), (None, None));
        assert_eq!(log_throttles.note(begin + 9 * PERIOD, None), LogDecision::Individually);
    }
}
