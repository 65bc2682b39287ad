//! A server that runs out of file descriptors. Alone in its process, whose limit it lowers.
#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "support/log.rs"]
mod log;

use std::fs::File;
use std::time::Duration;

use hither_memory::MemoryRegistry;
use hither_tonic::Lifecycle;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use log::Log;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_shortage_of_file_descriptors_is_logged_once_and_accepting_resumes_after_it() {
    let log = Log::capture();
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum }).unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let server =
        Lifecycle::builder(MemoryRegistry::new()).service("greeter").bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().to_string();
    let served = tokio::spawn(server.serve(|incoming, shutdown| {
        Ok(Server::builder().add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
    }));

    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    // One for the client's end of the connection, and none for the server's.
    files.pop();
    let waiting = TcpStream::connect(&address).await.unwrap();
    let mut lines = Vec::new();
    let warned = async {
        while lines.is_empty() {
            sleep(Duration::from_millis(5)).await;
            lines.extend(log.take());
        }
    };
    timeout(SOON, warned).await.expect("a warning");
    // Several attempts later it is still the only line.
    sleep(Duration::from_millis(550)).await;
    lines.extend(log.take());
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(
        lines[0].starts_with("WARN cannot accept connections; retrying cause=Too many open files"),
        "{lines:?}"
    );

    files.clear();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut client = HealthClient::new(channel);
    timeout(SOON, client.check(HealthCheckRequest::default())).await.expect("an answer").unwrap();
    assert_eq!(log.take(), ["INFO accepting connections again"]);
    drop(waiting);
    served.abort();
}
