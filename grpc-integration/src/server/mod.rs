//! The server side: the lifecycle of a server that is found through a registry.

use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use hither_core::{Address, Registrar, Registration};

mod advertised;
mod age;
mod authority;
mod bind;
mod builder;
mod calls;
mod config;
mod connection;
mod cut_stream;
mod cutter;
mod handle;
mod incoming;
mod ip_source;
mod listener;
mod metrics;
mod plain;
mod presence;
mod readiness;
mod registrations;
mod service_registration;
mod shutdown;
mod signals;
mod socket;
#[cfg(unix)]
mod socket_file;
mod sync;
#[cfg(feature = "tls")]
mod tls;

#[cfg(feature = "metrics")]
pub use self::metrics::{MetricsBody, MetricsFuture, MetricsLayer, MetricsService};
pub use builder::LifecycleBuilder;
pub use connection::Connection;
pub use handle::LifecycleHandle;
pub use incoming::Incoming;
pub use ip_source::IpSource;
pub use shutdown::Shutdown;
pub use socket::ListeningSocket;
#[cfg(feature = "tls")]
pub use tls::{ServerTls, TlsConnection, TlsIncoming};

use crate::error::{BoxError, Error, ErrorKind, Result};
use config::LifecycleConfig;
use cutter::Cutter;
use listener::Listener;
use plain::PlainConfig;
use registrations::{Registrations, StatusListener};
use signals::Signals;
use socket::Socket;

/// A bound server, ready to be served and registered.
///
/// [`serve`](Self::serve) runs it, and shuts it down gracefully, in the order in which no client sees an error:
///
/// 1. serve; report SERVING; only then register, and stay registered through any outage of the registry, and while
///    the server is [ready](LifecycleBuilder::readiness);
/// 2. on SIGTERM or Ctrl-C report NOT_SERVING, announce [`Draining`](hither_core::InstanceState::Draining) in
///    the registry, and wait for clients to move on ([`announce_delay`](LifecycleBuilder::announce_delay));
/// 3. deregister, and keep serving until that has reached the slowest client
///    ([`propagation_delay`](LifecycleBuilder::propagation_delay));
/// 4. drain: accept no new connections and calls (GOAWAY), and let calls in flight finish
///    ([`drain_timeout`](LifecycleBuilder::drain_timeout));
/// 5. cut the connections that remain.
///
/// A second signal goes straight to step 5, with one last second to deregister; within a second of the first it counts
/// as a copy of that, and is ignored. A registry that is down keeps the server neither from starting nor from stopping:
/// each step that needs the registry has a deadline.
///
/// tonic's builder, its layers and services stay in the user's hands:
///
/// ```
/// use hither_tonic::Lifecycle;
/// use tonic::transport::Server;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = hither_memory::MemoryRegistry::new();
/// # let (_, greeter) = tonic_health::server::health_reporter();
/// let server = Lifecycle::builder(registry)
///     .service("greeter")
///     # .shutdown_on(async {}, async {})
///     .bind("127.0.0.1:0")
///     .await?;
/// println!("listening on {}", server.local_addr());
/// server
///     .serve(|incoming, shutdown| {
///         Ok(Server::builder().add_service(greeter).serve_with_incoming_shutdown(incoming, shutdown))
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a server does nothing until it is served"]
pub struct Lifecycle {
    config: LifecycleConfig,
    listener: Option<StatusListener>,
    /// `None`: SIGTERM and Ctrl-C.
    signals: Option<Signals>,
    #[cfg(feature = "tls")]
    tls: Option<tls::Handshakes>,
    socket: Socket,
    bound: Address,
    registrations: Arc<Registrations>,
}

impl Lifecycle {
    /// Returns a builder for a server that `registrar` registers.
    pub fn builder(registrar: impl Registrar) -> LifecycleBuilder {
        LifecycleBuilder::new(Arc::new(registrar))
    }

    /// Returns the address that it listens on, with its real port.
    pub fn local_addr(&self) -> &Address {
        &self.bound
    }

    /// Returns what it was made to register: the instance under each service.
    pub fn registrations(&self) -> &[Registration] {
        self.registrations.initial()
    }

    /// Returns a handle, which changes the registrations while the server runs.
    pub fn handle(&self) -> LifecycleHandle {
        LifecycleHandle::new(&self.registrations)
    }

    /// Runs the server that `server` builds until it has shut down.
    ///
    /// `server` passes [`Incoming`] and [`Shutdown`] to tonic's `serve_with_incoming_shutdown`. The future that it
    /// returns may complete before any signal: then the server is deregistered, and `serve` returns its outcome.
    ///
    /// From this call on the process's own handling of SIGTERM and Ctrl-C is replaced for good, as Tokio does it, unless
    /// [`shutdown_on`](LifecycleBuilder::shutdown_on) was given: after a server that has ended by itself, neither ends the
    /// program any more.
    ///
    /// # Errors
    /// [`ErrorKind::Server`] when the server cannot be built or fails, [`ErrorKind::NotRegistered`] when a
    /// registration was [required](LifecycleBuilder::require_registration), [`ErrorKind::Signals`]. A failure to
    /// deregister is no error: the record expires within its TTL.
    ///
    /// # Cancellation
    /// Dropping it ends everything: the listener is closed, connections are cut, and the records are removed in
    /// the background, best effort.
    pub async fn serve<S, F, E>(self, server: S) -> Result<()>
    where
        S: FnOnce(Incoming, Shutdown) -> Result<F, BoxError>,
        F: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        #[cfg(feature = "tls")]
        let mut this = self;
        #[cfg(feature = "tls")]
        let tls = this.tls.take();
        #[cfg(not(feature = "tls"))]
        let this = self;
        let incoming = |listener, connections| {
            let incoming = Incoming::new(listener, connections);
            #[cfg(feature = "tls")]
            let incoming = incoming.with_tls(tls);
            incoming
        };
        this.run(incoming, server).await
    }

    /// Runs the server as [`serve`](Self::serve) does, under the [TLS](LifecycleBuilder::tls) that was set, for services
    /// that need to know who calls: `Request::peer_certs` returns the certificates of the client. Feature `tls`.
    ///
    /// # Errors
    /// Those of [`serve`](Self::serve), and [`ErrorKind::InvalidArgument`] without [`tls`](LifecycleBuilder::tls).
    ///
    /// # Cancellation
    /// As of [`serve`](Self::serve).
    #[cfg(feature = "tls")]
    pub async fn serve_tls<S, F, E>(mut self, server: S) -> Result<()>
    where
        S: FnOnce(TlsIncoming, Shutdown) -> Result<F, BoxError>,
        F: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        let Some(handshakes) = self.tls.take() else {
            return Err(Error::invalid_argument("there is no TLS to serve over: set LifecycleBuilder::tls"));
        };
        let incoming = |listener, connections| TlsIncoming::new(listener, handshakes, connections);
        self.run(incoming, server).await
    }

    async fn run<I, S, F, E>(self, incoming: impl FnOnce(Listener, PlainConfig) -> I, server: S) -> Result<()>
    where
        S: FnOnce(I, Shutdown) -> Result<F, BoxError>,
        F: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        let Self { config, listener, signals, socket, registrations, .. } = self;
        let signals = match signals {
            Some(signals) => signals,
            None => Signals::of_the_process().map_err(|error| {
                Error::new(ErrorKind::Signals, "cannot install the signal handlers").with_source(error)
            })?,
        };
        let cutter = Cutter::default();
        let (stop, shutdown) = Shutdown::new();
        let incoming = incoming(Listener::new(socket, cutter.switch()), config.connections);
        let failed = |error| Error::new(ErrorKind::Server, "the server failed").with_source(error);
        let server = server(incoming, shutdown).map_err(failed)?;
        let mut server = pin!(server.map(|outcome| outcome.map_err(|error| failed(error.into()))));

        // A server that fails on its first poll is never registered.
        if let Some(outcome) = (&mut server).now_or_never() {
            return outcome;
        }
        let presence = config.start(&registrations).await;
        let mut observing = pin!(registrations.observe(listener).fuse());
        let outcome = {
            let mut running = pin!(config.run(&registrations, presence, signals, server, stop, &cutter));
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut running => break outcome,
                    // All registrations may end long before the server does.
                    () = &mut observing, if !observing.is_terminated() => {}
                }
            }
        };
        // So that the last change is reported too.
        (&mut observing).now_or_never();
        outcome
    }
}
