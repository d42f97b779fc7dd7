//! What others changed of what the reconciler made: that it is to be made again, how soon, and what is told of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::damper::Damper;
use super::telling::{Sum, Telling, Told};
use crate::dataplane::{Drift, DriftSource};
use crate::metrics::Metrics;
use crate::model::report::{Repair, Repaired, Repairs};

/// So many of the latest repairs are shown.
const SHOWN: usize = 8;

/// Repairs that are due, and those that were made.
#[derive(Debug, Default)]
pub(super) struct Mender {
    due: Option<Drift>,
    damper: Damper,
    routes: Damper,
    /// Of the table, and of routes.
    telling: [Telling; 2],
    total: u64,
    latest: VecDeque<Repair>,
}

impl Mender {
    /// How long the next repair has to wait.
    pub fn wait(&self) -> Duration {
        self.damper.wait(now())
    }

    /// How long the next look at routes has to wait.
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

    /// The rules are what they should be. Returns how that was told, if it took a repair.
    pub fn applied(&mut self, metrics: &Metrics) -> Option<Told> {
        let drift = self.due.take()?;
        self.damper.note(now());
        let after = drift.noticed.elapsed();
        let (by, changes) = (drift.who(), drift.changes);
        let told = self.tell(Repaired::Table, by.as_deref());
        let after_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        match (told, drift.source) {
            (Told::Alone, DriftSource::Event) => {
                tracing::warn!(by, changes, after_us, "another program changed table inet apivip; repaired");
            }
            (Told::Alone, DriftSource::Lost | DriftSource::Check) => {
                tracing::warn!(
                    found = drift.source.label(),
                    after_us,
                    "table inet apivip was not as programmed; repaired"
                );
            }
            (Told::First | Told::Later, _) => {}
        }
        self.note(Repaired::Table, &drift, metrics);
        metrics.table_repaired(after);
        Some(told)
    }

    /// So many routes and routing rules were made again.
    pub fn routes(&mut self, count: usize, metrics: &Metrics) {
        if count > 0 {
            self.routes.note(now());
            if self.tell(Repaired::Routes, None) == Told::Alone {
                tracing::warn!(
                    count,
                    "another program removed routes or routing rules of apivip; made again"
                );
            }
            self.note(Repaired::Routes, &Drift::new(DriftSource::Event), metrics);
        }
    }

    fn tell(&mut self, what: Repaired, by: Option<&str>) -> Told {
        let told = self.telling[what as usize].note(now(), by);
        if told == Told::First {
            let object = what.label();
            tracing::warn!(
                object,
                by,
                "other programs change what apivip made again and again: repairs are summed up from now on"
            );
        }
        told
    }

    /// When there is a sum to be told, if repairs are summed up.
    pub fn sums_due(&self) -> Option<Instant> {
        self.telling.iter().filter_map(Telling::due).min()
    }

    /// Tells what is due.
    pub fn tell_sums(&mut self) {
        for what in Repaired::ALL {
            let object = what.label();
            match self.telling[what as usize].sum(now()) {
                Some(Sum::More { count, by }) => {
                    tracing::warn!(
                        object,
                        count,
                        by,
                        "other programs changed what apivip made; repaired each time"
                    );
                }
                Some(Sum::Over { total }) => {
                    tracing::info!(object, total, "other programs leave alone again what apivip made");
                }
                None => {}
            }
        }
    }

    fn note(&mut self, what: Repaired, drift: &Drift, metrics: &Metrics) {
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

/// The runtime's clock, which tests stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
