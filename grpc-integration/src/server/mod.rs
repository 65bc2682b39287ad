//! The life of a server that is found through a registry: listen, serve, register; and leave in the right order.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use hither_core::{Instance, Registrar};
use tokio::net::TcpListener;

mod authority;
mod builder;
mod connection;
mod cutter;
mod error;
mod incoming;
mod registrations;
mod shutdown;
mod signals;

pub use builder::LifecycleBuilder;
pub use connection::Connection;
pub use error::LifecycleError;
pub use incoming::Incoming;
pub use shutdown::Shutdown;

use crate::error::BoxError;
use cutter::Cutter;
use registrations::Listener;
use shutdown::LifecycleConfig;
use signals::Signals;

/// A server that is bound, and can be served and registered.
///
/// [`serve`](Self::serve) leads it through its life, in the order in which no client sees an error:
///
/// 1. serve; tell health SERVING; only then register, and stay registered through any outage of the registry;
/// 2. on SIGTERM or Ctrl-C tell clients to look elsewhere ([`Draining`](hither_core::InstanceState::Draining),
///    NOT_SERVING) and give them a moment to hear of it ([`announce_delay`](LifecycleBuilder::announce_delay));
/// 3. deregister, and serve on until the slowest client has heard of that ([`propagation_delay`](LifecycleBuilder::propagation_delay));
/// 4. take no new connections and calls (GOAWAY), and let those under way finish
///    ([`drain_timeout`](LifecycleBuilder::drain_timeout));
/// 5. cut what remains.
///
/// A second signal goes straight to 5, with a last second for the record to go. A registry that is down keeps the
/// server neither from starting nor from stopping: each step that needs it has a deadline.
///
/// Builder, layers, TLS and services stay the user's own:
///
/// ```
/// use hither_tonic::Lifecycle;
/// use tonic::transport::Server;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = hither_memory::MemoryRegistry::new();
/// let (reporter, health) = tonic_health::server::health_reporter();
/// let server = Lifecycle::builder(registry)
///     .service("greeter")
///     .health(reporter, ["helloworld.Greeter"])
///     # .shutdown_on(async {}, async {})
///     .bind("127.0.0.1:0")
///     .await?;
/// println!("listening on {}", server.local_addr());
/// server
///     .serve(|incoming, shutdown| {
///         Ok(Server::builder().add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a server does nothing until it is served"]
pub struct Lifecycle {
    config: LifecycleConfig,
    listener: Option<Listener>,
    /// `None` is SIGTERM and Ctrl-C.
    signals: Option<Signals>,
    socket: TcpListener,
    bound: SocketAddr,
    instance: Instance,
}

impl Lifecycle {
    /// Describes a server that `registrar` is to register.
    pub fn builder(registrar: impl Registrar) -> LifecycleBuilder {
        LifecycleBuilder::new(Arc::new(registrar))
    }

    /// The address that it listens on, with its real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.bound
    }

    /// What is to be registered.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Runs the server that `server` builds, and leads it through its life; `Ok` once it has left.
    ///
    /// `server` hands [`Incoming`] and [`Shutdown`] to tonic's `serve_with_incoming_shutdown`. Its future may end
    /// before any signal: then the server is deregistered, and `serve` ends with the same outcome.
    ///
    /// From the first signal on the process's own handling of SIGTERM and Ctrl-C is replaced for good, as Tokio
    /// does it, unless [`shutdown_on`](LifecycleBuilder::shutdown_on) was given.
    ///
    /// # Errors
    /// [`LifecycleError::Server`] when the server cannot be built or fails, [`LifecycleError::NotRegistered`] when
    /// that was [required](LifecycleBuilder::require_registration), [`LifecycleError::Signals`]. That the registry
    /// could not be told of the end is no error: the record lapses within its TTL.
    ///
    /// # Cancellation
    /// Dropping it ends everything: the listener is closed, connections are cut, and the records are taken away in
    /// the background, best effort.
    pub async fn serve<S, F, E>(self, server: S) -> Result<(), LifecycleError>
    where
        S: FnOnce(Incoming, Shutdown) -> Result<F, BoxError>,
        F: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        let Self { config, listener, signals, socket, instance, .. } = self;
        let signals = match signals {
            Some(signals) => signals,
            None => Signals::of_the_process().map_err(LifecycleError::Signals)?,
        };
        let cutter = Cutter::default();
        let (stop, shutdown) = Shutdown::new();
        let server = server(Incoming::new(socket, &cutter), shutdown).map_err(LifecycleError::Server)?;
        let mut server =
            pin!(server.map(|outcome| outcome.map_err(|error| LifecycleError::Server(error.into()))));

        // A server that fails at its first breath is never registered.
        if let Some(outcome) = (&mut server).now_or_never() {
            return outcome;
        }
        config.report_health(true).await;
        let registrations = config.register(instance);
        let mut observing = pin!(registrations.observe(listener).fuse());
        let outcome = {
            let mut living = pin!(config.run(&registrations, signals, server, stop, &cutter));
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut living => break outcome,
                    // All registrations may come to their end long before the server does.
                    () = &mut observing, if !observing.is_terminated() => {}
                }
            }
        };
        // So that the last change is told too.
        (&mut observing).now_or_never();
        outcome
    }
}
