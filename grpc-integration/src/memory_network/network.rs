//! The network.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hither_core::{Address, AddressKind, Discovery, Instance, Registration, Registry, ServiceName};
use http_body::Body as HttpBody;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::Router;
use tower_layer::Layer;
use tower_service::Service;

use super::host::MemoryHost;
use super::listener::MemoryListener;
use super::server::MemoryServer;
use crate::client::{ChannelBuilder, Connected, Connector, Destination, DiscoveryChannel};
use crate::error::{BoxError, Error, ErrorKind, Result};

/// A network in memory, for tests: servers and channels without sockets. Feature `memory-network`.
///
/// Everything above the sockets is real: the registry, tonic's servers, the channel with its HTTP/2, deadlines and
/// policies. So a test sees status codes, metadata, streams, cancellation and lost connections as they are over TCP. A
/// clone is the same network.
///
/// ```
/// use hither_memory::MemoryRegistry;
/// use hither_tonic::MemoryNetwork;
/// use tonic::transport::Server;
/// use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient}; // or your own generated client
///
/// #[tokio::main(flavor = "current_thread", start_paused = true)] // #[tokio::test(start_paused = true)]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     # let (_reporter, greeter) = tonic_health::server::health_reporter();
///     let network = MemoryNetwork::new(MemoryRegistry::new());
///     let server = network.serve("greeter", "10.0.0.1:80", Server::builder().add_service(greeter)).await?;
///     let channel = network.channel("greeter").connect().await?;
///
///     HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
///     server.shut_down().await;
///     Ok(())
/// }
/// ```
///
/// A program that makes its channels itself takes the network as a [`Connector`], and its registry as it is. One that runs
/// its server by a [`Lifecycle`](crate::Lifecycle) listens there:
/// `Lifecycle::builder(registry).service("greeter").listen(network.listen("10.0.0.1:80")?)`.
///
/// # Faults
///
/// A server is shut down, killed, frozen, cut off from new connections, or loses those that are open: see
/// [`MemoryServer`] and [`MemoryHost`]. The registry has faults of its own, such as those of hither-memory's `Faults`.
///
/// ```
/// # use std::time::Duration;
/// # use hither_memory::MemoryRegistry;
/// # use hither_tonic::MemoryNetwork;
/// # use tokio::time::Instant;
/// # use tonic::transport::Server;
/// # use tonic::{Code, Request};
/// # use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
/// // #[tokio::test(start_paused = true)]
/// async fn a_frozen_server_is_given_up_after_three_seconds() -> Result<(), Box<dyn std::error::Error>> {
///     # let (_reporter, greeter) = tonic_health::server::health_reporter();
///     let network = MemoryNetwork::new(MemoryRegistry::new());
///     let server = network.serve("greeter", "10.0.0.1:80", Server::builder().add_service(greeter)).await?;
///     let mut client = HealthClient::new(network.channel("greeter").connect().await?);
///     server.host().freeze();
///
///     let mut request = Request::new(HealthCheckRequest::default());
///     request.set_timeout(Duration::from_secs(3));
///     let began = Instant::now();
///     assert_eq!(client.check(request).await.unwrap_err().code(), Code::DeadlineExceeded);
///     assert_eq!(began.elapsed().as_secs(), 3); // on the paused clock, and in no time
///     Ok(())
/// }
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// #     a_frozen_server_is_given_up_after_three_seconds().await
/// # }
/// ```
///
/// # Paused time
///
/// Tokio's paused clock jumps to the next timer when every task waits. So a deadline, keep-alive or a TTL of an hour takes
/// no time, and a sleep of a second is the way to let everything happen that is due now, such as that a channel connects
/// to a server that has just been registered. The clock does not wait for a socket or another process: timers fire while
/// an answer from there is on its way.
///
/// # What is different from sockets
///
/// Host names are not resolved; each is an address as it is. A connection takes no time to open, and bytes none to arrive.
/// At most 64 KiB are under way in one direction. Only TCP's own faults are missing: lost packets, and a path that is cut
/// in one direction.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Inner>);

struct Inner {
    registry: Arc<dyn Registry>,
    discovery: Discovery,
    hosts: Mutex<BTreeMap<Address, MemoryHost>>,
}

impl MemoryNetwork {
    /// Returns a network without servers, whose servers are registered in `registry`: a `MemoryRegistry` of
    /// hither-memory, for instance.
    pub fn new(registry: impl Registry) -> Self {
        let registry: Arc<dyn Registry> = Arc::new(registry);
        let discovery = Discovery::new(Arc::clone(&registry));
        Self(Arc::new(Inner { registry, discovery, hosts: Mutex::default() }))
    }

    /// Returns the discovery of the network's registry, which all channels of [`channel`](Self::channel) share.
    pub fn discovery(&self) -> &Discovery {
        &self.0.discovery
    }

    /// Returns a builder for a channel to `service` over this network.
    ///
    /// A program that makes its channels itself takes the network as the connector of its builder:
    /// `ChannelBuilder::connector(network.clone())`.
    pub fn channel<S>(&self, service: S) -> ChannelBuilder
    where
        S: TryInto<ServiceName>,
        S::Error: Into<BoxError>,
    {
        DiscoveryChannel::builder(self.discovery(), service).connector(self.clone())
    }

    /// Serves `router` at `address`, registers it under `service`, and returns when it is registered. Its weight, zone
    /// and other attributes are the defaults: see [`serve_instance`](Self::serve_instance).
    ///
    /// # Errors
    /// Those of [`serve_instance`](Self::serve_instance).
    ///
    /// # Cancellation
    /// Kills the server.
    pub async fn serve<S, A, L, B>(&self, service: S, address: A, router: Router<L>) -> Result<MemoryServer>
    where
        S: TryInto<ServiceName>,
        S::Error: Into<BoxError>,
        A: TryInto<Address>,
        A::Error: Into<BoxError>,
        L: Layer<Routes> + Send + 'static,
        L::Service: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        <L::Service as Service<http::Request<Body>>>::Future: Send,
        <L::Service as Service<http::Request<Body>>>::Error: Into<BoxError> + Send,
        B: HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let instance = Instance::new(parsed_address(address)?);
        self.serve_instance(service, instance, router).await
    }

    /// Serves `router` at the first address of `instance`, registers it under `service`, and returns when it is
    /// registered.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a name or an address that is none, [`ErrorKind::Bind`] where a server listens
    /// already, [`ErrorKind::NotRegistered`] when the registry has not registered it within 10 s.
    ///
    /// # Cancellation
    /// Kills the server.
    pub async fn serve_instance<S, L, B>(
        &self,
        service: S,
        instance: Instance,
        router: Router<L>,
    ) -> Result<MemoryServer>
    where
        S: TryInto<ServiceName>,
        S::Error: Into<BoxError>,
        L: Layer<Routes> + Send + 'static,
        L::Service: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        <L::Service as Service<http::Request<Body>>>::Future: Send,
        <L::Service as Service<http::Request<Body>>>::Error: Into<BoxError> + Send,
        B: HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = service
            .try_into()
            .map_err(|error| Error::invalid_setting("the name of the service is invalid", error))?;
        let listener = self.listen(instance.address().clone())?;
        let registration = Registration::new(service, instance)?;
        let registrar = Arc::clone(&self.0.registry);
        MemoryServer::start(listener, registrar, registration, |incoming, stopped| {
            router.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) })
        })
        .await
    }

    /// Listens at an address, and registers nothing: for servers that are registered in another way, and for peers that
    /// are no servers of tonic's.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an address that is none, [`ErrorKind::Bind`] where a server listens already.
    pub fn listen<A>(&self, address: A) -> Result<MemoryListener>
    where
        A: TryInto<Address>,
        A::Error: Into<BoxError>,
    {
        let host = self.host(address)?;
        MemoryListener::bind(&host).map_err(|error| {
            let message = format!("cannot listen on {}", host.address());
            let failed = Error::new(ErrorKind::Bind, message).with_source(error);
            match host.address().kind() {
                AddressKind::Socket(address) => failed.with_address(address),
                _ => failed,
            }
        })
    }

    /// Returns an address of the network, for its faults. There may be no server.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an address that is none.
    pub fn host<A>(&self, address: A) -> Result<MemoryHost>
    where
        A: TryInto<Address>,
        A::Error: Into<BoxError>,
    {
        Ok(self.at(parsed_address(address)?))
    }

    fn at(&self, address: Address) -> MemoryHost {
        let mut hosts = self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(address.clone()).or_insert_with(|| MemoryHost::new(address)).clone()
    }
}

fn parsed_address<A>(address: A) -> Result<Address>
where
    A: TryInto<Address>,
    A::Error: Into<BoxError>,
{
    address.try_into().map_err(|error| Error::invalid_setting("the address is invalid", error))
}

#[async_trait]
impl Connector for MemoryNetwork {
    /// Host names are not resolved: they are addresses as they are.
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        self.at(destination.address().clone()).connect().await.map(Connected::from)
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("MemoryNetwork").field("addresses", &hosts.keys()).finish_non_exhaustive()
    }
}
