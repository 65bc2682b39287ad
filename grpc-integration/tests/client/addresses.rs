//! Instances with several addresses and with host names, over real sockets.

use std::time::Duration;

use hither_core::Instance;
use hither_tonic::{ChannelBuilder, DiscoveryChannel};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::SECOND;
use crate::support::{Client, Registry, SERVICE, Server, until};

fn channel(registry: &Registry) -> ChannelBuilder {
    DiscoveryChannel::builder(registry.discovery(), SERVICE)
}

fn instance(addresses: &[&str]) -> Instance {
    let mut addresses = addresses.iter().map(|address| address.parse().unwrap());
    let first = Instance::new(addresses.next().unwrap());
    addresses.fold(first, Instance::with_address)
}

/// The port of `localhost`, which is 127.0.0.1, ::1 or both.
fn at_localhost(server: &Server) -> String {
    server.address.replace("127.0.0.1", "localhost")
}

#[tokio::test]
async fn a_server_is_called_at_a_host_name() {
    let mut registry = Registry::new();
    let server = Server::start().await;
    registry.up(&at_localhost(&server)).await;
    let client = Client::new(&channel(&registry).connect().await.unwrap());
    client.name().await.unwrap();
    assert_eq!(server.calls(), 1);
}

/// grpc/grpc-node#2785: an attempt whose peer never sends SETTINGS had no end there.
#[tokio::test]
async fn an_address_that_accepts_and_never_speaks_delays_a_quarter_of_a_second() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut registry = Registry::new();
    let server = Server::start().await;
    // The same family: a head start that only covers the first address of the other one does not help.
    let addresses = [&silent.local_addr().unwrap().to_string(), server.address.as_str()];
    registry.put(instance(&addresses)).await;
    let began = Instant::now();
    let client = Client::new(&channel(&registry).connect().await.unwrap());
    assert!((SECOND / 4..2 * SECOND).contains(&began.elapsed()), "{:?}", began.elapsed());
    client.name().await.unwrap();

    let (mut abandoned, _) = silent.accept().await.unwrap();
    tokio::io::copy(&mut abandoned, &mut tokio::io::sink()).await.unwrap();
    assert_eq!(server.accepted(), 1);
}

/// Connections to it are not even accepted by the system.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_whose_backlog_is_full_delays_a_quarter_of_a_second() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(SECOND / 10, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 100, "the backlog has no end");
    }
    let mut registry = Registry::new();
    let server = Server::start().await;
    registry.put(instance(&[&address.to_string(), &server.address])).await;
    let began = Instant::now();
    let client = Client::new(&channel(&registry).connect().await.unwrap());
    assert!((SECOND / 4..2 * SECOND).contains(&began.elapsed()), "{:?}", began.elapsed());
    client.name().await.unwrap();
    let one_more = tokio::time::timeout(SECOND / 10, TcpStream::connect(address)).await;
    assert!(one_more.is_err(), "it was full all the time: {one_more:?}");
}

#[tokio::test]
async fn the_error_names_the_failure_at_each_address() {
    let mut registry = Registry::new();
    // A port that is free again.
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().map(|address| (silent, address.to_string())).unwrap();
    let addresses = ["no-such-host.invalid:80", &refused, "unix:///no/such/socket", &silent.1];
    registry.put(instance(&addresses)).await;
    let builder = channel(&registry).connect_timeout(Duration::from_millis(500)).ready_timeout(SECOND * 5);
    let channel = builder.connect_lazy().unwrap();
    let client = Client::new(&channel);
    let message = client.name().await.unwrap_err().message().to_owned();
    assert!(message.starts_with("0 of 1 instances of greeter ready; last error: "), "{message}");
    // In the order in which they fail: a lookup may take long. The last one, after half a second, is the silent one.
    assert!(message.contains("no-such-host.invalid not resolved"), "{message}");
    assert!(message.contains(&format!("at {refused}; ")), "{message}");
    assert!(message.contains("at unix:///no/such/socket"), "{message}");
    assert!(message.ends_with("; and 1 more"), "{message}");
}

/// A name that is not resolved stops neither the other names nor the addresses beside it.
#[cfg(unix)]
#[tokio::test]
async fn a_host_name_a_socket_and_an_address_are_one_instance() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let (mut on_socket, on_tcp) = (Some(Server::on_socket(&path)), Server::start().await);
    let mut registry = Registry::new();
    let socket = format!("unix://{}", path.display());
    let addresses = ["no-such-host.invalid:80", &socket, &at_localhost(&on_tcp)];
    registry.put(instance(&addresses)).await;
    let channel = channel(&registry).connect().await.unwrap();
    let client = Client::new(&channel);
    assert_eq!(client.name().await.unwrap(), socket);
    drop(on_socket.take());
    until("there is a connection to the other address", || on_tcp.open() == 1).await;
    channel.wait_ready(SECOND).await.unwrap();
    assert_eq!(client.name().await.unwrap(), on_tcp.address);
}
