//! The builder of a server's lifecycle.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{Address, AddressKind, Instance, Registrar, Registration, RegistrationStatus, ServiceName};
use tokio::net::{TcpListener, ToSocketAddrs, lookup_host};

use super::Lifecycle;
use super::config::LifecycleConfig;
use super::registrations::StatusListener;
use super::signals::Signals;
use crate::error::{BoxError, Error, ErrorKind, Result};

/// Builds a [`Lifecycle`]: made by [`Lifecycle::builder`], and finished by [`bind`](Self::bind), which returns
/// invalid settings as errors.
#[derive(Debug)]
#[must_use = "nothing happens until it is bound and served"]
pub struct LifecycleBuilder {
    config: LifecycleConfig,
    services: Vec<ServiceName>,
    listener: Option<StatusListener>,
    signals: Option<Signals>,
    #[cfg(feature = "tls")]
    tls: Option<super::tls::ServerTls>,
    addresses: Vec<Address>,
    describe: Describe,
    invalid: Option<Error>,
}

/// What [`LifecycleBuilder::instance`] was given, in order.
#[derive(Default)]
struct Describe(Vec<Box<dyn FnOnce(Instance) -> Instance + Send + Sync>>);

impl fmt::Debug for Describe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Describe").field(&self.0.len()).finish()
    }
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
            addresses: Vec::new(),
            describe: Describe::default(),
            invalid: None,
        }
    }

    /// Adds a service to register under; at least one is needed.
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: TryInto<ServiceName>,
        S::Error: Into<BoxError>,
    {
        if let Some(service) = self.parsed("the name of the service is invalid", service.try_into())
            && !self.services.contains(&service)
        {
            self.services.push(service);
        }
        self
    }

    /// Sets the address that clients call; port 0 is replaced by the bound port. Called again, it adds a further
    /// address of the same server. Default: the bound address.
    pub fn advertise<A>(mut self, address: A) -> Self
    where
        A: TryInto<Address>,
        A::Error: Into<BoxError>,
    {
        if let Some(address) = self.parsed("the advertised address is invalid", address.try_into()) {
            self.addresses.push(address);
        }
        self
    }

    /// Describes the instance to register: `describe` gets one with the advertised addresses, whose id is the
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
    /// assert_eq!(server.instance().zone(), Some("eu-1a"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn instance(mut self, describe: impl FnOnce(Instance) -> Instance + Send + Sync + 'static) -> Self {
        self.describe.0.push(Box::new(describe));
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

    /// Ends the server with [`ErrorKind::NotRegistered`] if it is not registered within this time. Default: it
    /// serves without being registered for as long as the registry cannot be reached.
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
        if let Some(error) = self.invalid {
            return Err(error);
        }
        if self.services.is_empty() {
            return Err(Error::invalid_argument(
                "there is no service to register: name one with .service(..)",
            ));
        }
        #[cfg(feature = "tls")]
        let tls = self.tls.map(super::tls::ServerTls::start).transpose()?;
        let socket = listen(address).await?;
        let bound = socket.local_addr().map_err(|error| {
            Error::new(ErrorKind::Unexpected, "the bound address is not known").with_source(error)
        })?;
        let instance = instance(self.addresses, self.describe, bound)?;
        let registration = |service| Registration::new(service, instance.clone())?.with_ttl(self.config.ttl);
        let registrations =
            self.services.into_iter().map(registration).collect::<hither_core::Result<_>>()?;
        Ok(Lifecycle {
            config: self.config,
            listener: self.listener,
            signals: self.signals,
            #[cfg(feature = "tls")]
            tls,
            socket,
            bound,
            instance,
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

/// The instance of a server that listens on `bound`.
fn instance(addresses: Vec<Address>, describe: Describe, bound: SocketAddr) -> Result<Instance> {
    let mut addresses = addresses.into_iter();
    let first = addresses.next().unwrap_or(bound.into());
    let mut instance = Instance::new(callable(first, bound.port())?);
    for address in addresses {
        instance = instance.with_address(callable(address, bound.port())?);
    }
    Ok(describe.0.into_iter().fold(instance, |instance, describe| describe(instance)))
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

/// The address with its real port, if a client can call it.
fn callable(address: Address, port: u16) -> Result<Address> {
    match address.kind() {
        AddressKind::Socket(socket) if socket.ip().is_unspecified() => Err(Error::invalid_argument(format!(
            "{socket} means every address of this machine, which no client can call: name one with .advertise(..)"
        ))),
        AddressKind::Socket(mut socket) => {
            if socket.port() == 0 {
                socket.set_port(port);
            }
            Ok(socket.into())
        }
        AddressKind::Host { host, .. } if host.contains("://") => {
            Err(Error::invalid_argument(format!("{address} is a URL: advertise host:port")))
        }
        AddressKind::Host { host, port: 0 } => Ok(Address::host(host, port)?),
        _ => Ok(address),
    }
}
