//! A lifecycle on the network in memory, as the tests of a server use it.

use std::time::Duration;

use hither_memory::MemoryRegistry;
use hither_tonic::MemoryNetwork;
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Running, draining, seen, up, watch};

#[tokio::test(start_paused = true)]
async fn a_shutdown_with_all_its_delays_takes_no_time() {
    let registry = MemoryRegistry::new();
    let network = MemoryNetwork::new(registry.clone());
    let mut snapshots = watch(&registry).await;
    let listener = network.listen("greeter.internal:80").unwrap();
    let mut server = Running::start_at(registry, async |builder| {
        let builder = builder.announce_delay(Duration::from_millis(500));
        let builder = builder.propagation_delay(Duration::from_secs(2)).drain_timeout(Duration::from_secs(5));
        builder.listen(listener).await
    })
    .await;
    assert_eq!(server.address, "greeter.internal:80");
    seen(&mut snapshots, up).await;
    let mut client = HealthClient::new(network.channel("greeter").connect().await.unwrap());
    let request = HealthCheckRequest { service: "demo.Greeter".into() };
    let mut stream = client.watch(request).await.unwrap().into_inner();

    let began = Instant::now();
    server.stop();
    seen(&mut snapshots, draining).await;
    server.ended().await.unwrap();
    assert_eq!(began.elapsed().as_millis(), 7500, "0.5 s, 2 s, and 5 s for the stream that does not end");
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(network.host("greeter.internal:80").unwrap().connections(), 0);
}
