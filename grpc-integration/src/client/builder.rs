//! How a channel is to be.

use std::sync::Arc;
use std::time::Duration;

use hither_core::{Backends, Backoff, Discovery, Error, ErrorKind, Result, ServiceName, Target};
use http::uri::Authority;
use tokio::runtime::Handle;

use super::balance::{LeastRequest, LoadBalancingPolicy};
use super::call::Settings;
use super::channel::DiscoveryChannel;
use super::connector::{Connector, TcpConnector};
use super::pool::{Dialer, Pool, SubchannelConfig};
use crate::error::BoxError;

impl DiscoveryChannel {
    /// Describes a channel to `service`, which `discovery` finds: a [`Discovery`], or any resolver.
    ///
    /// Channels that share one [`Discovery`] share one watch per service.
    pub fn builder<S>(discovery: impl Into<Discovery>, service: S) -> ChannelBuilder
    where
        S: TryInto<ServiceName>,
        S::Error: Into<BoxError>,
    {
        ChannelBuilder::new(discovery.into(), service.try_into().map_err(Into::into))
    }

    /// Connects to a target such as `etcd:///greeter`, whose registry is looked up among `backends`; all else
    /// is as [`builder`](Self::builder) has it by default.
    ///
    /// ```
    /// use hither_core::Backends;
    /// use hither_tonic::DiscoveryChannel;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = DiscoveryChannel::dial("etcd:///greeter", &Backends::new()).await.unwrap_err();
    /// assert!(error.to_string().contains("names a registry that is not known here"));
    /// # }
    /// ```
    ///
    /// # Errors `InvalidArgument` for a target that cannot be understood or names a registry that is not
    /// there; otherwise those of [`connect`](ChannelBuilder::connect).
    pub async fn dial(target: impl AsRef<str>, backends: &Backends) -> Result<Self> {
        let target: Target = target.as_ref().parse()?;
        let (discovery, service) = backends.resolve(&target)?;
        Self::builder(discovery, service).connect().await
    }
}

/// Describes a channel: made by [`DiscoveryChannel::builder`], and done with [`connect`](Self::connect) or
/// [`connect_lazy`](Self::connect_lazy).
///
/// What cannot be used is told by these two.
#[derive(Debug)]
#[must_use = "nothing happens until it is connected"]
pub struct ChannelBuilder {
    discovery: Discovery,
    service: Result<ServiceName>,
    policy: Arc<dyn LoadBalancingPolicy>,
    connector: Arc<dyn Connector>,
    authority: Option<Result<Authority>>,
    default_timeout: Option<Duration>,
    wait_for_ready: bool,
    connect_timeout: Duration,
    ready_timeout: Duration,
    max_connections: usize,
    backoff: Backoff,
}

impl ChannelBuilder {
    fn new(discovery: Discovery, service: Result<ServiceName, BoxError>) -> Self {
        Self {
            discovery,
            service: service.map_err(|error| invalid("the name of the service cannot be used", error)),
            policy: Arc::new(LeastRequest::default()),
            connector: Arc::new(TcpConnector::default()),
            authority: None,
            default_timeout: None,
            wait_for_ready: false,
            connect_timeout: Duration::from_secs(10),
            ready_timeout: Duration::from_secs(20),
            max_connections: 10,
            // gRPC's connection backoff.
            backoff: Backoff::proportional(Duration::from_secs(1), 1.6, Duration::from_secs(120), 0.2),
        }
    }

    /// Sets which of the ready instances a call goes to. Default [`LeastRequest`].
    pub fn policy(mut self, policy: impl LoadBalancingPolicy) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Sets how byte streams are opened: for TLS, for proxies, for tests. Default [`TcpConnector`].
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.connector = Arc::new(connector);
        self
    }

    /// Sets what calls carry as `:authority`. Default: the name of the service, as Go has it; but what must
    /// not stand in an authority becomes `-`, and `/` becomes `.`, where Go writes escapes that Rust's
    /// servers refuse.
    pub fn authority<A>(mut self, authority: A) -> Self
    where
        A: TryInto<Authority>,
        A::Error: Into<BoxError>,
    {
        let authority =
            authority.try_into().map_err(|error| invalid("the authority cannot be used", error.into()));
        self.authority = Some(authority);
        self
    }

    /// Sets how long a call may take that does not say, and the most for one that does: from the call to the
    /// end of its response's body, so it also ends streams. Default: as long as it takes.
    pub fn default_timeout(mut self, timeout: Duration) -> Self {
        self.default_timeout = Some(timeout);
        self
    }

    /// Sets whether calls wait until an instance is ready, instead of failing when nobody is. A single call
    /// says otherwise with [`WaitForReady`](crate::WaitForReady). Default `false`.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Sets how long one address may take from the first packet until it has spoken HTTP/2. Default 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long [`connect`](Self::connect) waits for the first ready instance. Default 20 s.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout;
        self
    }

    /// Sets how many connections there may be to one instance; a second one is only made while its server
    /// allows no more streams on the first. When all are full, calls wait. At least 1, default 10.
    pub fn max_connections(mut self, most: usize) -> Self {
        self.max_connections = most.max(1);
        self
    }

    /// Sets the delays between attempts to connect to one instance. Default: gRPC's, 1 s × 1.6 up to 120 s, ±
    /// 20 %.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Makes the channel, and waits until the first instance is ready.
    ///
    /// # Errors
    /// `InvalidArgument` for what the builder was given; `Timeout` when nobody was ready within the
    /// [`ready_timeout`](Self::ready_timeout), saying why.
    ///
    /// # Cancellation
    /// Drops the channel.
    pub async fn connect(self) -> Result<DiscoveryChannel> {
        let within = self.ready_timeout;
        let channel = self.connect_lazy()?;
        channel.wait_ready(within).await?;
        Ok(channel)
    }

    /// Makes the channel, which begins to connect in the background. Calls may be made at once: they wait
    /// while the service is being resolved and its instances are connecting.
    ///
    /// # Errors
    /// `InvalidArgument` for what the builder was given; `Unexpected` outside a Tokio runtime.
    pub fn connect_lazy(self) -> Result<DiscoveryChannel> {
        let service = self.service?;
        let authority = match self.authority {
            Some(authority) => authority?,
            None => authority_of(&service)?,
        };
        if Handle::try_current().is_err() {
            let why = "a channel can only be made inside a Tokio runtime";
            return Err(Error::new(ErrorKind::Unexpected, why).with_operation("connect"));
        }
        let config = SubchannelConfig {
            dialer: Dialer { connector: self.connector, timeout: self.connect_timeout },
            backoff: self.backoff,
            max_connections: self.max_connections,
        };
        let (shared, pool) = Pool::start(self.discovery, service.clone(), self.policy, config);
        let settings = Settings {
            authority,
            default_timeout: self.default_timeout,
            wait_for_ready: self.wait_for_ready,
        };
        Ok(DiscoveryChannel::new(service, shared, settings, pool))
    }
}

/// The service's name, as far as it can stand in an authority.
fn authority_of(service: &ServiceName) -> Result<Authority> {
    if let Ok(authority) = service.as_str().parse::<Authority>()
        && !service.as_str().contains('@')
    {
        return Ok(authority);
    }
    let legal = service.as_str().chars().map(|c| match c {
        '/' => '.',
        c if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') => c,
        _ => '-',
    });
    let authority = legal.collect::<String>().parse::<Authority>();
    authority.map_err(|error| invalid("the service's name cannot be an authority", error.into()))
}

fn invalid(what: &'static str, error: BoxError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => {
            Error::new(ErrorKind::InvalidArgument, format!("{what}: {error}")).with_operation("connect")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_service_gives_an_authority() {
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
            let service = ServiceName::new(service).unwrap();
            assert_eq!(authority_of(&service).unwrap().as_str(), expected);
        }
    }
}
