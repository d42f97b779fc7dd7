//! Latencies in a fixed amount of memory.
//!
//! Pure. In: microseconds. Out: percentiles, each at most 1.6 % above the true value: every power of two is cut
//! into 64 equal steps.

/// Steps within one power of two.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Enough for any `u64`.
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) * STEPS as usize;

/// Counts of latencies.
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, max: 0 }
    }

    pub(super) fn record(&mut self, micros: u64) {
        self.buckets[bucket(micros)] += 1;
        self.count += 1;
        self.max = self.max.max(micros);
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// The smallest latency that at least `per_mille` of a thousand stayed below or at; 0 when nothing was recorded.
    pub(super) fn quantile(&self, per_mille: u64) -> u64 {
        let rank = (self.count * per_mille).div_ceil(1000);
        let mut below = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank && below > 0 {
                return highest(index).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let shift = value.ilog2() - STEP_BITS;
    (u64::from(shift + 1) * STEPS + (value >> shift) - STEPS) as usize
}

/// The largest value that falls into the bucket.
fn highest(index: usize) -> u64 {
    let (power, step) = (index as u64 / STEPS, index as u64 % STEPS);
    match power {
        0 => step,
        power => ((STEPS + step + 1) << (power - 1)).wrapping_sub(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_value_once() {
        for value in (0..5000).chain([1 << 20, (1 << 40) + 12345, u64::MAX]) {
            let index = bucket(value);
            assert!(value <= highest(index), "{value}");
            assert!(index == 0 || value > highest(index - 1), "{value}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_a_ramp() {
        let mut histogram = Histogram::new();
        (1..=10_000).for_each(|micros| histogram.record(micros));
        for (per_mille, exact) in [(500, 5000), (900, 9000), (990, 9900), (999, 9990)] {
            let got = histogram.quantile(per_mille);
            assert!(got >= exact && got <= exact + exact / 50, "{per_mille}: {got}");
        }
        assert_eq!(histogram.max(), 10_000);
        assert_eq!(Histogram::new().quantile(500), 0);
    }
}
