//! Who wrote a record: told from the id of its lease.

use std::sync::atomic::{AtomicU32, Ordering};

/// Chooses the lease ids of one registrar: its random mark in the upper 31 bits, below it a number that runs from
/// somewhere random.
///
/// So a registrar knows its own leases again with nothing to remember, also those of calls that timed out, and
/// knows the earlier of two. That two registrars which contend for one id have the same mark is a chance of one in
/// two thousand million.
#[derive(Debug)]
pub(crate) struct LeaseIds {
    mark: i64,
    next: AtomicU32,
}

impl LeaseIds {
    pub(crate) fn new() -> Self {
        Self { mark: i64::from(fastrand::i32(1..)), next: AtomicU32::new(fastrand::u32(..1 << 31)) }
    }

    /// An id that this registrar has not used before.
    pub(crate) fn next_lease(&self) -> i64 {
        self.mark << 32 | i64::from(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether `lease` is one of ours, and from before `current`.
    pub(crate) fn is_earlier(&self, lease: i64, current: i64) -> bool {
        lease >> 32 == self.mark && lease < current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrar_knows_its_own_earlier_leases() {
        let (ours, others) =
            (LeaseIds { mark: 7, next: AtomicU32::new(1) }, LeaseIds { mark: 8, next: AtomicU32::new(1) });
        let (first, second) = (ours.next_lease(), ours.next_lease());
        assert!(first > 0);
        assert!(ours.is_earlier(first, second));
        assert!(!ours.is_earlier(second, first));
        assert!(!ours.is_earlier(first, first));
        assert!(!ours.is_earlier(others.next_lease(), second));
        assert!(!others.is_earlier(first, others.next_lease()));
    }
}
