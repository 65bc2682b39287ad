//! Retries: attempts one after the other.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hither_core::Backoff;
use tonic::Code;

use super::codes::Codes;

/// When failed calls of a method are sent again: gRPC's `retryPolicy` (gRFC A6), for
/// [`MethodConfig::with_retry`](crate::MethodConfig::with_retry).
///
/// An attempt is retried if it has failed with one of the codes, before anything of a response has arrived: a
/// response's headers commit the call. What a server refuses at once (a *trailers-only* response, as all servers send for a
/// handler that fails before its first message), a lost connection, and a proxy's 503 or 502 can be retried; a stream that
/// breaks off cannot. Each attempt is sent to an instance that this call has not tried yet, as long as there is one that has a
/// [weight](crate::ReadyInstance::weight); then it may be sent to the same one again. Weight 0 gets no retries while another is
/// ready: with a standby of weight 0 a call whose primary fails is retried at the primary.
///
/// ```
/// use std::time::Duration;
/// use hither_core::Backoff;
/// use hither_tonic::RetryPolicy;
/// use tonic::Code;
///
/// let policy = RetryPolicy::default()
///     .with_codes([Code::Unavailable, Code::ResourceExhausted])
///     .with_max_attempts(4)
///     .with_backoff(Backoff::proportional(Duration::from_millis(100), 2.0, Duration::from_secs(1), 0.2));
/// ```
///
/// # Arithmetic
///
/// The delay before the *n*-th retry is `min(initial × multiplier^(n-1), max)`, times a random number from 0.8 to 1.2: with
/// the defaults 80 to 120 ms, and then 160 to 240 ms. A server may ask for another delay by the header
/// `grpc-retry-pushback-ms` of its response; the one after that is the first again. If it asks for a negative one, one that
/// is no number, or more than two minutes, there is no other attempt.
///
/// The deadline of the call covers all attempts and delays. A retry that could not begin before it is not waited for:
/// the failure is returned at once.
///
/// # Which codes
///
/// UNAVAILABLE, the default, is what a connection that is lost under a call yields too: the server may have processed it.
/// Set a policy for methods that may be repeated, as reads may.
///
/// # What bounds it
///
/// The attempts of one call by their maximum; those of all calls by the channel's [`RetryBudget`](crate::RetryBudget), and
/// by [`RetryThrottling`](crate::RetryThrottling) if it is set. When they do not allow another attempt the caller gets the
/// failure, whole: its status, details and metadata are those of the server.
///
/// A stream's request is replayed from a buffer of 64 KiB; beyond that the call is committed to the attempt that it is
/// at.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    pub(super) max_attempts: u32,
    backoff: Backoff,
    codes: Codes,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            // The example of gRFC A6.
            backoff: Backoff::proportional(Duration::from_millis(100), 2.0, Duration::from_secs(1), 0.2),
            codes: Codes::from_iter([Code::Unavailable]),
        }
    }
}

impl RetryPolicy {
    /// Sets the maximum number of attempts, including the first. At least 2; more than
    /// [`ChannelBuilder::max_attempts`](crate::ChannelBuilder::max_attempts), by default 5, count as that many. Default 3.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the delays between attempts. Default: gRPC's example, 100 ms × 2 up to 1 s, with a jitter of ± 20 %.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets the status codes that are retried: at least one, and not OK. Default UNAVAILABLE.
    #[must_use]
    pub fn with_codes(mut self, codes: impl IntoIterator<Item = Code>) -> Self {
        self.codes = codes.into_iter().collect();
        self
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.max_attempts < 2 {
            return Err(format!("max_attempts of its retry policy is {}, not 2 or more", self.max_attempts));
        }
        if self.codes.is_empty() || self.codes.contains(Code::Ok) {
            return Err("the codes of its retry policy are none, or have OK among them".to_owned());
        }
        Ok(())
    }
}

/// The retries of a method.
#[derive(Debug)]
pub(crate) struct Retry {
    pub(crate) max_attempts: u32,
    codes: Codes,
    /// That of each call is a fork of it.
    backoff: Mutex<Backoff>,
}

impl Retry {
    pub(super) fn new(policy: RetryPolicy, most_attempts: u32) -> Self {
        let max_attempts = policy.max_attempts.min(most_attempts);
        Self { max_attempts, codes: policy.codes, backoff: Mutex::new(policy.backoff) }
    }

    pub(crate) fn is_retryable(&self, code: Code) -> bool {
        self.codes.contains(code)
    }

    /// Returns the backoff of one call.
    pub(crate) fn backoff(&self) -> Backoff {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }
}
