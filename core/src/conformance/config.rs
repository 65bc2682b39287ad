//! The timing of the registry under test.

use std::time::Duration;

/// How fast and how exact the registry under test is.
#[derive(Debug, Clone)]
pub struct HarnessConfig {
    min_ttl: Duration,
    granularity: Duration,
    settle: Duration,
    deadline: Duration,
}

impl HarnessConfig {
    /// Sets the smallest TTL that the registry grants. Default 1 s.
    #[must_use]
    pub fn with_min_ttl(mut self, ttl: Duration) -> Self {
        self.min_ttl = ttl;
        self
    }

    /// Sets how long after its TTL a record may still be there. Default 1 s.
    #[must_use]
    pub fn with_granularity(mut self, granularity: Duration) -> Self {
        self.granularity = granularity;
        self
    }

    /// Sets the longest time until a reader sees a change, and until the registry works again after a disturbance.
    /// Default 5 s.
    #[must_use]
    pub fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Sets the longest time until a call that gets no response ends, connecting included, and until a watch of a
    /// silent registry ends. Default 10 s.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub(super) fn min_ttl(&self) -> Duration {
        self.min_ttl
    }

    pub(super) fn granularity(&self) -> Duration {
        self.granularity
    }

    pub(super) fn settle(&self) -> Duration {
        self.settle
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }
}

impl Default for HarnessConfig {
    fn default() -> Self {
        Self {
            min_ttl: Duration::from_secs(1),
            granularity: Duration::from_secs(1),
            settle: Duration::from_secs(5),
            deadline: Duration::from_secs(10),
        }
    }
}
