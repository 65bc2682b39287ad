//! What a server is to be, before it listens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{Address, Instance, InstanceId, Registrar, Registration, RegistrationStatus, ServiceName};
use tokio::net::{TcpListener, ToSocketAddrs, lookup_host};
use tonic_health::server::HealthReporter;

use super::registrations::Listener;
use super::shutdown::{Health, LifecycleConfig};
use super::signals::Signals;
use super::{Lifecycle, LifecycleError};
use crate::error::BoxError;

/// Describes a server: made by [`Lifecycle::builder`], and done with [`bind`](Self::bind).
///
/// What cannot be used is told by `bind`.
#[derive(Debug)]
#[must_use = "nothing happens until it is bound and served"]
pub struct LifecycleBuilder {
    config: LifecycleConfig,
    listener: Option<Listener>,
    signals: Option<Signals>,
    addresses: Vec<Address>,
    id: Option<InstanceId>,
    zone: Option<Arc<str>>,
    version: Option<Arc<str>>,
    weight: u32,
    metadata: BTreeMap<String, String>,
    refused: Option<LifecycleError>,
}

impl LifecycleBuilder {
    pub(super) fn new(registrar: Arc<dyn Registrar>) -> Self {
        Self {
            config: LifecycleConfig {
                registrar,
                services: Vec::new(),
                ttl: Registration::DEFAULT_TTL,
                health: None,
                require: None,
                announce_delay: Duration::from_millis(500),
                propagation_delay: Duration::from_secs(2),
                drain_timeout: Duration::from_secs(20),
                registry_timeout: Duration::from_secs(3),
            },
            listener: None,
            signals: None,
            addresses: Vec::new(),
            id: None,
            zone: None,
            version: None,
            weight: Instance::DEFAULT_WEIGHT,
            metadata: BTreeMap::new(),
            refused: None,
        }
    }

    /// Registers under this service; may be called for several.
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: TryInto<ServiceName>,
        S::Error: Into<BoxError>,
    {
        if let Some(service) = self.parsed(service.try_into())
            && !self.config.services.contains(&service)
        {
            self.config.services.push(service);
        }
        self
    }

    /// Sets the address that clients are to call; port 0 stands for the bound port. Called again it adds a
    /// further address of the same server. Default: the bound address.
    pub fn advertise<A>(mut self, address: A) -> Self
    where
        A: TryInto<Address>,
        A::Error: Into<BoxError>,
    {
        if let Some(address) = self.parsed(address.try_into()) {
            self.addresses.push(address);
        }
        self
    }

    /// Sets the instance's id. Default: the text of its address.
    pub fn id<I>(mut self, id: I) -> Self
    where
        I: TryInto<InstanceId>,
        I::Error: Into<BoxError>,
    {
        self.id = self.parsed(id.try_into());
        self
    }

    /// Sets the zone, such as `eu-1a`.
    pub fn zone(mut self, zone: impl Into<Arc<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Sets the version of the software.
    pub fn version(mut self, version: impl Into<Arc<str>>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Sets the weight; see [`Instance::with_weight`]. Default 1.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Adds one entry of metadata.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Sets how long the record outlives a server that dies without a word. Default
    /// [`Registration::DEFAULT_TTL`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// Leads the health service that goes with this reporter: the whole server (the empty name) and each of
    /// `services`, the names in the protos, are SERVING just before the server is registered, and NOT_SERVING as
    /// soon as it is to leave. Default: none.
    pub fn health<N: Into<String>>(
        mut self,
        reporter: HealthReporter,
        services: impl IntoIterator<Item = N>,
    ) -> Self {
        let names = std::iter::once(String::new()).chain(services.into_iter().map(Into::into)).collect();
        self.config.health = Some(Health { reporter, names });
        self
    }

    /// Calls `listener` with each change of a registration; the retries of one outage are one change. It is
    /// called on the task that serves, so it must not block.
    pub fn on_status(
        mut self,
        listener: impl Fn(&Registration, &RegistrationStatus) + Send + Sync + 'static,
    ) -> Self {
        self.listener = Some(Listener::new(listener));
        self
    }

    /// Ends the server when `shutdown` is ready, in place of SIGTERM and Ctrl-C; and at once, whatever step it is
    /// at, when `force` is ready after that: [`std::future::pending()`] for never.
    pub fn shutdown_on(
        mut self,
        shutdown: impl Future<Output = ()> + Send + 'static,
        force: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.signals = Some(Signals::of(shutdown, force));
        self
    }

    /// Ends the server with [`LifecycleError::NotRegistered`] when it is not registered within this time. Default:
    /// it serves on, and is registered whenever the registry can be reached.
    pub fn require_registration(mut self, within: Duration) -> Self {
        self.config.require = Some(within);
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

    /// Sets how long the registry may take for one step on the way out: to announce, and to deregister. Default
    /// 3 s.
    pub fn registry_timeout(mut self, timeout: Duration) -> Self {
        self.config.registry_timeout = timeout;
        self
    }

    /// Listens. Port 0 takes a free port.
    ///
    /// # Errors
    /// [`LifecycleError::Invalid`] for what the builder was given, or a host name that cannot be looked up;
    /// [`LifecycleError::Bind`] when the address is in use, or not this machine's.
    pub async fn bind(mut self, address: impl ToSocketAddrs) -> Result<Lifecycle, LifecycleError> {
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        if self.config.services.is_empty() {
            return Err(LifecycleError::invalid(
                "there is no service to register: name one with .service(..)",
            ));
        }
        let socket = listen(address).await?;
        let bound = socket.local_addr().map_err(|source| LifecycleError::Invalid {
            message: "the bound address cannot be told".into(),
            source: Some(source.into()),
        })?;
        let instance = self.instance(bound)?;
        let registration = |service: &ServiceName| Registration::new(service.clone(), instance.clone());
        for service in &self.config.services {
            if let Err(error) = registration(service).with_ttl(self.config.ttl).validate() {
                return Err(LifecycleError::invalid(error.to_string()));
            }
        }
        let Self { config, listener, signals, .. } = self;
        Ok(Lifecycle { config, listener, signals, socket, bound, instance })
    }

    /// What the server says about itself, listening on `bound`.
    fn instance(&mut self, bound: SocketAddr) -> Result<Instance, LifecycleError> {
        let mut addresses = std::mem::take(&mut self.addresses).into_iter();
        let first = addresses.next().unwrap_or(Address::Socket(bound));
        let mut instance = Instance::new(callable(first, bound.port())?).with_weight(self.weight);
        for address in addresses {
            instance = instance.with_address(callable(address, bound.port())?);
        }
        if let Some(id) = self.id.take() {
            instance = instance.with_id(id);
        }
        if let Some(zone) = self.zone.take() {
            instance = instance.with_zone(zone);
        }
        if let Some(version) = self.version.take() {
            instance = instance.with_version(version);
        }
        for (key, value) in std::mem::take(&mut self.metadata) {
            instance = instance.with_metadata(key, value);
        }
        Ok(instance)
    }

    fn parsed<T, E: Into<BoxError>>(&mut self, outcome: Result<T, E>) -> Option<T> {
        outcome
            .map_err(|error| {
                // The first mistake is the one to tell.
                self.refused.get_or_insert_with(|| LifecycleError::invalid(error.into().to_string()));
            })
            .ok()
    }
}

async fn listen(address: impl ToSocketAddrs) -> Result<TcpListener, LifecycleError> {
    let candidates = lookup_host(address).await.map_err(|source| LifecycleError::Invalid {
        message: "the address to listen on cannot be looked up".into(),
        source: Some(source.into()),
    })?;
    let mut refused = LifecycleError::invalid("the address to listen on has no IP address");
    for address in candidates {
        match TcpListener::bind(address).await {
            Ok(socket) => return Ok(socket),
            Err(source) => refused = LifecycleError::Bind { address, source },
        }
    }
    Err(refused)
}

/// The address with its real port, if a client can call it.
fn callable(address: Address, port: u16) -> Result<Address, LifecycleError> {
    match address {
        Address::Socket(socket) if socket.ip().is_unspecified() => Err(LifecycleError::invalid(format!(
            "{socket} means every address of this machine, which no client can call: name one with .advertise(..)"
        ))),
        Address::Socket(mut socket) => {
            if socket.port() == 0 {
                socket.set_port(port);
            }
            Ok(socket.into())
        }
        Address::Host { host, port: 0 } => Ok(Address::Host { host, port }),
        address => Ok(address),
    }
}
