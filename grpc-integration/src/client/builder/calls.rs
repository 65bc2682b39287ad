//! Settings of calls.

use std::time::Duration;

use http::HeaderMap;
use http::uri::Authority;

use super::ChannelBuilder;
use crate::client::retry::{MethodConfig, RetryBudget, RetryThrottling};
use crate::client::telemetry::Propagation;
use crate::error::{BoxError, Error};

impl ChannelBuilder {
    /// Sets the `:authority` of calls.
    ///
    /// Default: the name of the service, as in Go; but a character that is not allowed in an authority becomes `-`,
    /// and `/` becomes `.`, where Go sends escapes that Rust's servers refuse. Calls to a `static:///` list of
    /// addresses, which names no service, carry the address that they are sent to (`localhost` for a Unix domain
    /// socket).
    pub fn authority<A>(mut self, authority: A) -> Self
    where
        A: TryInto<Authority>,
        A::Error: Into<BoxError>,
    {
        self.authority = Some(
            authority.try_into().map_err(|error| Error::invalid_setting("the authority is invalid", error)),
        );
        self
    }

    /// Sets the timeout of calls that have none, which also caps the timeout of those that have one. It covers the
    /// call to the end of its response's body, so it ends streams too. Not zero. Default: none.
    pub fn default_timeout(mut self, timeout: Duration) -> Self {
        self.default_timeout = Some(timeout);
        self
    }

    /// Ends calls that a handler makes `margin` before its own caller stops waiting, so that it can still answer. Servers
    /// take note of that by a [`DeadlineLayer`](https://docs.rs/hither-tonic/latest/hither_tonic/struct.DeadlineLayer.html);
    /// see [`CallDeadline`](crate::CallDeadline) for tasks that a handler spawns. Default: calls know nothing of the one
    /// that is being served.
    ///
    /// The deadline of such a call is the earliest of this, its own timeout and the [`default_timeout`](Self::default_timeout).
    /// One for which no time is left fails with DEADLINE_EXCEEDED and is not sent. Outside of a handler nothing changes.
    pub fn inherit_deadline(mut self, margin: Duration) -> Self {
        self.inherit_deadline = Some(margin);
        self
    }

    /// Sets whether calls wait until an instance is ready, instead of failing when none is. A single call
    /// overrides it with [`WaitForReady`](crate::WaitForReady). Default `false`.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Sets what writes the trace of a call into the headers of each attempt, such as `traceparent`. It runs inside of the
    /// attempt's span, whose context is then the parent of the server's spans: retries are told apart. Default: nothing;
    /// an interceptor of the program's runs before the call, and so propagates the context of what has made it.
    ///
    /// ```
    /// # use hither_core::{Discovery, StaticRegistry};
    /// use hither_tonic::DiscoveryChannel;
    /// use tracing::Span;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_tonic::Result<()> {
    /// # let discovery = Discovery::new(StaticRegistry::new([]));
    /// let channel = DiscoveryChannel::builder(&discovery, "greeter")
    ///     .propagate(|headers| {
    ///         // With tracing-opentelemetry the context of this span, written by the process' propagator.
    ///         if let Some(id) = Span::current().id() {
    ///             headers.insert("x-span", id.into_u64().into());
    ///         }
    ///     })
    ///     .connect_lazy()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [docs/observability.md](https://github.com/hither-rs/hither/blob/main/docs/observability.md) has the function for
    /// OpenTelemetry.
    ///
    /// If it panics the call fails with INTERNAL.
    pub fn propagate(mut self, inject: impl Fn(&mut HeaderMap) + Send + Sync + 'static) -> Self {
        self.propagation = Some(Propagation::new(inject));
        self
    }

    /// Sets how calls of one method are made (`helloworld.Greeter/SayHello`), of all methods of a service
    /// (`helloworld.Greeter`), or of all (an empty name). The settings of the most specific name count, and no others.
    ///
    /// It is gRPC's `methodConfig`, from code:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use hither_core::{Discovery, StaticRegistry};
    /// # use hither_tonic::{DiscoveryChannel, HedgingPolicy, MethodConfig, RetryPolicy};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_tonic::Result<()> {
    /// # let discovery = Discovery::new(StaticRegistry::new([]));
    /// let second = Duration::from_secs(1);
    /// let reads = MethodConfig::default().with_timeout(second).with_retry(RetryPolicy::default());
    /// let search = MethodConfig::default().with_hedging(HedgingPolicy::after_percentile(0.95));
    /// let channel = DiscoveryChannel::builder(&discovery, "shop")
    ///     .method("", MethodConfig::default().with_timeout(5 * second))
    ///     .method("shop.Catalog", reads)
    ///     .method("shop.Catalog/Search", search)
    ///     .connect_lazy()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// | service config | here |
    /// |---|---|
    /// | `methodConfig.name` | the name |
    /// | `timeout`, `waitForReady` | [`MethodConfig::with_timeout`], [`with_wait_for_ready`](MethodConfig::with_wait_for_ready) |
    /// | `retryPolicy.maxAttempts`, `retryableStatusCodes` | [`RetryPolicy::with_max_attempts`](crate::RetryPolicy::with_max_attempts), [`with_codes`](crate::RetryPolicy::with_codes) |
    /// | `initialBackoff`, `backoffMultiplier`, `maxBackoff` | [`RetryPolicy::with_backoff`](crate::RetryPolicy::with_backoff) |
    /// | `hedgingPolicy.hedgingDelay` | [`HedgingPolicy::after`](crate::HedgingPolicy::after) |
    /// | `hedgingPolicy.maxAttempts`, `nonFatalStatusCodes` | [`HedgingPolicy::with_max_attempts`](crate::HedgingPolicy::with_max_attempts), [`with_non_fatal_codes`](crate::HedgingPolicy::with_non_fatal_codes) |
    /// | `retryThrottling` | [`retry_throttling`](Self::retry_throttling) |
    /// | a channel's limit of attempts (`WithMaxCallAttempts`, `maxRetryAttempts`) | [`max_attempts`](Self::max_attempts) |
    pub fn method(mut self, name: impl Into<String>, config: MethodConfig) -> Self {
        self.methods.methods.push((name.into(), config));
        self
    }

    /// Sets how many attempts a call may have, whatever the policy of its method allows. Not 0; 1: nothing is retried or
    /// hedged. Default 5, gRPC's.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.methods.max_attempts = attempts;
        self
    }

    /// Sets how many retries and hedges all calls together may cost. Default: 20 % of the calls, and 10 per second.
    pub fn retry_budget(mut self, budget: RetryBudget) -> Self {
        self.methods.budget = budget;
        self
    }

    /// Stops retries and hedges while too many attempts fail, as gRPC's `retryThrottling` does. Default: the
    /// [`retry_budget`](Self::retry_budget) alone.
    pub fn retry_throttling(mut self, throttling: RetryThrottling) -> Self {
        self.methods.throttling = Some(throttling);
        self
    }
}
