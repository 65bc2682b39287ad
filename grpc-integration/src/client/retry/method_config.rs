//! The settings of a method.

use std::time::Duration;

use super::hedging_policy::HedgingPolicy;
use super::retry_policy::RetryPolicy;

/// The settings of one method, or of all methods of a service or a channel: gRPC's `methodConfig`, for
/// [`ChannelBuilder::method`](crate::ChannelBuilder::method).
///
/// ```
/// use std::time::Duration;
/// use hither_tonic::{MethodConfig, RetryPolicy};
///
/// let config = MethodConfig::default().with_timeout(Duration::from_secs(1)).with_retry(RetryPolicy::default());
/// ```
#[derive(Debug, Clone, Default)]
pub struct MethodConfig {
    pub(super) timeout: Option<Duration>,
    pub(super) wait_for_ready: Option<bool>,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) hedging: Option<HedgingPolicy>,
}

impl MethodConfig {
    /// Sets the timeout of calls that have none, which also caps the timeout of those that have one, in place of the
    /// channel's [`default_timeout`](crate::ChannelBuilder::default_timeout). Not zero.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets whether calls wait until an instance is ready, in place of the channel's
    /// [`wait_for_ready`](crate::ChannelBuilder::wait_for_ready). A [`WaitForReady`](crate::WaitForReady) of a call goes before.
    #[must_use]
    pub fn with_wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = Some(wait);
        self
    }

    /// Sends calls again that have failed. Not together with hedging.
    #[must_use]
    pub fn with_retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Sends calls to further instances before the first has answered. Not together with retries.
    #[must_use]
    pub fn with_hedging(mut self, policy: HedgingPolicy) -> Self {
        self.hedging = Some(policy);
        self
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err("its timeout is zero".to_owned());
        }
        match (&self.retry, &self.hedging) {
            (Some(_), Some(_)) => Err("it has both a retry policy and a hedging policy".to_owned()),
            (Some(retry), None) => retry.check(),
            (None, Some(hedging)) => hedging.check(),
            (None, None) => Ok(()),
        }
    }
}
