//! The maximum age of connections, as clients see it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use hither_core::Discovery;
use hither_memory::MemoryRegistry;
use hither_tonic::{DiscoveryChannel, Lifecycle, LifecycleBuilder};
use tokio::time::{Instant, timeout};
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::SOON;

const AGE: Duration = Duration::from_millis(100);

/// A server that keeps the addresses of its clients.
async fn start(
    registry: &MemoryRegistry,
    describe: impl FnOnce(LifecycleBuilder) -> LifecycleBuilder,
) -> (String, Arc<Mutex<BTreeSet<SocketAddr>>>) {
    let peers = Arc::<Mutex<BTreeSet<SocketAddr>>>::default();
    let seen = Arc::clone(&peers);
    let look = tonic::service::InterceptorLayer::new(move |request: tonic::Request<()>| {
        seen.lock().unwrap().insert(request.remote_addr().unwrap());
        Ok(request)
    });
    let (reporter, health) = tonic_health::server::health_reporter();
    let builder = Lifecycle::builder(registry.clone()).service("greeter").health(reporter, ["demo"]);
    let server = describe(builder).bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().to_string();
    tokio::spawn(server.serve(|incoming, shutdown| {
        Ok(Server::builder().layer(look).add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
    }));
    (address, peers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_maximum_age_of_connections_costs_no_call() {
    let registry = MemoryRegistry::new();
    let (_, peers) = start(&registry, |builder| builder.max_connection_age(AGE)).await;
    let discovery = Discovery::new(registry);
    let channel = DiscoveryChannel::builder(&discovery, "greeter").connect().await.unwrap();
    // A stream that is older than many connections.
    let request = HealthCheckRequest { service: "demo".into() };
    let mut stream = HealthClient::new(channel.clone()).watch(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    // Until ten connections were used.
    let done = |peers: &Mutex<BTreeSet<SocketAddr>>| peers.lock().unwrap().len() >= 10;
    let callers = (0..16).map(|_| {
        let (mut client, peers) = (HealthClient::new(channel.clone()), Arc::clone(&peers));
        tokio::spawn(async move {
            while !done(&peers) {
                client.check(HealthCheckRequest::default()).await.unwrap();
            }
        })
    });
    let called = timeout(SOON, join_all(callers)).await.expect("ten connections");
    called.into_iter().for_each(|caller| caller.expect("no call fails"));
    assert!(timeout(AGE, stream.message()).await.is_err(), "without a grace the stream goes on");
}

#[tokio::test]
async fn a_call_that_outlives_the_grace_is_cut() {
    let registry = MemoryRegistry::new();
    let describe =
        |builder: LifecycleBuilder| builder.max_connection_age(AGE).max_connection_age_grace(10 * AGE);
    let (address, _) = start(&registry, describe).await;
    let began = Instant::now();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: "demo".into() };
    let mut stream = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    timeout(SOON, stream.message()).await.expect("it is cut").unwrap_err();
    let elapsed = began.elapsed();
    assert!(elapsed >= AGE.mul_f64(0.9) + 10 * AGE, "{elapsed:?}");
}
