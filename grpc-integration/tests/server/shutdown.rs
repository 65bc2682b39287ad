//! Graceful shutdown: its order, its deadlines, and the forced end by a second signal.

use std::time::Duration;

use hither_core::{Resolver, Snapshot};
use hither_memory::MemoryRegistry;
use hither_tonic::{ErrorKind, Lifecycle};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{NEVER, Running, SOON, draining, greeter, health, seen, up, watch};

#[tokio::test]
async fn a_graceful_shutdown_has_the_order_in_which_no_client_sees_an_error() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let mut server = Running::start(registry.clone(), |builder| {
        builder
            .announce_delay(Duration::from_millis(500))
            .propagation_delay(Duration::from_secs(2))
            .instance(|instance| instance.with_zone("eu-1a").with_metadata("shard", "3"))
    })
    .await;

    let registered = seen(&mut snapshots, up).await;
    let instance = &registered.iter().next().unwrap();
    assert_eq!(instance.address().to_string(), server.address.to_string());
    assert_eq!((instance.zone(), instance.metadata()["shard"].as_str()), (Some("eu-1a"), "3"));
    let mut client = server.client().await;
    assert_eq!(health(&mut client).await, ServingStatus::Serving);

    server.stop();
    let leaving = seen(&mut snapshots, draining).await;
    assert_eq!(leaving.iter().next().unwrap().zone(), Some("eu-1a"), "only the state changes");
    assert_eq!(health(&mut client).await, ServingStatus::NotServing, "and it still answers");

    seen(&mut snapshots, Snapshot::is_empty).await;
    assert_eq!(
        health(&mut server.client().await).await,
        ServingStatus::NotServing,
        "a late client is still served"
    );

    let address = server.address.clone();
    server.ended().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "only now the listener is closed");
}

#[tokio::test]
async fn a_stream_that_is_open_is_cut_at_the_drain_timeout() {
    let registry = MemoryRegistry::new();
    let mut server =
        Running::start(registry, |builder| builder.drain_timeout(Duration::from_millis(300))).await;
    let mut stream = server.stream().await;
    assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    server.stop();

    assert_eq!(
        stream.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing,
        "the stream still lives"
    );
    server.ended().await.unwrap();
    let end = timeout(SOON, stream.message()).await.expect("the stream should have been cut");
    assert!(end.is_err(), "{end:?}");
}

/// hyperium/hyper#4170: such a connection kept tonic's servers from ending for an hour.
#[tokio::test]
async fn a_connection_without_requests_delays_shutdown_by_the_drain_timeout_at_most() {
    let registry = MemoryRegistry::new();
    let mut server =
        Running::start(registry, |builder| builder.drain_timeout(Duration::from_millis(300))).await;
    let mut silent = TcpStream::connect(&server.address).await.unwrap();
    // With a call, or the connections would be closed because there is none.
    let _stream = server.stream().await;
    server.stop();
    server.ended().await.unwrap();
    // Whatever the server sent first, and however it ends.
    let _ = timeout(SOON, silent.read_to_end(&mut Vec::new())).await.expect("it should have been cut");
}

/// As in PikoCI/pikoci#572, where clients that came back while the server was leaving kept it from ending.
#[tokio::test]
async fn a_stream_opened_during_the_propagation_delay_is_cut_at_the_drain_timeout() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let mut server = Running::start(registry, |builder| {
        builder.propagation_delay(Duration::from_secs(1)).drain_timeout(Duration::from_millis(300))
    })
    .await;
    seen(&mut snapshots, up).await;
    server.stop();
    seen(&mut snapshots, Snapshot::is_empty).await;
    let mut stream = server.stream().await;
    assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    server.ended().await.unwrap();
    let end = timeout(SOON, stream.message()).await.expect("the stream should have been cut");
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn a_second_signal_cuts_connections_at_once() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let mut server = Running::start(registry.clone(), |builder| {
        builder.announce_delay(NEVER).propagation_delay(NEVER).drain_timeout(NEVER)
    })
    .await;
    seen(&mut snapshots, up).await;
    let mut stream = server.stream().await;

    server.stop();
    seen(&mut snapshots, draining).await;
    assert!(server.accepts().await);
    registry.faults().delay(Duration::from_millis(100));
    server.force();

    server.ended().await.unwrap();
    registry.faults().delay(Duration::ZERO);
    while let Ok(Some(_)) = stream.message().await {}
    assert!(registry.resolve(&greeter()).await.unwrap().is_empty(), "no record is left behind");
}

#[tokio::test]
async fn a_second_signal_ends_draining_at_once() {
    let mut server = Running::start(MemoryRegistry::new(), |builder| builder.drain_timeout(NEVER)).await;
    let _stream = server.stream().await;
    server.stop();
    server.drains().await;
    assert!(!server.served.is_finished());
    server.force();
    server.ended().await.unwrap();
}

#[tokio::test]
async fn dropping_a_server_closes_connections_and_deregisters() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let server = Running::start(registry, |builder| builder).await;
    seen(&mut snapshots, up).await;
    let mut stream = server.stream().await;

    server.served.abort();

    seen(&mut snapshots, Snapshot::is_empty).await;
    while let Ok(Some(_)) =
        timeout(SOON, stream.message()).await.expect("the connection should have been cut")
    {}
    assert!(!server.accepts().await);
}

#[tokio::test]
async fn a_server_that_fails_later_is_deregistered_and_its_error_returned() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let (fail, failing) = oneshot::channel::<()>();
    let server = Lifecycle::builder(registry.clone()).service(greeter()).bind("127.0.0.1:0").await.unwrap();
    let served = tokio::spawn(server.serve(|_incoming, _shutdown| {
        Ok(async {
            failing.await.unwrap();
            Err::<(), _>("a late failure")
        })
    }));
    seen(&mut snapshots, up).await;

    // The process may exit as soon as the server has ended.
    registry.faults().delay(Duration::from_millis(100));
    fail.send(()).unwrap();

    let error = timeout(SOON, served).await.unwrap().unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.report().as_str()),
        (ErrorKind::Server, "the server failed: a late failure")
    );
    registry.faults().delay(Duration::ZERO);
    assert!(registry.resolve(&greeter()).await.unwrap().is_empty());
}
