//! The settings of a registration.

use std::time::Duration;

/// How a registration is kept.
#[derive(Debug, Clone)]
pub struct KeepAliveConfig {
    pub(super) attempt_timeout: Duration,
    pub(super) deregister_timeout: Duration,
    pub(super) seed: Option<u64>,
}

impl KeepAliveConfig {
    /// Sets how long one call to the registry may take. Default 5 s; a backend's own deadline is usually shorter.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sets how long [`RegistrationHandle::deregister`] waits for the registry's word. Default 5 s.
    #[must_use]
    pub fn with_deregister_timeout(mut self, timeout: Duration) -> Self {
        self.deregister_timeout = timeout;
        self
    }

    /// Draws all chance from this seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl Default for KeepAliveConfig {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(5),
            deregister_timeout: Duration::from_secs(5),
            seed: None,
        }
    }
}
