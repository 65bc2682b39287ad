//! A server on the network.

use std::sync::Arc;
use std::time::Duration;

use hither_core::{
    Registrar, Registration, RegistrationConfig, RegistrationHandle, RegistrationStatus, keep_registered,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::host::MemoryHost;
use super::listener::MemoryListener;
use super::mortal::Mortal;
use crate::error::{Error, ErrorKind, Result};

/// How long the registry may take to register or deregister.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long calls in flight may take to finish in a graceful shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// A server that [`MemoryNetwork::serve`](crate::MemoryNetwork::serve) has started.
///
/// Dropping it kills the server, as [`kill`](Self::kill) does.
#[derive(Debug)]
#[must_use = "dropping it kills the server"]
pub struct MemoryServer {
    host: MemoryHost,
    listener: u64,
    registrar: Mortal,
    registration: RegistrationHandle,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl MemoryServer {
    /// Serves with the future that `serve` makes, until its signal comes, and registers.
    pub(super) async fn start<F>(
        listener: MemoryListener,
        registrar: Arc<dyn Registrar>,
        registration: Registration,
        serve: impl FnOnce(MemoryListener, oneshot::Receiver<()>) -> F,
    ) -> Result<Self>
    where
        F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
    {
        let (host, number) = (listener.host().clone(), listener.number());
        let (stop, stopped) = oneshot::channel();
        let serve = serve(listener, stopped);
        let served = tokio::spawn(async move {
            if let Err(error) = serve.await {
                tracing::warn!(cause = hither_core::report(&error), "server in memory failed");
            }
        });
        let (service, registrar) = (registration.service().clone(), Mortal::new(registrar));
        let config = RegistrationConfig::default().with_deregister_timeout(REGISTRY_TIMEOUT);
        let registration = keep_registered(registrar.clone(), registration, config);
        let server = Self { host, listener: number, registrar, registration, stop: Some(stop), served };
        let failed = |message: String| Error::new(ErrorKind::NotRegistered, message);
        let failed = match timeout(REGISTRY_TIMEOUT, server.registration.registered()).await {
            Ok(Ok(())) => return Ok(server),
            Ok(Err(error)) => failed(format!("{service} cannot be registered")).with_source(error),
            Err(_) => {
                let failed = failed(format!("{service} was not registered within {REGISTRY_TIMEOUT:?}"));
                match server.registration.status() {
                    RegistrationStatus::Retrying { cause, .. } => failed.with_source(cause),
                    _ => failed,
                }
            }
        };
        Err(failed.with_service(service))
    }

    /// Returns its address, and what faults there are.
    pub fn host(&self) -> &MemoryHost {
        &self.host
    }

    /// Shuts down gracefully: deregisters, accepts no new connections and calls (GOAWAY), and lets calls in flight
    /// finish, for 20 s at most. There are no delays as in a [`Lifecycle`](crate::Lifecycle).
    ///
    /// # Cancellation
    /// Kills the server.
    pub async fn shut_down(mut self) {
        if let Err(error) = self.registration.deregister().await {
            tracing::warn!(cause = error.report(), "deregistration failed; record expires by TTL");
        }
        self.stop = None;
        let _ = timeout(DRAIN_TIMEOUT, &mut self.served).await;
    }

    /// Ends the server as SIGKILL does: connections are reset, handlers are dropped, new connections are refused, and
    /// its record stays until its TTL has passed.
    pub fn kill(self) {}
}

impl Drop for MemoryServer {
    fn drop(&mut self) {
        self.registrar.kill();
        self.served.abort();
        self.host.kill(self.listener);
    }
}
