//! The end of draining: when no call is left, or at the drain timeout.

use std::time::Duration;

use hither_memory::MemoryRegistry;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as PbServingStatus;

use crate::log::Log;
use crate::support::{NEVER, Running};

/// A port scan, a load balancer's check, or a client that is frozen: hyperium/hyper#4170, hyperium/tonic#1820.
#[tokio::test]
async fn draining_ends_when_no_call_is_left_although_a_client_keeps_its_connection() {
    let log = Log::capture();
    let mut server = Running::start(MemoryRegistry::new(), |builder| builder.drain_timeout(NEVER)).await;
    let _silent = TcpStream::connect(&server.address).await.unwrap();
    server.client().await;
    server.stop();
    server.ended().await.unwrap();
    let lines = log.take();
    assert!(lines.contains(&"INFO no calls left; connections closed connections=1".to_owned()), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.starts_with("WARN")), "{lines:#?}");
}

#[tokio::test]
async fn a_call_in_flight_finishes_while_the_server_drains() {
    let log = Log::capture();
    let mut server = Running::start(MemoryRegistry::new(), |builder| builder.drain_timeout(NEVER)).await;
    // It ends when its service is gone.
    server.reporter.set_service_status("other", ServingStatus::Serving).await;
    let request = HealthCheckRequest { service: "other".into() };
    let mut call = server.client().await.watch(request).await.unwrap().into_inner();
    assert_eq!(call.message().await.unwrap().unwrap().status(), PbServingStatus::Serving);
    server.stop();
    server.drains().await;
    assert!(!server.served.is_finished());
    server.reporter.clear_service_status("other").await;
    assert_eq!(call.message().await.unwrap(), None);
    server.ended().await.unwrap();
    let lines = log.take();
    assert!(!lines.iter().any(|line| line.starts_with("WARN")), "{lines:#?}");
}

#[tokio::test]
async fn the_drain_timeout_cuts_calls_and_says_how_many() {
    let log = Log::capture();
    // Longer than a server without calls would have waited.
    let timeout = Duration::from_millis(4500);
    let mut server = Running::start(MemoryRegistry::new(), |builder| builder.drain_timeout(timeout)).await;
    let mut streams = [server.stream().await, server.stream().await];
    for stream in &mut streams {
        assert_eq!(stream.message().await.unwrap().unwrap().status(), PbServingStatus::Serving);
    }
    let _silent = TcpStream::connect(&server.address).await.unwrap();
    let began = Instant::now();
    server.stop();
    server.ended().await.unwrap();
    assert!(began.elapsed() >= timeout);
    let lines = log.take();
    for expected in [
        "INFO draining; no new calls accepted drain_timeout=4.5s connections=3 calls=2",
        "WARN connections cut connections=3 calls=2 forced=false",
    ] {
        assert!(lines.contains(&expected.to_owned()), "{lines:#?}");
    }
}
