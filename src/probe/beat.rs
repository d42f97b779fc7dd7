//! When a node sends its PINGs: to all backends at the same instants, so that it wakes once for all of them.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// By how much of an interval a beat may come late. Other nodes begin elsewhere in the interval; this keeps two that
/// began alike, or one and a fault that comes and goes with the interval, from staying in step.
const JITTER: f64 = 0.1;

/// Instants about an interval apart, the same for whoever has a copy.
#[derive(Clone, Debug)]
pub(super) struct Beat {
    origin: Instant,
    interval: Duration,
    noise: RandomState,
}

impl Beat {
    /// `chance`, from 0 up to 1, says where in the interval from `now` the first one may come.
    pub(super) fn new(interval: Duration, now: Instant, chance: f64) -> Self {
        Self { origin: now + interval.mul_f64(chance), interval, noise: RandomState::new() }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// The first one after `instant`.
    pub(super) fn after(&self, instant: Instant) -> Instant {
        let count = instant.saturating_duration_since(self.origin).div_duration_f64(self.interval) as u64;
        let current = self.at(count);
        if current > instant { current } else { self.at(count + 1) }
    }

    fn at(&self, count: u64) -> Instant {
        let noise = self.noise.hash_one(count) as f64 / u64::MAX as f64;
        self.origin + self.interval.mul_f64(count as f64 + JITTER * noise)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The noise itself is not replayed: it must hold for any.
        #[test]
        fn beats_are_an_interval_apart_give_or_take_a_tenth(
            interval in 100_u64..60_000, chance in 0.0..1.0_f64, days in 0_u64..1000, steps in 1_usize..50,
        ) {
            let (now, interval) = (Instant::now(), Duration::from_millis(interval));
            let beat = Beat::new(interval, now, chance);
            let mut last = beat.after(now + Duration::from_secs(86_400) * days as u32);
            for _ in 0..steps {
                let next = beat.clone().after(last);
                let share = (next - last).div_duration_f64(interval);
                prop_assert!((0.8999..1.1001).contains(&share), "{share}");
                let between = last + (next - last) / 2;
                prop_assert_eq!(beat.after(between), next);
                last = next;
            }
        }
    }

    #[test]
    fn the_first_may_come_anywhere_in_the_interval() {
        let (now, interval) = (Instant::now(), Duration::from_secs(1));
        for (chance, from, to) in [(0.0, 0, 100), (0.5, 500, 600), (0.99, 990, 1090)] {
            let first = (Beat::new(interval, now, chance).after(now) - now).as_millis();
            assert!((from..=to).contains(&first), "{chance}: {first}");
        }
    }
}
