//! The builder of a server's lifecycle.

use std::sync::Arc;
use std::time::Duration;

use hither_core::{Address, Instance, Registrar, Registration, RegistrationStatus, ServiceName};
use tokio::sync::watch;

use super::advertised::{Advertised, Describe};
use super::config::{self, LifecycleConfig};
use super::ip_source::IpSource;
use super::readiness::Readiness;
use super::registrations::StatusListener;
use super::signals::Signals;
use crate::error::{BoxError, Error};

/// Builds a [`Lifecycle`](crate::Lifecycle): made by [`Lifecycle::builder`](crate::Lifecycle::builder), and finished by [`bind`](Self::bind),
/// [`bind_unix`](Self::bind_unix) or [`listen`](Self::listen), which return invalid settings as errors.
#[derive(Debug)]
#[must_use = "nothing happens until it is bound and served"]
pub struct LifecycleBuilder {
    pub(super) config: LifecycleConfig,
    pub(super) services: Vec<(ServiceName, Describe)>,
    pub(super) listener: Option<StatusListener>,
    pub(super) signals: Option<Signals>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<super::tls::ServerTls>,
    pub(super) advertised: Vec<Advertised>,
    pub(super) describe: Describe,
    pub(super) max_age: Option<Duration>,
    pub(super) max_age_grace: Option<Duration>,
    pub(super) invalid: Option<Error>,
}

impl LifecycleBuilder {
    /// The [`announce_delay`](Self::announce_delay) that is not set.
    pub const DEFAULT_ANNOUNCE_DELAY: Duration = config::ANNOUNCE_DELAY;
    /// The [`propagation_delay`](Self::propagation_delay) that is not set.
    pub const DEFAULT_PROPAGATION_DELAY: Duration = config::PROPAGATION_DELAY;
    /// The [`drain_timeout`](Self::drain_timeout) that is not set.
    pub const DEFAULT_DRAIN_TIMEOUT: Duration = config::DRAIN_TIMEOUT;
    /// The [`registry_timeout`](Self::registry_timeout) that is not set.
    pub const DEFAULT_REGISTRY_TIMEOUT: Duration = config::REGISTRY_TIMEOUT;
    /// How long a server may take to end at most, once all its connections are cut: the last part of a shutdown, after the
    /// times above. It is no setting.
    pub const AFTER_THE_CUT: Duration = config::AFTER_THE_CUT;

    pub(super) fn new(registrar: Arc<dyn Registrar>) -> Self {
        Self {
            config: LifecycleConfig::new(registrar),
            services: Vec::new(),
            listener: None,
            signals: None,
            #[cfg(feature = "tls")]
            tls: None,
            advertised: Vec::new(),
            describe: Describe::default(),
            max_age: None,
            max_age_grace: None,
            invalid: None,
        }
    }

    /// Adds a service to register under; at least one is needed.
    pub fn service<S>(self, service: S) -> Self
    where
        S: TryInto<ServiceName>,
        S::Error: Into<BoxError>,
    {
        self.service_with(service, |instance| instance)
    }

    /// Adds a service to register under, with a description of its own: `describe` gets the instance that
    /// [`instance`](Self::instance) has described, and returns it with another weight, version or metadata.
    ///
    /// ```
    /// # use hither_tonic::Lifecycle;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hither_tonic::Error> {
    /// # let registry = hither_memory::MemoryRegistry::new();
    /// let server = Lifecycle::builder(registry)
    ///     .service("greeter")
    ///     .service_with("admin", |instance| instance.with_weight(5).with_version("2.0"))
    ///     .bind("127.0.0.1:0")
    ///     .await?;
    /// let weights: Vec<_> = server.registrations().iter().map(|each| each.instance().weight()).collect();
    /// assert_eq!(weights, [1, 5]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn service_with<S>(
        mut self,
        service: S,
        describe: impl FnOnce(Instance) -> Instance + Send + Sync + 'static,
    ) -> Self
    where
        S: TryInto<ServiceName>,
        S::Error: Into<BoxError>,
    {
        if let Some(service) = self.parsed("the name of the service is invalid", service.try_into()) {
            let known = self.services.iter().position(|(known, _)| *known == service);
            let at = known.unwrap_or_else(|| {
                self.services.push((service, Describe::default()));
                self.services.len() - 1
            });
            self.services[at].1.push(describe);
        }
        self
    }

    /// Sets the address that clients call; port 0 is replaced by the bound port. Called again, it adds a further
    /// address of the same server. Default: the address that the server listens on.
    pub fn advertise<A>(mut self, address: A) -> Self
    where
        A: TryInto<Address>,
        A::Error: Into<BoxError>,
    {
        if let Some(address) = self.parsed("the advertised address is invalid", address.try_into()) {
            self.advertised.push(Advertised::Address(address));
        }
        self
    }

    /// Sets where the IP address that clients call comes from, such as a variable of the environment; its port is the one
    /// that the server listens on. It is an address of the same server beside those of [`advertise`](Self::advertise).
    ///
    /// An address that cannot be had, or that the server does not listen on, is an `InvalidArgument` of
    /// [`bind`](Self::bind).
    pub fn advertise_ip(mut self, source: IpSource) -> Self {
        self.advertised.push(Advertised::Ip(source));
        self
    }

    /// Describes the instance to register under every service: `describe` gets one with the advertised addresses, whose id is the
    /// text of the first of them, and returns it with its zone, version, weight, metadata or another id. May be
    /// called several times.
    ///
    /// ```
    /// # use hither_tonic::Lifecycle;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hither_tonic::Error> {
    /// # let registry = hither_memory::MemoryRegistry::new();
    /// let server = Lifecycle::builder(registry)
    ///     .service("greeter")
    ///     .instance(|instance| instance.with_zone("eu-1a").with_metadata("shard", "3"))
    ///     .bind("127.0.0.1:0")
    ///     .await?;
    /// assert_eq!(server.registrations()[0].instance().zone(), Some("eu-1a"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn instance(mut self, describe: impl FnOnce(Instance) -> Instance + Send + Sync + 'static) -> Self {
        self.describe.push(describe);
        self
    }

    /// Sets how long the record outlives a server that dies without deregistering. Default
    /// [`Registration::DEFAULT_TTL`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// Drives this health reporter: the whole server (the empty name) and each of `services`, the names in the
    /// protos, become SERVING just before the server is registered, and NOT_SERVING on shutdown. Default: none.
    #[cfg(feature = "health")]
    pub fn health<N: Into<String>>(
        mut self,
        reporter: tonic_health::server::HealthReporter,
        services: impl IntoIterator<Item = N>,
    ) -> Self {
        let names = std::iter::once(String::new()).chain(services.into_iter().map(Into::into)).collect();
        self.config.health = Some(config::Health { reporter, names });
        self
    }

    /// Serves over TLS. Feature `tls`.
    ///
    /// The connections that [`serve`](crate::Lifecycle::serve) gives to tonic have done their handshake, so tonic's own
    /// `tls_config` stays unset. Services that read the certificates of clients (`Request::peer_certs`) are served by
    /// [`serve_tls`](crate::Lifecycle::serve_tls).
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: super::tls::ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Calls `listener` when the status of a registration has changed; the retries during one outage are one change.
    /// It is called on the task that serves, so it must not block. Changes between two polls of that task are skipped: of a
    /// registration that is lost and made again meanwhile nothing is reported.
    pub fn on_status(
        mut self,
        listener: impl Fn(&Registration, &RegistrationStatus) + Send + Sync + 'static,
    ) -> Self {
        self.listener = Some(StatusListener::new(listener));
        self
    }

    /// Sets what starts the graceful shutdown, in place of SIGTERM and Ctrl-C; and what forces the end after
    /// that, in whatever step the shutdown is: [`std::future::pending()`] for never.
    pub fn shutdown_on(
        mut self,
        shutdown: impl Future<Output = ()> + Send + 'static,
        force: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.signals = Some(Signals::of(shutdown, force));
        self
    }

    /// Registers only while `signal` is `true`. The server serves meanwhile, and reports NOT_SERVING while it is `false`.
    /// After the sender is dropped its last value stays. Default: always ready.
    ///
    /// As with readiness in Kubernetes, a server that is no longer ready gets no new calls, and finishes those in flight:
    /// it is announced as [`Draining`](hither_core::InstanceState::Draining), and leaves the registry after the
    /// [`announce_delay`](Self::announce_delay), so that it is not called by clients either that read no state, as Go's. It
    /// is registered again when it is ready. If it shuts down meanwhile, it announces nothing again, and waits only for what is
    /// left of the [`propagation_delay`](Self::propagation_delay).
    ///
    /// ```
    /// # use hither_tonic::Lifecycle;
    /// # let registry = hither_memory::MemoryRegistry::new();
    /// let (ready, signal) = tokio::sync::watch::channel(false);
    /// let builder = Lifecycle::builder(registry).service("greeter").readiness(signal);
    /// ready.send_replace(true); // once the caches are warm
    /// ```
    pub fn readiness(mut self, signal: watch::Receiver<bool>) -> Self {
        self.config.readiness = Readiness::new(signal);
        self
    }

    /// Ends the server with [`NotRegistered`](crate::ErrorKind::NotRegistered) if it is not registered within this time, from when it is
    /// [ready](Self::readiness). Not zero. Default: it serves without being registered for as long as the registry cannot be
    /// reached.
    pub fn require_registration(mut self, within: Duration) -> Self {
        self.config.require_registration = Some(within);
        self
    }

    /// Sets how long the server stays registered as [`Draining`](hither_core::InstanceState::Draining) after
    /// the shutdown signal, before its record is removed: time for clients that honour that state to move their
    /// new calls to other instances. The server accepts all calls meanwhile. Default 500 ms.
    pub fn announce_delay(mut self, delay: Duration) -> Self {
        self.config.announce_delay = delay;
        self
    }

    /// Sets how long the server goes on accepting connections and calls after its record was removed: time for
    /// the removal to propagate to every client. Clients written in Go honour no earlier announcement. Default
    /// 2 s.
    pub fn propagation_delay(mut self, delay: Duration) -> Self {
        self.config.propagation_delay = delay;
        self
    }

    /// Sets how long draining may take: the time for calls in flight to finish once the server accepts no new ones (GOAWAY).
    /// It ends as soon as all connections are closed; when the whole server was without a call for two seconds, it closes
    /// those that are left, for their clients do not answer. What is still open in the end is cut, and logged with the number
    /// of calls and connections. Default 20 s, so that all steps together stay below the 30 s that Kubernetes grants by
    /// default (`terminationGracePeriodSeconds`).
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.config.drain_timeout = timeout;
        self
    }

    /// Sets how long the server waits for the registry in each of two steps of the shutdown, to announce `Draining` and to
    /// deregister, and when it is no longer [ready](Self::readiness), to announce that. Default 3 s.
    pub fn registry_timeout(mut self, timeout: Duration) -> Self {
        self.config.registry_timeout = timeout;
        self
    }

    /// Sets whether `%` and `/` in the `:authority` of a request are rewritten to `.` as it is read. Default
    /// `true`.
    ///
    /// Clients written in Go that dial `etcd:///team/greeter` send the authority `team%2Fgreeter`, which hyper
    /// refuses with PROTOCOL_ERROR ([hyperium/http#836]); rewritten, the server sees `team.2Fgreeter`. It works under
    /// `LifecycleBuilder::tls` too, but under tonic's own TLS nothing can be rewritten; there, such clients need
    /// `grpc.WithAuthority`.
    ///
    /// [hyperium/http#836]: https://github.com/hyperium/http/issues/836
    pub fn rewrite_authority(mut self, rewrite: bool) -> Self {
        self.config.connections.rewrite_authority = rewrite;
        self
    }

    /// Sets the age at which a connection is ended, without losing a call: the client is told to open no new calls on it
    /// (GOAWAY), and makes a new connection, to another server if there are others. So clients that come through a load
    /// balancer spread again over servers that were added later. Each connection has its own jitter of ±10 %. Not zero.
    /// Default: none.
    ///
    /// This is `MAX_CONNECTION_AGE` of gRPC ([A9]). Leave tonic's own `max_connection_age` unset: it has no jitter, and
    /// with its `max_connection_age_grace` version 0.14.9 sends no GOAWAY, and closes the connection with all its calls.
    /// Connections that are not HTTP/2 in plain text here (HTTP/1, tonic's own TLS) have no maximum age.
    ///
    /// [A9]: https://github.com/grpc/proposal/blob/master/A9-server-side-conn-mgt.md
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Sets how long the calls in flight have to finish on a connection that has reached its
    /// [maximum age](Self::max_connection_age), without which it is an `InvalidArgument`. Then it is closed, and calls that are
    /// left fail. Default: no limit.
    pub fn max_connection_age_grace(mut self, grace: Duration) -> Self {
        self.max_age_grace = Some(grace);
        self
    }

    fn parsed<T, E: Into<BoxError>>(&mut self, what: &'static str, outcome: Result<T, E>) -> Option<T> {
        outcome
            .map_err(|error| {
                // The first mistake is the one to report.
                self.invalid.get_or_insert_with(|| Error::invalid_setting(what, error));
            })
            .ok()
    }
}
