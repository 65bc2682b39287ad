//! The settings of a watcher.

use std::time::Duration;

use super::protection::ProtectionConfig;
use crate::Backoff;

/// The settings of a [`watcher`](crate::watcher()).
#[derive(Debug, Clone)]
pub struct WatcherConfig {
    pub(super) coalesce: Duration,
    pub(super) protection: ProtectionConfig,
    pub(super) first_answer: Duration,
    pub(super) backoff: Backoff,
}

impl WatcherConfig {
    /// Sets how long changes are coalesced after an update was sent: one that comes sooner waits for the rest of this time, with
    /// all that come meanwhile. So a deployment, or a mass loss, is a few updates and not one for each instance, each of which
    /// all consumers would work on. The first change of a burst is sent at once, and so is the first new instance after an
    /// update that only took instances away: it may be all there is. Default 50 ms.
    #[must_use]
    pub fn with_coalesce(mut self, coalesce: Duration) -> Self {
        self.coalesce = coalesce;
        self
    }

    /// Sets when instances that were removed in bulk are held.
    #[must_use]
    pub fn with_protection(mut self, protection: ProtectionConfig) -> Self {
        self.protection = protection;
        self
    }

    /// Sets the deadline for the first snapshot of a new watch; after it the watch is opened again.
    /// Default 20 s, above any deadline of a backend's own.
    #[must_use]
    pub fn with_first_answer(mut self, within: Duration) -> Self {
        self.first_answer = within;
        self
    }

    /// Sets the backoff between attempts. Default: exponential from 0.2 s to 10 s, with full jitter.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets the seed of all jitter.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.backoff = self.backoff.with_seed(seed);
        self
    }
}

impl Default for WatcherConfig {
    fn default() -> Self {
        Self {
            coalesce: Duration::from_millis(50),
            protection: ProtectionConfig::default(),
            first_answer: Duration::from_secs(20),
            backoff: Backoff::full_jitter(Duration::from_millis(200), 2.0, Duration::from_secs(10)),
        }
    }
}
