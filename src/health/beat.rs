//! When a node sends its pings: to all backends at the same instants, so that it wakes once for all of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Give or take a tenth. Intervals that differ add up: two nodes that began alike, or one and a fault that comes and
/// goes with the interval, do not stay in step.
pub(super) fn about(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(0.9 + chance * 0.2)
}

/// Instants about an interval apart, the same for whoever has a copy.
#[derive(Clone, Debug)]
pub(super) struct Beat {
    next: Arc<Mutex<Instant>>,
    interval: Duration,
}

impl Beat {
    /// `chance`, from 0 up to 1, says where in the interval from `now` the first one comes.
    pub(super) fn new(interval: Duration, now: Instant, chance: f64) -> Self {
        Self { next: Arc::new(Mutex::new(now + interval.mul_f64(chance))), interval }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// The next one that is after `instant`. Whoever asks first has it drawn, by `chance`, from 0 up to 1.
    pub(super) fn after(&self, instant: Instant, chance: f64) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if *next <= instant {
            *next += about(self.interval, chance);
        }
        // Nobody asked for a while.
        if *next <= instant {
            *next = instant + self.interval.mul_f64(chance.max(f64::EPSILON));
        }
        *next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    proptest! {
        #[test]
        fn beats_are_an_interval_apart_give_or_take_a_tenth_for_whoever_asks(
            interval in 100_u64..60_000, first in 0.0..1.0_f64, chances in prop::collection::vec(0.0..1.0_f64, 2..50),
        ) {
            let (now, interval) = (Instant::now(), Duration::from_millis(interval));
            let beat = Beat::new(interval, now, first);
            let mut last = beat.after(now, chances[0]);
            for chance in chances {
                let next = beat.clone().after(last + interval / 2, chance);
                let share = (next - last).div_duration_f64(interval);
                prop_assert!((0.8999..1.1001).contains(&share), "{share}");
                let between = last + (next - last) / 2;
                prop_assert_eq!(beat.after(between, 0.5), next);
                last = next;
            }
        }

        #[test]
        fn after_a_silence_the_next_may_come_anywhere_in_the_interval(days in 1_u32..1000, chance in 0.0..1.0_f64) {
            let (now, interval) = (Instant::now(), Duration::from_secs(1));
            let beat = Beat::new(interval, now, 0.5);
            let later = now + Duration::from_secs(86_400) * days;
            let wait = beat.after(later, chance) - later;
            prop_assert!(wait.abs_diff(interval.mul_f64(chance)) < Duration::from_micros(1), "{wait:?}");
        }
    }

    /// As one that serves for a second and refuses for a second: whatever the phase, before long a ping comes in the
    /// middle of the second that refuses.
    #[test]
    fn no_fault_of_twice_the_interval_stays_in_step() {
        let (now, interval) = (Instant::now(), Duration::from_secs(1));
        for phase in 0..20 {
            let mut chance = StdRng::seed_from_u64(phase);
            let beat = Beat::new(interval, now, phase as f64 / 20.0);
            let mut at = beat.after(now, 0.5);
            let seen = (1..=30).find(|_| {
                at = beat.after(at + interval / 2, chance.random());
                (100..900).contains(&((at - now).as_millis() % 2000))
            });
            assert!(seen.is_some(), "phase {phase}: 30 beats, all within a tenth of an edge or beyond");
        }
    }
}
