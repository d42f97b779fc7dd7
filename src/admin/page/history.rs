//! The recent states of each API server, for the page's sparklines.
//!
//! In: the reconciler's report, at each [`SAMPLE_INTERVAL`]. Out: samples of two minutes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::health::HealthState;
use crate::model::report::Report;
use crate::model::types::Backend;

/// From one sample to the next.
pub(in crate::admin) const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// Two minutes: half a kilobyte for each API server.
pub(super) const SAMPLES: usize = 60;

/// What one sample saw: the state, and the smoothed round trip in microseconds of an API server that answers.
pub(super) type Sample = (HealthState, Option<u32>);

/// Samples of each API server, oldest first.
#[derive(Debug, Default)]
pub(in crate::admin) struct StateHistory(BTreeMap<Backend, VecDeque<Sample>>);

impl StateHistory {
    /// Takes one sample of all. Those that are no longer probed are forgotten.
    pub fn sample(&mut self, report: &Report) {
        let Some(view) = &report.view else { return };
        self.0.retain(|backend, _| view.backends.contains_key(backend));
        for (backend, health) in &view.backends {
            let samples = self.0.entry(*backend).or_default();
            if samples.len() == SAMPLES {
                samples.pop_front();
            }
            let trip = health.current_round_trip();
            samples.push_back((health.state, trip.and_then(|trip| u32::try_from(trip.as_micros()).ok())));
        }
    }

    /// Those of one API server.
    pub(super) fn of(&self, backend: Backend) -> Vec<Sample> {
        self.0.get(&backend).map(|samples| samples.iter().copied().collect()).unwrap_or_default()
    }
}
