//! How many calls have succeeded and failed.

use std::ops::{Add, AddAssign, Sub};
use std::sync::atomic::{AtomicU64, Ordering};

/// What calls have come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
}

impl Counts {
    pub(crate) fn total(self) -> u64 {
        self.succeeded + self.failed
    }

    /// Returns the share that has succeeded, which is 1 without calls.
    pub(crate) fn success_rate(self) -> f64 {
        if self.total() == 0 { 1.0 } else { self.succeeded as f64 / self.total() as f64 }
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { succeeded: self.succeeded + other.succeeded, failed: self.failed + other.failed }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Counts {
    type Output = Self;

    /// Not below zero: the two may have been read while calls were counted.
    fn sub(self, other: Self) -> Self {
        Self {
            succeeded: self.succeeded.saturating_sub(other.succeeded),
            failed: self.failed.saturating_sub(other.failed),
        }
    }
}

/// Counts that calls add to.
#[derive(Debug, Default)]
pub(super) struct Counter {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Counter {
    pub(super) fn add(&self, is_failure: bool) {
        let counter = if is_failure { &self.failed } else { &self.succeeded };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn load(&self) -> Counts {
        Counts {
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    pub(super) fn store(&self, counts: Counts) {
        self.succeeded.store(counts.succeeded, Ordering::Relaxed);
        self.failed.store(counts.failed, Ordering::Relaxed);
    }

    /// Returns the counts, and begins at zero.
    pub(super) fn take(&self) -> Counts {
        Counts {
            succeeded: self.succeeded.swap(0, Ordering::Relaxed),
            failed: self.failed.swap(0, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_between_two_reads_makes_no_difference_below_zero() {
        let (one, other) = (Counts { succeeded: 1, failed: 5 }, Counts { succeeded: 3, failed: 4 });
        assert_eq!(one - other, Counts { succeeded: 0, failed: 1 });
        assert_eq!(other - one, Counts { succeeded: 2, failed: 0 });
    }
}
