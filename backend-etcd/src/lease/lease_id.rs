//! Lease ids: they identify the registrar that wrote a record.

use std::sync::atomic::{AtomicU32, Ordering};

/// The lease ids of one registrar: its random mark in the upper 31 bits, and below a counter that starts at random.
///
/// So a registrar recognises its own leases without any state, including those of requests that timed out, and knows the
/// earlier of two. The chance that two registrars that contend for one id have the same mark is one in two thousand million.
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

    /// Whether `lease` belongs to this registrar, and was granted before `current`.
    pub(crate) fn is_earlier(&self, lease: i64, current: i64) -> bool {
        lease >> 32 == self.mark && lease < current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrar_recognises_its_own_earlier_leases() {
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
