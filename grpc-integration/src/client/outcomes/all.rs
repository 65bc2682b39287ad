//! The outcomes of all calls of a channel, and which instances are to be looked at.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::counts::{Counter, Counts};

/// The outcomes of all instances of a channel together.
#[derive(Debug, Default)]
pub(crate) struct AllOutcomes {
    consecutive_failures: Option<u32>,
    /// Since the channel was made.
    counts: Counter,
    /// At the last sweep, and at the one before.
    last: Counter,
    before: Counter,
    /// The instances that are to be looked at.
    listed: Mutex<Vec<u64>>,
    notify: Notify,
}

impl AllOutcomes {
    /// `consecutive_failures`: how many failures in a row an instance is looked at for.
    pub(crate) fn new(consecutive_failures: Option<u32>) -> Self {
        Self { consecutive_failures, ..Self::default() }
    }

    pub(super) fn consecutive_failures(&self) -> Option<u32> {
        self.consecutive_failures
    }

    pub(super) fn add(&self, is_failure: bool) {
        self.counts.add(is_failure);
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.load()
    }

    /// Returns the counts of this interval and the one before.
    pub(super) fn recent(&self) -> Counts {
        self.counts.load() - self.before.load()
    }

    /// An interval has ended for all instances.
    pub(crate) fn sweep(&self) {
        self.before.store(self.last.load());
        self.last.store(self.counts.load());
    }

    /// Seldom: for what an instance is ejected, or for what ends its ejection.
    pub(super) fn list(&self, number: u64) {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        self.notify.notify_one();
    }

    /// Waits for an instance to look at. Completes at once if there was one since the last time.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Returns the instances to look at.
    pub(crate) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.listed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
