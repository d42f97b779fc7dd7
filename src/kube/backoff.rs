//! How long to wait before the next attempt. Pure: time and randomness are arguments.

use std::time::Duration;

use rand::Rng;

/// The first delay: short, because most failures are one apiserver that restarts while others answer.
const FIRST: Duration = Duration::from_millis(200);

/// The longest delay: 5,000 nodes that all lost the API ask it for 330 connections a second at most.
const LONGEST: Duration = Duration::from_secs(15);

/// A session that lasted so long was a success, and the next failure starts from the first delay again. As long as
/// the longest delay, so that sessions which keep failing cost a server no more than the delays allow.
const SUCCESS: Duration = LONGEST;

/// Whether a session that was in order for so long counts as one.
pub(super) fn is_success(healthy: Duration) -> bool {
    healthy >= SUCCESS
}

/// Exponential backoff with jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after a session that was in order for `healthy`: between half and the whole of the exponential
    /// step, so that nodes which failed together do not come back together.
    pub(super) fn next(&mut self, healthy: Duration, rng: &mut impl Rng) -> Duration {
        if is_success(healthy) {
            self.failures = 0;
        }
        let step = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use rand::RngCore;

    use super::*;

    /// Draws the same number for ever.
    struct Fixed(u64);

    impl RngCore for Fixed {
        fn next_u32(&mut self) -> u32 {
            (self.0 >> 32) as u32
        }

        fn next_u64(&mut self) -> u64 {
            self.0
        }

        fn fill_bytes(&mut self, bytes: &mut [u8]) {
            bytes.fill(self.0 as u8);
        }
    }

    fn upper() -> Fixed {
        Fixed(u64::MAX)
    }

    #[test]
    fn doubles_up_to_the_longest_and_starts_again_after_success() {
        let mut backoff = Backoff::default();
        let steps: Vec<u128> =
            (0..9).map(|_| backoff.next(Duration::ZERO, &mut upper()).as_millis()).collect();
        assert_eq!(steps, [200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000]);
        assert_eq!(backoff.next(Duration::from_secs(14), &mut upper()).as_millis(), 15_000);
        assert_eq!(backoff.next(Duration::from_secs(15), &mut upper()).as_millis(), 200);
    }

    #[test]
    fn jitter_takes_up_to_half_away() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(Duration::ZERO, &mut Fixed(0)).as_millis(), 100);
    }

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff { failures: u32::MAX };
        assert_eq!(backoff.next(Duration::ZERO, &mut upper()), LONGEST);
    }
}
