//! The last minutes of each apiserver's state and round trip, for the page.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::health::HealthState;
use crate::model::report::Report;
use crate::model::types::Backend;

/// From one sample to the next.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Two minutes: half a kilobyte for each apiserver.
pub(super) const SAMPLES: usize = 60;

/// What one sample saw: the state, and the smoothed round trip in microseconds.
pub(super) type Sample = (HealthState, Option<u32>);

/// Samples of each apiserver, oldest first.
#[derive(Debug, Default)]
pub(super) struct Trend(BTreeMap<Backend, VecDeque<Sample>>);

impl Trend {
    /// Takes one sample of all. Those that are no longer probed are forgotten.
    pub fn sample(&mut self, report: &Report) {
        let Some(view) = &report.view else { return };
        self.0.retain(|backend, _| view.backends.contains_key(backend));
        for (backend, health) in &view.backends {
            let samples = self.0.entry(*backend).or_default();
            if samples.len() == SAMPLES {
                samples.pop_front();
            }
            let micros = health.round_trip.and_then(|trip| u32::try_from(trip.as_micros()).ok());
            samples.push_back((health.state, micros));
        }
    }

    /// Those of one apiserver.
    pub fn of(&self, backend: Backend) -> Vec<Sample> {
        self.0.get(&backend).map(|samples| samples.iter().copied().collect()).unwrap_or_default()
    }
}
