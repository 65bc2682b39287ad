//! The settings of a registration.

use std::time::Duration;

/// The settings of [`keep_registered`](crate::keep_registered()).
#[derive(Debug, Clone)]
pub struct RegistrationConfig {
    pub(super) attempt_timeout: Duration,
    pub(super) deregister_timeout: Duration,
    pub(super) withdrawn: bool,
    pub(super) seed: Option<u64>,
}

impl RegistrationConfig {
    /// Sets the deadline of one call to the registry. Not zero. Default 5 s; a backend's own deadline is usually shorter.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sets how long [`RegistrationHandle::deregister`](crate::RegistrationHandle::deregister) waits for the registry's
    /// confirmation. Default 5 s.
    #[must_use]
    pub fn with_deregister_timeout(mut self, timeout: Duration) -> Self {
        self.deregister_timeout = timeout;
        self
    }

    /// Sets whether it begins as [`Withdrawn`](crate::RegistrationStatus::Withdrawn): then nothing is registered before
    /// [`RegistrationHandle::restore`](crate::RegistrationHandle::restore). Default `false`.
    #[must_use]
    pub fn with_withdrawn(mut self, withdrawn: bool) -> Self {
        self.withdrawn = withdrawn;
        self
    }

    /// Sets the seed of all jitter.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl Default for RegistrationConfig {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(5),
            deregister_timeout: Duration::from_secs(5),
            withdrawn: false,
            seed: None,
        }
    }
}
