//! Exponential backoff with jitter.

use std::time::Duration;

/// No delay is longer, so that adding jitter to it cannot overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Exponential backoff with jitter: the delays between attempts.
///
/// [`with_seed`](Self::with_seed) makes the delays repeatable. A clone has jitter of its own, unless it was seeded: those
/// that take their backoff from one setting do not retry at the same moment.
///
/// ```
/// use std::time::Duration;
/// use hither_core::Backoff;
///
/// let mut backoff = Backoff::full_jitter(Duration::from_millis(200), 2.0, Duration::from_secs(10)).with_seed(7);
/// assert!(backoff.next_delay() <= Duration::from_millis(200));
/// assert!(backoff.next_delay() <= Duration::from_millis(400));
/// backoff.reset();
/// assert!(backoff.next_delay() <= Duration::from_millis(200));
/// ```
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    factor: f64,
    max: Duration,
    jitter: Jitter,
    attempt: u32,
    random: fastrand::Rng,
    is_seeded: bool,
}

#[derive(Debug, Clone, Copy)]
enum Jitter {
    /// From zero to the full delay: spreads a thundering herd best.
    Full,
    /// The delay, plus or minus this share of it.
    Proportional(f64),
}

impl Backoff {
    /// Returns delays drawn evenly from zero to `base`, then to `base * factor`, and so on up to `max`, which is 365 days
    /// at most. A factor below 1 is taken as 1.
    ///
    /// The first delay is drawn too: after a restart of the registry its clients do not return at the same moment.
    pub fn full_jitter(base: Duration, factor: f64, max: Duration) -> Self {
        let (max, factor) = (max.min(LONGEST), factor.max(1.0));
        Self {
            base,
            factor,
            max,
            jitter: Jitter::Full,
            attempt: 0,
            random: fastrand::Rng::new(),
            is_seeded: false,
        }
    }

    /// Returns delays of `base`, `base * factor`, and so on up to `max`, each plus or minus `share` of itself: gRPC's
    /// connection backoff is 1 s, 1.6, 120 s and 0.2.
    pub fn proportional(base: Duration, factor: f64, max: Duration, share: f64) -> Self {
        let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        Self { jitter: Jitter::Proportional(share), ..Self::full_jitter(base, factor, max) }
    }

    /// Sets the seed of the jitter.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        (self.random, self.is_seeded) = (fastrand::Rng::with_seed(seed), true);
        self
    }

    /// Returns another backoff with the same settings and jitter of its own, which is repeatable if this one is seeded: for
    /// each of many that retry independently.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self { random: self.random.fork(), attempt: 0, ..*self }
    }

    /// Returns the delay before the next attempt; each call makes the following one longer.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.delay_of(self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        self.jittered(delay)
    }

    /// Returns a delay between half the maximum and all of it, whatever the attempt: for errors that only an operator can
    /// correct.
    pub fn longest_delay(&mut self) -> Duration {
        self.max.mul_f64(0.5 + 0.5 * self.random.f64())
    }

    /// The maximum.
    pub(crate) fn longest(&self) -> Duration {
        self.max
    }

    /// Starts again at the base: after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    fn delay_of(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt).unwrap_or(i32::MAX);
        let seconds = self.base.as_secs_f64() * self.factor.powi(exponent);
        // Written so that infinity becomes the maximum too.
        if seconds < self.max.as_secs_f64() { Duration::from_secs_f64(seconds) } else { self.max }
    }

    fn jittered(&mut self, delay: Duration) -> Duration {
        match self.jitter {
            Jitter::Full => delay.mul_f64(self.random.f64()),
            Jitter::Proportional(share) => delay.mul_f64(1.0 + share * (2.0 * self.random.f64() - 1.0)),
        }
    }
}

impl Clone for Backoff {
    fn clone(&self) -> Self {
        let random = if self.is_seeded { self.random.clone() } else { fastrand::Rng::new() };
        Self { random, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn proportional_delays_grow_to_the_maximum_and_stay_within_their_share() {
        let mut backoff = Backoff::proportional(SECOND, 1.6, 120 * SECOND, 0.2).with_seed(1);
        let mut expected = 1.0_f64;
        for _ in 0..1000 {
            let delay = backoff.next_delay().as_secs_f64();
            assert!(
                delay >= expected * 0.8 - 1e-6 && delay <= expected * 1.2 + 1e-6,
                "{delay} for {expected}"
            );
            expected = (expected * 1.6).min(120.0);
        }
    }

    #[test]
    fn full_jitter_spreads_the_first_delay_too() {
        let firsts: Vec<_> = (0..100)
            .map(|seed| Backoff::full_jitter(SECOND, 2.0, 10 * SECOND).with_seed(seed).next_delay())
            .collect();
        assert!(firsts.iter().all(|delay| *delay <= SECOND));
        assert!(firsts.iter().any(|delay| *delay < SECOND / 4));
        assert!(firsts.iter().any(|delay| *delay > SECOND * 3 / 4));
    }

    #[test]
    fn the_longest_delay_is_at_least_half_the_maximum() {
        let mut backoff = Backoff::full_jitter(SECOND, 2.0, 10 * SECOND).with_seed(1);
        for _ in 0..100 {
            let delay = backoff.longest_delay();
            assert!((5 * SECOND..=10 * SECOND).contains(&delay), "{delay:?}");
        }
        assert!(backoff.next_delay() <= SECOND, "and it makes the next one no longer");
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let delays = || {
            let mut backoff = Backoff::full_jitter(SECOND, 2.0, 10 * SECOND).with_seed(42);
            (0..10).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(), delays());
    }

    #[test]
    fn no_setting_makes_a_delay_overflow() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, 1e300];
        for factor in odd {
            for share in odd {
                for max in [Duration::ZERO, SECOND, Duration::MAX] {
                    let mut backoff = Backoff::proportional(Duration::MAX, factor, max, share).with_seed(1);
                    let mut other = Backoff::proportional(SECOND, factor, max, share).with_seed(1);
                    for _ in 0..2000 {
                        assert!(backoff.next_delay() <= 2 * LONGEST);
                        assert!(other.next_delay() <= 2 * LONGEST);
                        assert!(backoff.longest_delay() <= LONGEST);
                    }
                }
            }
        }
    }

    #[test]
    fn a_clone_has_jitter_of_its_own_unless_it_was_seeded() {
        let delays = |mut backoff: Backoff| (0..10).map(|_| backoff.next_delay()).collect::<Vec<_>>();
        let unseeded = Backoff::full_jitter(SECOND, 2.0, 10 * SECOND);
        assert_ne!(delays(unseeded.clone()), delays(unseeded.clone()));
        let seeded = unseeded.with_seed(42);
        assert_eq!(delays(seeded.clone()), delays(seeded.clone()));
        let forks = |mut backoff: Backoff| [delays(backoff.fork()), delays(backoff.fork())];
        let [first, second] = forks(seeded.clone());
        assert_ne!(first, second);
        assert_eq!(forks(seeded), [first, second]);
    }
}
