//! The builder of a channel, and the ways to one.

use std::sync::Arc;
use std::time::Duration;

use hither_core::{Address, Backoff, Discovery, Registries, ServiceName, Target};
use http::HeaderMap;
use http::uri::Authority;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::balance::{LeastRequest, LoadBalancingPolicy, Policy, SlowStart};
use super::call::CallConfig;
use super::call_headers::CallAuthority;
use super::channel::DiscoveryChannel;
use super::connector::{Connector, TcpConnector};
use super::health::HealthCheck;
use super::metrics::ChannelMetrics;
use super::outliers::OutlierDetection;
use super::pool::{Dialer, Pool, Renewals, SubchannelConfig};
use super::retry::{MethodConfig, Methods, MethodsConfig, RetryBudget, RetryThrottling};
use super::selection::Selection;
use super::server_key::ServerKeys;
use super::telemetry::Propagation;
use super::transport::{KeepaliveConfig, TransportConfig};
use crate::error::{BoxError, Error, ErrorKind, Result};

impl DiscoveryChannel {
    /// Returns a builder for a channel to `service`, as `discovery` finds it.
    ///
    /// Make one [`Discovery`] for each registry and give it to every channel, as a reference or a clone: the channels
    /// share one watch per service.
    ///
    /// ```
    /// use hither_core::{Discovery, StaticRegistry};
    /// use hither_tonic::DiscoveryChannel;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_tonic::Result<()> {
    /// # let registry = StaticRegistry::new([]);
    /// let discovery = Discovery::new(registry);
    /// let reads = DiscoveryChannel::builder(&discovery, "greeter").connect_lazy()?;
    /// let writes = DiscoveryChannel::builder(&discovery, "greeter").connect_lazy()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder<S>(discovery: impl Into<Discovery>, service: S) -> ChannelBuilder
    where
        S: TryInto<ServiceName>,
        S::Error: Into<BoxError>,
    {
        let service = service
            .try_into()
            .map_err(|error| Error::invalid_setting("the name of the service is invalid", error));
        ChannelBuilder::new(discovery.into(), service)
    }

    /// Returns a builder for a channel to a target such as `etcd:///greeter`, whose registry is looked up among
    /// `registries`.
    ///
    /// ```
    /// use hither_core::{Discovery, Registries, StaticRegistry};
    /// use hither_tonic::{DiscoveryChannel, RoundRobin};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_tonic::Result<()> {
    /// # let registry = StaticRegistry::new([]);
    /// let registries = Registries::new().with("etcd", Discovery::new(registry));
    /// let channel = DiscoveryChannel::for_target("etcd:///greeter", &registries)?
    ///     .policy(RoundRobin::default())
    ///     .connect_lazy()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for a target that cannot be parsed, or that names a registry which is not among
    /// `registries`.
    pub fn for_target(target: impl AsRef<str>, registries: &Registries) -> Result<ChannelBuilder> {
        let target: Target = target.as_ref().parse()?;
        let (discovery, service) = registries.resolve(&target)?;
        let mut builder = ChannelBuilder::new(discovery, Ok(service));
        builder.listed = address_list(&target);
        builder.target = Some(target.to_string());
        Ok(builder)
    }

    /// Connects to a target such as `etcd:///greeter`: short for [`for_target`](Self::for_target) with all
    /// defaults, and [`connect`](ChannelBuilder::connect).
    ///
    /// ```
    /// use hither_core::Registries;
    /// use hither_tonic::DiscoveryChannel;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = DiscoveryChannel::dial("etcd:///greeter", &Registries::new()).await.unwrap_err();
    /// assert!(error.to_string().contains("names a registry that was not added"));
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`for_target`](Self::for_target) and of [`connect`](ChannelBuilder::connect).
    pub async fn dial(target: impl AsRef<str>, registries: &Registries) -> Result<Self> {
        Self::for_target(target, registries)?.connect().await
    }
}

/// The addresses of `static:///host:port,host:port`, which names them and no service.
fn address_list(target: &Target) -> Option<Vec<Address>> {
    let addresses = target.endpoint().split(',').map(|text| text.trim().parse().ok());
    (target.scheme() == "static").then(|| addresses.collect()).flatten()
}

/// Builds a [`DiscoveryChannel`]: made by [`DiscoveryChannel::builder`] or [`DiscoveryChannel::for_target`], and
/// finished by [`connect`](Self::connect) or [`connect_lazy`](Self::connect_lazy), which return invalid settings as
/// errors.
#[derive(Debug)]
#[must_use = "nothing happens until it is connected"]
pub struct ChannelBuilder {
    discovery: Discovery,
    service: Result<ServiceName>,
    policy: Policy,
    selection: Selection,
    connector: Arc<dyn Connector>,
    authority: Option<Result<Authority>>,
    #[cfg(feature = "tls")]
    tls: Option<super::tls::ClientTls>,
    /// The addresses that the target lists. The authority of a call is then the one that it is sent to, unless one was
    /// set.
    listed: Option<Vec<Address>>,
    target: Option<String>,
    default_timeout: Option<Duration>,
    inherit_deadline: Option<Duration>,
    wait_for_ready: bool,
    propagation: Option<Propagation>,
    methods: MethodsConfig,
    connect_timeout: Duration,
    ready_timeout: Duration,
    max_connections: usize,
    outlier_detection: Option<OutlierDetection>,
    slow_start: Option<SlowStart>,
    health_check: Option<String>,
    backoff: Backoff,
    transport: TransportConfig,
}

impl ChannelBuilder {
    fn new(discovery: Discovery, service: Result<ServiceName>) -> Self {
        Self {
            discovery,
            service,
            policy: Policy::new(LeastRequest::default()),
            selection: Selection::default(),
            connector: Arc::new(TcpConnector::default()),
            authority: None,
            #[cfg(feature = "tls")]
            tls: None,
            listed: None,
            target: None,
            default_timeout: None,
            inherit_deadline: None,
            wait_for_ready: false,
            propagation: None,
            methods: MethodsConfig::default(),
            connect_timeout: Duration::from_secs(10),
            ready_timeout: Duration::from_secs(20),
            max_connections: 10,
            outlier_detection: None,
            slow_start: None,
            health_check: None,
            // gRPC's connection backoff.
            backoff: Backoff::proportional(Duration::from_secs(1), 1.6, Duration::from_secs(120), 0.2),
            transport: TransportConfig::default(),
        }
    }

    /// Sets the load balancing policy, which picks the instance for each call. Default [`LeastRequest`].
    pub fn policy(mut self, policy: impl LoadBalancingPolicy) -> Self {
        self.policy = Policy::new(policy);
        self
    }

    /// Sets which of the registered instances are connected to, and which of those take calls. Default: all. It can be
    /// [changed](DiscoveryChannel::set_selection) later.
    pub fn selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// Sets how byte streams are opened: for proxies and tunnels, for tests. Default [`TcpConnector`]. The TLS of
    /// `ChannelBuilder::tls` goes over it.
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.connector = Arc::new(connector);
        self
    }

    /// Calls instances over TLS, on top of what the [`connector`](Self::connector) opens. Feature `tls`.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: super::tls::ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

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

    /// Sets how long connecting to one address may take, until the peer's HTTP/2 SETTINGS have arrived, and how long
    /// resolving one host name may take. Not zero; default 10 s.
    ///
    /// The addresses of an instance, and those that its host names resolve to, are tried in turn, IPv6 and IPv4
    /// alternately, each 250 ms after the one before or as soon as that has failed (Happy Eyeballs, RFC 8305). The
    /// first that answers is used.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long [`connect`](Self::connect) waits for the first ready instance. Not zero; default
    /// 20 s.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout;
        self
    }

    /// Sets the maximum number of connections to one instance. A further one is only made while those that are open take no
    /// more streams (MAX_CONCURRENT_STREAMS, [`stream_window`](Self::stream_window)); when all are full, calls wait. Not 0;
    /// default 10.
    pub fn max_connections(mut self, most: usize) -> Self {
        self.max_connections = most;
        self
    }

    /// Leaves out instances that fail more than the others, for a while (gRFC A50). Default: none is left out. See
    /// [`OutlierDetection`] for when, for how long, and how many.
    pub fn outlier_detection(mut self, detection: OutlierDetection) -> Self {
        self.outlier_detection = Some(detection);
        self
    }

    /// Sets that an instance which has become ready comes to its share of the calls gradually. Default: at once.
    pub fn slow_start(mut self, slow_start: SlowStart) -> Self {
        self.slow_start = Some(slow_start);
        self
    }

    /// Watches the health of each instance (`grpc.health.v1.Health/Watch`, gRFC A17): it is called only while it reports
    /// SERVING for `service`, a name such as `helloworld.Greeter`, or `""` for the server as a whole. Default: health is not
    /// checked. (In gRPC's service config this is `healthCheckConfig.serviceName`.)
    ///
    /// On a new connection a stream is opened, and the instance counts as connecting until the first report, which takes one
    /// more round trip. When it reports NOT_SERVING, or SERVICE_UNKNOWN, it counts as failing (TRANSIENT_FAILURE): calls in
    /// flight go on, new ones go elsewhere, and its connections stay. So it is back with its next report.
    ///
    /// - A server without the health service (UNIMPLEMENTED) counts as healthy, which is logged once for a channel. So does
    ///   one that allows one stream at a time (MAX_CONCURRENT_STREAMS), because the calls need it; in grpc-go they would wait
    ///   for ever. Where it allows more, the watch takes one of them.
    /// - If there is no report within the [`connect_timeout`](Self::connect_timeout), if the stream fails before, or if it
    ///   brings something else than reports or more than 100 and then 10 a second, the instance counts as failing, and the
    ///   stream is opened again after the [`backoff`](Self::backoff).
    /// - If the stream ends after a report, as proxies end streams that are silent, the report counts until the next stream has
    ///   one; that is opened at once, before the calls that wait for a stream, or with backoff where streams end within a second.
    ///   While calls have all streams of the server, the last report counts, and the watch is tried again with that backoff.
    ///
    /// The stream is a call for keep-alive: a server that is silent otherwise is pinged, and so found if it freezes, once in five
    /// minutes. It is none for load balancing, and does not show that a server answers calls. Of several connections to one
    /// instance the oldest is watched.
    ///
    /// ```
    /// use hither_core::{Discovery, StaticRegistry};
    /// use hither_tonic::DiscoveryChannel;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_tonic::Result<()> {
    /// # let discovery = Discovery::new(StaticRegistry::new([]));
    /// let channel =
    ///     DiscoveryChannel::builder(&discovery, "greeter").health_check("helloworld.Greeter").connect_lazy()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn health_check(mut self, service: impl Into<String>) -> Self {
        self.health_check = Some(service.into());
        self
    }

    /// Sets the exponential backoff between failed attempts to connect to one instance. Default: gRPC's, 1 s × 1.6 up
    /// to 120 s, with a jitter of ± 20 %.
    ///
    /// HTTP/2 SETTINGS end it. A connection that was lost is made again at once, while calls wait; but after several in
    /// a row that answered no call, the instance counts as unreachable and this backoff applies, unless callers have given
    /// up calls on them. New certificates of `ClientTls` end it too.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets how many bytes of one response may arrive before they are read (HTTP/2's stream window), which bounds the
    /// memory of a stream that is not read: h2 adds some 300 bytes to each DATA frame, which is little unless a server
    /// sends tiny messages in frames of their own, as grpc-go does; then it is up to fifty times as much. Default 1 MiB, at
    /// least 64 KiB, at most 16 MiB.
    ///
    /// Over long distances a larger one is faster: a stream has one window per round trip at most. Measured at a round trip
    /// of 50 ms: 11 MiB/s with 1 MiB, 38 with 4 MiB, 112 with 16 MiB. The windows of all streams of a connection fit into
    /// that of the connection, which is always the largest, so that streams never hold each other back: at 1 MiB a
    /// connection has 2047 streams at most, at 16 MiB 127.
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.transport.stream_window = bytes.clamp(64 * 1024, 16 * 1024 * 1024);
        self
    }

    /// Sets the maximum size of a response's headers and of its trailers, with 32 bytes for each (HTTP/2's header
    /// list size). Of a response with more only the call fails, with RESOURCE_EXHAUSTED or INTERNAL; one of more
    /// than 2.5 times as much, and at least 40 MiB, may end its connection. Default 16 MiB.
    ///
    /// For the headers of requests the limit is the server's: one over what it has announced (tonic's servers announce
    /// 16 KiB) fails with RESOURCE_EXHAUSTED, unsent, and is not tried at another instance.
    pub fn max_response_headers(mut self, bytes: u32) -> Self {
        self.transport.max_response_headers = bytes;
        self
    }

    /// Sets after how long a silence a server that owes answers is pinged (HTTP/2 keep-alive, gRFC A8). Default 10 s;
    /// `None`: never.
    ///
    /// The silence is measured to half of this. Servers close connections on which they find too many pings, but not at
    /// the default settings here: at most two are sent in a row without an answer to a call in between, and then one in five
    /// minutes. So behind a watch that is silent for long, a server that freezes is detected within those five minutes and
    /// not sooner. Where a server closes a connection for too many pings nevertheless, the interval is doubled, up to
    /// sixteen times. At most a day.
    pub fn keepalive_interval(mut self, interval: Option<Duration>) -> Self {
        self.transport.keepalive.interval = interval;
        self
    }

    /// Sets how long a server may take to answer a keep-alive ping, or to send anything else, before its connection is
    /// closed and the calls on it fail with UNAVAILABLE. Default 10 s.
    pub fn keepalive_timeout(mut self, timeout: Duration) -> Self {
        self.transport.keepalive.timeout = timeout;
        self
    }

    /// Sets whether connections without a call are pinged as well, and at every interval. The server has to permit that:
    /// grpc-go and grpc-java do not by default. Default `false`.
    pub fn keepalive_while_idle(mut self, while_idle: bool) -> Self {
        self.transport.keepalive.while_idle = while_idle;
        self
    }

    /// Makes the channel and waits until the first instance is ready.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for an invalid setting, such as a timeout of zero;
    /// [`NotReady`](ErrorKind::NotReady), with the reason, if no instance was ready within the
    /// [`ready_timeout`](Self::ready_timeout).
    ///
    /// # Cancellation
    /// Drops the channel.
    pub async fn connect(self) -> Result<DiscoveryChannel> {
        let within = self.ready_timeout;
        let channel = self.connect_lazy()?;
        channel.wait_ready(within).await?;
        Ok(channel)
    }

    /// Makes the channel, which connects in the background. Calls may be made at once: they wait while the
    /// service is being resolved and its instances are being connected to.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for an invalid setting, such as a timeout of zero;
    /// [`Unexpected`](ErrorKind::Unexpected) outside a Tokio runtime.
    pub fn connect_lazy(self) -> Result<DiscoveryChannel> {
        self.check()?;
        let service = self.service?;
        let authority = match self.authority {
            Some(authority) => CallAuthority::Fixed(authority?),
            None if self.listed.is_some() => CallAuthority::PerInstance,
            None => CallAuthority::Fixed(authority_of(service.as_str())?),
        };
        if Handle::try_current().is_err() {
            let message = "a channel can only be made inside a Tokio runtime";
            return Err(Error::new(ErrorKind::Unexpected, message));
        }
        // Before anything is started.
        let methods = Methods::new(self.methods).map_err(Error::invalid_argument)?.map(Box::new);
        let (connector, renewals, server_keys) = (self.connector, Renewals::never(), ServerKeys::default());
        #[cfg(feature = "tls")]
        let (connector, renewals, server_keys) = match &self.tls {
            Some(tls) => {
                let known = self.listed.unwrap_or_default();
                let tls = super::tls::TlsConnector::new(connector, tls, &known)?;
                let renewals = Renewals::of(tls.changes());
                let server_keys = tls.server_keys();
                (Arc::new(tls) as Arc<dyn Connector>, renewals, server_keys)
            }
            None => (connector, renewals, server_keys),
        };
        let metrics = ChannelMetrics::new(self.target.as_deref().unwrap_or(service.as_str()));
        let health_check = self.health_check.map(|service| {
            HealthCheck::new(&service, authority.clone(), self.connect_timeout, self.backoff.clone())
        });
        let config = SubchannelConfig {
            server_keys,
            dialer: Dialer::new(connector, self.connect_timeout, self.transport),
            renewals,
            health_check,
            backoff: self.backoff,
            max_connections: self.max_connections,
            metrics: metrics.clone(),
        };
        let selection = watch::Sender::new(self.selection);
        let pool = Pool::start(
            self.discovery,
            service.clone(),
            self.policy,
            selection.subscribe(),
            self.outlier_detection,
            self.slow_start,
            config,
        );
        let call = CallConfig {
            authority,
            default_timeout: self.default_timeout,
            inherit_deadline: self.inherit_deadline,
            wait_for_ready: self.wait_for_ready,
            propagation: self.propagation,
            methods,
        };
        Ok(DiscoveryChannel::new(service, call, metrics, selection, pool))
    }

    /// Nothing could be done in no time, or over no connection. Settings with bounds in their docs are clamped there.
    fn check(&self) -> Result<()> {
        self.policy.check().map_err(Error::invalid_argument)?;
        self.selection.check()?;
        if let Some(detection) = &self.outlier_detection {
            detection.check()?;
        }
        if let Some(slow_start) = &self.slow_start {
            slow_start.check()?;
        }
        let is_zero = |duration: Option<Duration>| duration.is_some_and(|duration| duration.is_zero());
        let KeepaliveConfig { interval, timeout, .. } = self.transport.keepalive;
        for (invalid, setting) in [
            (is_zero(self.default_timeout), "default_timeout"),
            (is_zero(Some(self.connect_timeout)), "connect_timeout"),
            (is_zero(Some(self.ready_timeout)), "ready_timeout"),
            (is_zero(interval), "keepalive_interval"),
            (is_zero(Some(timeout)), "keepalive_timeout"),
            (self.max_connections == 0, "max_connections"),
        ] {
            if invalid {
                return Err(Error::invalid_argument(format!("{setting} is zero")));
            }
        }
        Ok(())
    }
}

/// The service's name as an authority, with what is not allowed there replaced.
fn authority_of(service: &str) -> Result<Authority> {
    if let Ok(authority) = service.parse::<Authority>()
        && !service.contains('@')
    {
        return Ok(authority);
    }
    let legal = service.chars().map(|c| match c {
        '/' => '.',
        c if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') => c,
        _ => '-',
    });
    let authority = legal.collect::<String>().parse::<Authority>();
    authority.map_err(|error| Error::invalid_setting("the name of the service makes no authority", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_name_makes_an_authority() {
        for (service, expected) in [
            ("greeter", "greeter"),
            ("greeter:80", "greeter:80"),
            ("grpc-demo/grpc/discover-demo", "grpc-demo.grpc.discover-demo"),
            ("a b", "a-b"),
            ("user@host", "user-host"),
            ("a:b:c", "a-b-c"),
            ("100%", "100-"),
            ("例え", "--"),
            ("[", "-"),
        ] {
            assert_eq!(authority_of(service).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn only_a_static_target_of_addresses_is_an_address_list() {
        for (target, expected) in [
            ("static:///10.0.0.1:80,[::1]:81", true),
            ("static:///greeter.internal:80, unix:///run/b", true),
            ("static:///greeter", false),
            ("etcd:///10.0.0.1:80", false),
        ] {
            assert_eq!(address_list(&target.parse().unwrap()).is_some(), expected, "{target}");
        }
    }
}
