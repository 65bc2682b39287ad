//! The settings of a watcher.

use std::time::Duration;

use super::protection::Protection;
use crate::Backoff;

/// How a watch is kept up.
#[derive(Debug, Clone)]
pub struct WatcherConfig {
    pub(super) coalesce: Duration,
    pub(super) protection: Protection,
    pub(super) first_answer: Duration,
    pub(super) backoff: Backoff,
}

impl WatcherConfig {
    /// Sets how long changes are gathered after one went out. The first change of a burst goes out at once.
    /// Default 50 ms.
    #[must_use]
    pub fn with_coalesce(mut self, coalesce: Duration) -> Self {
        self.coalesce = coalesce;
        self
    }

    /// Sets when vanished instances are held.
    #[must_use]
    pub fn with_protection(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }

    /// Sets how long a new watch may take to bring its first snapshot before it is given up and opened again.
    /// Default 20 s, above any deadline of a backend's own.
    #[must_use]
    pub fn with_first_answer(mut self, within: Duration) -> Self {
        self.first_answer = within;
        self
    }

    /// Sets the delays between attempts. Default 0.2 s, doubling up to 10 s, with full jitter.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Draws all chance from this seed.
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
            protection: Protection::default(),
            first_answer: Duration::from_secs(20),
            backoff: Backoff::full_jitter(Duration::from_millis(200), 2.0, Duration::from_secs(10)),
        }
    }
}
