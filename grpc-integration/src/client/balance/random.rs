//! Random numbers for pickers: seeded, and shared between threads without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// SplitMix64, whose state is a counter: two numbers cost one atomic addition.
#[derive(Debug)]
pub(crate) struct Random(AtomicU64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Returns a number below each of the bounds, which are not zero and fit into 32 bits.
    pub(crate) fn two_below(&self, first: usize, second: usize) -> (usize, usize) {
        let drawn = self.draw();
        (scaled(drawn >> 32, first), scaled(drawn & u64::from(u32::MAX), second))
    }

    /// Returns another number below a bound than this one, if there is any.
    pub(crate) fn another_below(&self, number: usize, bound: usize) -> Option<usize> {
        let others = bound.checked_sub(1).filter(|others| *others > 0)?;
        Some((number + 1 + scaled(self.draw() >> 32, others)) % bound)
    }

    /// Returns a number of 64 bits.
    pub(crate) fn draw(&self) -> u64 {
        at(self.0.fetch_add(STEP, Ordering::Relaxed), 0)
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the number at a position of the sequence of a seed.
pub(crate) fn at(seed: u64, position: u64) -> u64 {
    let mut z = seed.wrapping_add(STEP.wrapping_mul(position.wrapping_add(1)));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Scales a random number of 32 bits to one below `bound`: the high half of the product, even without a division.
fn scaled(random: u64, bound: usize) -> usize {
    let scaled = random.wrapping_mul(bound as u64) >> 32;
    usize::try_from(scaled).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_even_and_follow_the_seed() {
        let (random, again) = (Random::new(7), Random::new(7));
        let mut both = [[0_usize; 4]; 5];
        for _ in 0..10_000 {
            let drawn = random.two_below(5, 4);
            assert_eq!(drawn, again.two_below(5, 4));
            assert_ne!(random.another_below(drawn.0, 5), Some(drawn.0));
            again.draw();
            both[drawn.0][drawn.1] += 1;
        }
        // Neither tells anything of the other one. Five standard deviations are 109.
        assert!(both.as_flattened().iter().all(|count| (390..610).contains(count)), "{both:?}");
        assert_eq!((random.another_below(0, 1), random.another_below(1, 2)), (None, Some(0)));
    }
}
