//! Random numbers for pickers: seeded, and shared between threads without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// SplitMix64, whose state is a counter: a number costs one atomic addition.
#[derive(Debug)]
pub(crate) struct Random(AtomicU64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Returns a number below `bound`, which is not zero.
    pub(crate) fn below(&self, bound: usize) -> usize {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The high half of the product: even without a division.
        let scaled = (u128::from(z) * bound as u128) >> 64;
        usize::try_from(scaled).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_even_and_follow_the_seed() {
        let (random, again) = (Random::new(7), Random::new(7));
        let mut counts = [0_usize; 5];
        for _ in 0..10_000 {
            let drawn = random.below(5);
            assert_eq!(drawn, again.below(5));
            counts[drawn] += 1;
        }
        assert!(counts.iter().all(|count| (1_800..2_200).contains(count)), "{counts:?}");
    }
}
