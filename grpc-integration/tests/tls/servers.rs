//! Servers of a `Lifecycle` with TLS.

use std::net::SocketAddr;
use std::time::Duration;

use hither_memory::MemoryRegistry;
use hither_tonic::{Lifecycle, Result, ServerTls};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::Server;

use crate::support::{Echo, SERVICE, SOON};

/// A server that is up. Dropping it ends it.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    force: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<()>>,
}

/// Which of the two ways the server is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Serve,
    ServeTls,
}

impl Running {
    pub(crate) async fn start(tls: ServerTls) -> Self {
        Self::served(tls, By::Serve).await
    }

    pub(crate) async fn served(tls: ServerTls, by: By) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (force, forced) = oneshot::channel::<()>();
        let server = Lifecycle::builder(MemoryRegistry::new())
            .service(SERVICE)
            .announce_delay(Duration::ZERO)
            .propagation_delay(Duration::ZERO)
            .shutdown_on(async { drop(stopped.await) }, async { drop(forced.await) })
            .tls(tls)
            .bind("127.0.0.1:0")
            .await
            .unwrap();
        let address = server.local_addr().to_string().parse().unwrap();
        let router = Server::builder().add_service(Echo::new("ours"));
        let served = match by {
            By::Serve => tokio::spawn(
                server
                    .serve(|incoming, shutdown| Ok(router.serve_with_incoming_shutdown(incoming, shutdown))),
            ),
            By::ServeTls => {
                tokio::spawn(server.serve_tls(|incoming, shutdown| {
                    Ok(router.serve_with_incoming_shutdown(incoming, shutdown))
                }))
            }
        };
        Self { address, stop: Some(stop), force: Some(force), served }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) fn force(&mut self) {
        self.force.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn ended(&mut self) -> Result<()> {
        timeout(SOON, &mut self.served).await.expect("the server should have ended").unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.served.abort();
    }
}
