//! Pseudo-random numbers that a seed repeats: SplitMix64 (Steele, Lea and Flood, 2014), and a hash of it.

/// A generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The same seed, the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// From 0 up to, not including, 1.
    pub fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        share(mix(self.0))
    }

    /// From `low` up to, not including, `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + ((high - low) as f64 * self.draw()) as u64
    }

    /// As [`Self::between`], with a logarithmic distribution: short ones are as likely as long ones.
    pub fn scaled(&mut self, low: u64, high: u64) -> u64 {
        let (low, high) = (low as f64, high as f64);
        (low * (high / low).powf(self.draw())) as u64
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.draw() < probability
    }

    /// An index of so many.
    pub fn pick(&mut self, of: usize) -> usize {
        self.between(0, of as u64) as usize
    }
}

/// From 0 up to 1, always the same for the same parts.
pub fn hashed(parts: &[u64]) -> f64 {
    share(
        parts
            .iter()
            .fold(0x2545_f491_4f6c_dd1d, |hash, part| mix(hash ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
    )
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn share(z: u64) -> f64 {
    (z >> 11) as f64 / (1_u64 << 53) as f64
}
