//! The builder of a server's lifecycle.

#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{Address, Instance, Registrar, Registration, RegistrationStatus, ServiceName};
use tokio::net::{TcpListener, ToSocketAddrs, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Lifecycle;
use super::advertised::{self, Advertised, Describe};
use super::config::LifecycleConfig;
use super::ip_source::IpSource;
use super::readiness::Readiness;
use super::registrations::{Registrations, StatusListener};
use super::signals::Signals;
use super::socket::{ListeningSocket, Socket};
#[cfg(unix)]
use super::socket_file::SocketFile;
use crate::error::{BoxError, Error, ErrorKind, Result};

/// Builds a [`Lifecycle`]: made by [`Lifecycle::builder`], and finished by [`bind`](Self::bind),
/// [`bind_unix`](Self::bind_unix) or [`listen`](Self::listen), which return invalid settings as errors.
#[derive(Debug)]
#[must_use = "nothing happens until it is bound and served"]
pub struct LifecycleBuilder {
    config: LifecycleConfig,
    services: Vec<(ServiceName, Describe)>,
    listener: Option<StatusListener>,
    signals: Option<Signals>,
    #[cfg(feature = "tls")]
    tls: Option<super::tls::ServerTls>,
    advertised: Vec<Advertised>,
    describe: Describe,
    invalid: Option<Error>,
}

impl LifecycleBuilder {
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
        self.config.health = Some(super::config::Health { reporter, names });
        self
    }

    /// Serves over TLS. Feature `tls`.
    ///
    /// The connections that [`serve`](Lifecycle::serve) gives to tonic have done their handshake, so tonic's own
    /// `tls_config` stays unset. Services that read the certificates of clients (`Request::peer_certs`) are served by
    /// [`serve_tls`](Lifecycle::serve_tls).
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: super::tls::ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Calls `listener` on each change of a registration's status; the retries during one outage are one change.
    /// It is called on the task that serves, so it must not block.
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
    /// is registered again when it is ready.
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

    /// Ends the server with [`ErrorKind::NotRegistered`] if it is not registered within this time, from when it is
    /// [ready](Self::readiness). Default: it serves without being registered for as long as the registry cannot be
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

    /// Sets how long draining may take: the time for calls in flight to finish once the server accepts no new
    /// ones (GOAWAY). Connections that are still open then are cut. Default 20 s, so that all steps together
    /// stay below the 30 s that Kubernetes grants by default (`terminationGracePeriodSeconds`).
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.config.drain_timeout = timeout;
        self
    }

    /// Sets how long the registry may take for each of two steps of the shutdown: to announce `Draining`, and to
    /// deregister. Default 3 s.
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
        self.config.rewrite_authority = rewrite;
        self
    }

    /// Binds the listening socket. Port 0 takes a free port.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an invalid setting of this builder, or a host name that cannot be
    /// resolved; [`ErrorKind::Bind`] when the address is in use, or does not belong to this machine.
    pub async fn bind(self, address: impl ToSocketAddrs) -> Result<Lifecycle> {
        let this = self.checked()?;
        let socket = Socket::Tcp(listen(address).await?);
        this.finish(socket).await
    }

    /// Binds a Unix domain socket. The file of a socket whose process has died is replaced. The file is removed when the
    /// server stops accepting; its permissions are those of the umask.
    ///
    /// What is advertised, unless [`advertise`](Self::advertise) says otherwise, is the path: `unix:///run/greeter.sock`,
    /// as gRPC writes it, which clients on this host can call. That is also the default id of the instance, so where
    /// several hosts share a registry, each needs an [id](Instance::with_id) of its own. `Request::remote_addr` is `None`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an invalid setting of this builder, or a path that is not UTF-8;
    /// [`ErrorKind::Bind`] when another process listens there, the file is no socket, or the path is longer than the
    /// system allows (some 100 bytes).
    #[cfg(unix)]
    pub async fn bind_unix(self, path: impl AsRef<Path>) -> Result<Lifecycle> {
        let this = self.checked()?;
        let path = path.as_ref();
        let failed = |error| {
            let failed = Error::new(ErrorKind::Bind, format!("cannot listen on {}", path.display()));
            failed.with_source(error)
        };
        // Before anything is bound, because the address is what is advertised.
        let path = std::path::absolute(path).map_err(failed)?;
        let address = Address::unix(&path)?;
        match SocketFile::bind(&path).await {
            Ok((file, listener)) => this.finish(Socket::Unix { _file: Some(file), listener }).await,
            Err(error) => Err(failed(error).with_address(address)),
        }
    }

    /// Uses a socket that listens already, for one that was bound with options of its own, or that another process passed,
    /// as systemd does (socket activation). The file of a Unix socket is left to whoever made it.
    ///
    /// ```no_run
    /// use hither_tonic::{Lifecycle, LifecycleBuilder};
    ///
    /// # async fn example(builder: LifecycleBuilder) -> Result<Lifecycle, Box<dyn std::error::Error>> {
    /// // The crate listenfd reads LISTEN_FDS, and returns nothing if LISTEN_PID is that of another process.
    /// match listenfd::ListenFd::from_env().take_tcp_listener(0)? {
    ///     Some(listener) => Ok(builder.listen(listener).await?),
    ///     None => Ok(builder.bind("127.0.0.1:50051").await?),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an invalid setting of this builder, or a Unix socket without an absolute path;
    /// [`ErrorKind::Bind`] for a socket that does not listen.
    pub async fn listen(self, socket: impl Into<ListeningSocket>) -> Result<Lifecycle> {
        let this = self.checked()?;
        let socket = socket.into().into_socket().map_err(|error| {
            Error::new(ErrorKind::Bind, "the given socket cannot be used").with_source(error)
        })?;
        this.finish(socket).await
    }

    /// Returns the first invalid setting as the error.
    fn checked(mut self) -> Result<Self> {
        if let Some(error) = self.invalid.take() {
            return Err(error);
        }
        if self.services.is_empty() {
            return Err(Error::invalid_argument(
                "there is no service to register: name one with .service(..)",
            ));
        }
        if Handle::try_current().is_err() {
            return Err(Error::invalid_argument("a server can only be made inside a Tokio runtime"));
        }
        Ok(self)
    }

    async fn finish(self, socket: Socket) -> Result<Lifecycle> {
        #[cfg(feature = "tls")]
        let tls = self.tls.map(super::tls::ServerTls::start).transpose()?;
        let bound = socket.address().map_err(|error| {
            Error::invalid_argument("the address of the listening socket is not known").with_source(error)
        })?;
        let instance = advertised::instance(self.advertised, &bound).await?;
        let instance = self.describe.apply(instance);
        let registration = |(service, describe): (_, Describe)| {
            Registration::new(service, describe.apply(instance.clone()))?.with_ttl(self.config.ttl)
        };
        let registrations =
            self.services.into_iter().map(registration).collect::<hither_core::Result<_>>()?;
        let registrations = Arc::new(Registrations::new(registrations, self.config.registry_timeout));
        Ok(Lifecycle {
            config: self.config,
            listener: self.listener,
            signals: self.signals,
            #[cfg(feature = "tls")]
            tls,
            socket,
            bound,
            registrations,
        })
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

async fn listen(address: impl ToSocketAddrs) -> Result<TcpListener> {
    let candidates = lookup_host(address).await.map_err(|error| {
        Error::invalid_argument("the address to listen on cannot be resolved").with_source(error)
    })?;
    let mut failed = Error::invalid_argument("the address to listen on has no IP address");
    for address in candidates {
        match TcpListener::bind(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => {
                failed = Error::new(ErrorKind::Bind, format!("cannot listen on {address}"))
                    .with_address(address)
                    .with_source(error);
            }
        }
    }
    Err(failed)
}
