//! A server without delays in its shutdown, and helpers to observe it.

use std::time::Duration;

use futures_util::StreamExt;
use hither_core::{InstanceState, Registrar, Resolver, ServiceName, Snapshot, SnapshotStream};
use hither_memory::MemoryRegistry;
use hither_tonic::{Lifecycle, LifecycleBuilder, Result};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::HealthReporter;

/// Long enough to be never in a test.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);
/// How long these servers wait for their registry on the way out.
pub(crate) const REGISTRY_TIMEOUT: Duration = Duration::from_millis(200);
/// How long anything may take that should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn greeter() -> ServiceName {
    "greeter".parse().unwrap()
}

/// A server of gRPC health, and the means to end it.
pub(crate) struct Running {
    pub(crate) address: String,
    pub(crate) reporter: HealthReporter,
    stop: Option<oneshot::Sender<()>>,
    force: Option<oneshot::Sender<()>>,
    pub(crate) served: JoinHandle<Result<()>>,
}

impl Running {
    /// Starts a server whose steps take no time, except as `describe` sets it.
    pub(crate) async fn start(
        registrar: impl Registrar,
        describe: impl FnOnce(LifecycleBuilder) -> LifecycleBuilder,
    ) -> Self {
        Self::start_at(registrar, async |builder| describe(builder).bind("127.0.0.1:0").await).await
    }

    /// Starts such a server where `bind` puts it.
    pub(crate) async fn start_at(
        registrar: impl Registrar,
        bind: impl AsyncFnOnce(LifecycleBuilder) -> Result<Lifecycle>,
    ) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (force, forced) = oneshot::channel::<()>();
        let (reporter, health) = tonic_health::server::health_reporter();
        let builder = Lifecycle::builder(registrar)
            .service(greeter())
            .health(reporter.clone(), ["demo.Greeter"])
            .announce_delay(Duration::ZERO)
            .propagation_delay(Duration::ZERO)
            .registry_timeout(REGISTRY_TIMEOUT)
            .shutdown_on(async { drop(stopped.await) }, async { drop(forced.await) });
        let server = bind(builder).await.unwrap();
        let address = server.local_addr().to_string();
        let served = tokio::spawn(server.serve(|incoming, shutdown| {
            Ok(Server::builder().add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
        }));
        Self { address, reporter, stop: Some(stop), force: Some(force), served }
    }

    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) fn force(&mut self) {
        self.force.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn ended(self) -> Result<()> {
        timeout(SOON, self.served).await.expect("the server should have ended").unwrap()
    }

    pub(crate) async fn client(&self) -> HealthClient<Channel> {
        client(&self.address).await
    }

    /// A call that never ends by itself.
    pub(crate) async fn stream(&self) -> Streaming<HealthCheckResponse> {
        let request = HealthCheckRequest { service: String::new() };
        self.client().await.watch(request).await.unwrap().into_inner()
    }

    pub(crate) async fn accepts(&self) -> bool {
        TcpStream::connect(&self.address).await.is_ok()
    }

    /// Waits until it has closed its listener, and drains.
    pub(crate) async fn drains(&self) {
        let refused = async {
            while self.accepts().await {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, refused).await.expect("draining should have begun");
    }
}

pub(crate) async fn client(address: impl std::fmt::Display) -> HealthClient<Channel> {
    HealthClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap())
}

pub(crate) async fn health(client: &mut HealthClient<Channel>) -> ServingStatus {
    let request = HealthCheckRequest { service: "demo.Greeter".into() };
    client.check(request).await.unwrap().into_inner().status()
}

pub(crate) async fn watch(registry: &MemoryRegistry) -> SnapshotStream {
    registry.watch(&greeter()).await.unwrap()
}

/// Waits for a snapshot that `wanted` accepts.
pub(crate) async fn seen(snapshots: &mut SnapshotStream, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let look = async {
        loop {
            let snapshot = snapshots.next().await.unwrap().unwrap();
            if wanted(&snapshot) {
                return snapshot;
            }
        }
    };
    timeout(SOON, look).await.expect("such a snapshot")
}

pub(crate) fn up(snapshot: &Snapshot) -> bool {
    snapshot.iter().any(|instance| instance.state() == InstanceState::Up)
}

pub(crate) fn draining(snapshot: &Snapshot) -> bool {
    snapshot.iter().any(|instance| instance.state() == InstanceState::Draining)
}
