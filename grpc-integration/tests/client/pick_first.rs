//! gRPC's `pick_first`: one connection, and what happens when it is lost (gRFCs A61 and A62).

use std::time::Duration;

use hither_core::Backoff;
use hither_tonic::{ChannelBuilder, ConnectivityState, Selection};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::support::{Client, Net, Registry, Server};
use crate::{SECOND, channel};

fn pick_first(registry: &Registry, net: &Net) -> ChannelBuilder {
    channel(registry, net).selection(Selection::default().pick_first().with_seed(1))
}

async fn servers(registry: &mut Registry, net: &Net) -> Vec<Server> {
    let mut servers = Vec::new();
    for address in ["a:1", "b:1", "c:1", "d:1"] {
        servers.push(Server::on(net, address));
        registry.up(address).await;
    }
    servers
}

fn accepted(servers: &[Server]) -> usize {
    servers.iter().map(Server::accepted).sum()
}

#[tokio::test(start_paused = true)]
async fn one_server_is_connected_to_and_gets_all_calls() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let servers = servers(&mut registry, &net).await;
    let client = Client::new(&pick_first(&registry, &net).connect().await.unwrap());
    for _ in 0..100 {
        client.name().await.unwrap();
    }
    sleep(60 * SECOND).await;
    assert_eq!(accepted(&servers), 1);
    assert!(servers.iter().any(|server| server.calls() == 100));
}

#[tokio::test(start_paused = true)]
async fn channels_begin_with_different_servers() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let servers = servers(&mut registry, &net).await;
    let mut channels = Vec::new();
    for seed in 0..40 {
        let selection = Selection::default().pick_first().with_seed(seed);
        channels.push(channel(&registry, &net).selection(selection).connect().await.unwrap());
    }
    assert!(servers.iter().all(|server| (2..=20).contains(&server.open())), "{servers:?}");
}

#[tokio::test(start_paused = true)]
async fn the_next_one_is_connected_to_when_the_first_is_lost_and_it_stays() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = servers(&mut registry, &net).await;
    let client = Client::new(&pick_first(&registry, &net).connect().await.unwrap());
    let first = servers.iter().position(|server| server.open() == 1).unwrap();
    let address = servers.remove(first).address.clone();
    sleep(SECOND).await;
    let second = client.name().await.unwrap();
    assert_eq!(accepted(&servers), 1);
    // Unlike a priority: it stays with the second.
    let _back = Server::on(&net, &address);
    sleep(300 * SECOND).await;
    assert_eq!((client.name().await.unwrap(), accepted(&servers)), (second, 1));
}

#[tokio::test(start_paused = true)]
async fn the_next_one_is_connected_to_when_the_first_leaves_or_drains() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let servers = servers(&mut registry, &net).await;
    let client = Client::new(&pick_first(&registry, &net).connect().await.unwrap());
    for round in 1..4 {
        let name = client.name().await.unwrap();
        registry.draining(&name).await;
        if round % 2 == 0 {
            registry.leave(&name).await;
        }
        sleep(10 * SECOND).await;
        assert_ne!(client.name().await.unwrap(), name);
        assert_eq!(accepted(&servers), round + 1);
    }
}

/// A server that accepts connections and does not answer.
#[tokio::test(start_paused = true)]
async fn attempts_are_250_ms_apart_and_the_first_that_is_ready_is_used() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let silent: Vec<_> = ["a:1", "b:1", "c:1"].map(|address| net.listen(address)).into();
    for address in ["a:1", "b:1", "c:1", "d:1"] {
        registry.up(address).await;
    }
    let began = Instant::now();
    let client = Client::new(&pick_first(&registry, &net).connect_lazy().unwrap());
    let server = Server::on(&net, "d:1");
    assert_eq!(client.name().await.unwrap(), "d:1");
    let attempts: usize = ["a:1", "b:1", "c:1", "d:1"].iter().map(|address| net.dials(address).len()).sum();
    let delay = Duration::from_millis(250) * u32::try_from(attempts - 1).unwrap();
    assert!(began.elapsed() >= delay && began.elapsed() < delay + Duration::from_millis(20));
    sleep(60 * SECOND).await;
    let later: usize = ["a:1", "b:1", "c:1", "d:1"].iter().map(|address| net.dials(address).len()).sum();
    assert_eq!((later, server.accepted()), (attempts, 1), "the other attempts have ended");
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn when_all_have_failed_calls_fail_and_all_are_attempted_until_one_is_ready() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let addresses = ["a:1", "b:1", "c:1", "d:1"];
    for address in addresses {
        registry.up(address).await;
    }
    let client = Client::new(&pick_first(&registry, &net).connect_lazy().unwrap());
    let status = client.name().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().starts_with("0 of 4 instances of greeter ready; last error: "), "{status:?}");
    sleep(100 * SECOND).await;
    assert!(addresses.iter().all(|address| net.dials(address).len() > 4));
    // No attempt in between lets calls wait (sticky transient failure).
    let began = Instant::now();
    for _ in 0..100 {
        client.name().await.unwrap_err();
        sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() < 11 * SECOND);
    let server = Server::on(&net, "c:1");
    sleep(200 * SECOND).await;
    assert_eq!(client.name().await.unwrap(), "c:1");
    let dials = net.dials("a:1").len();
    sleep(300 * SECOND).await;
    assert_eq!((net.dials("a:1").len(), server.open()), (dials, 1));
}

/// A server that accepts connections and ends each once its SETTINGS have left.
fn ending(net: &Net, address: &str) {
    let mut incoming = net.listen(address);
    tokio::spawn(async move {
        while let Some(io) = incoming.recv().await {
            let mut connection = h2::server::handshake(io).await.unwrap();
            let _ = timeout(Duration::from_millis(1), connection.accept()).await;
        }
    });
}

/// Each walk would begin without what is known of the servers, and they would be connected to without a pause.
#[tokio::test(start_paused = true)]
async fn servers_keep_their_backoff_from_one_walk_to_the_next() {
    for seed in 0..4 {
        let (mut registry, net) = (Registry::new(), Net::new());
        ending(&net, "b:1");
        for address in ["a:1", "b:1"] {
            registry.up(address).await;
        }
        let selection = Selection::default().pick_first().with_seed(seed);
        let channel = channel(&registry, &net).selection(selection).connect_lazy().unwrap();
        sleep(100 * SECOND).await;
        // Of the one that refuses: after 0 s, 1 s, 2.6 s and so on. The first few connections to the other are of use for all
        // that is known.
        let dials = ["a:1", "b:1"].map(|address| net.dials(address).len());
        assert!((6..=11).contains(&dials[0]) && (12..=18).contains(&dials[1]), "{dials:?}");
        let error = Client::new(&channel).name().await.unwrap_err();
        assert!(error.message().starts_with("0 of 2 instances of greeter ready; last error: "), "{error}");
        // What is back is found, within the backoff.
        let server = Server::on(&net, "a:1");
        sleep(80 * SECOND).await;
        assert_eq!((server.open(), Client::new(&channel).name().await.unwrap()), (1, "a:1".to_owned()));
    }
}

/// Those before it in the order have a backoff that is not over, and the walk goes past them.
#[tokio::test(start_paused = true)]
async fn calls_wait_while_the_walk_goes_past_many_servers() {
    for place in [1, 99, 120, 149] {
        let (mut registry, net) = (Registry::new(), Net::new());
        for number in 0..150 {
            registry.up(&format!("h{number}:1")).await;
        }
        let backoff = Backoff::proportional(SECOND, 2.0, 100 * SECOND, 0.0);
        let channel = pick_first(&registry, &net).backoff(backoff).connect_lazy().unwrap();
        let client = Client::new(&channel);
        sleep(600 * SECOND).await;
        let server = Server::on(&net, &net.dialled()[place]);
        channel.wait_ready(200 * SECOND).await.unwrap();
        for round in 1..4 {
            assert_eq!(client.name().await.unwrap(), server.address);
            let accepted = server.accepted();
            server.break_connections();
            // In no time.
            for _ in 0..1000 {
                assert_ne!(channel.status().state(), ConnectivityState::TransientFailure, "{place} {round}");
                yield_now().await;
            }
            assert!(server.accepted() > accepted && server.open() == 1, "{server:?}");
        }
        assert_eq!(client.name().await.unwrap(), server.address);
    }
}

#[tokio::test(start_paused = true)]
async fn one_about_to_shut_down_is_left_when_another_one_can_be_connected_to() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let leaving = Server::on(&net, "a:1");
    registry.draining("a:1").await;
    registry.up("b:1").await;
    let client = Client::new(&pick_first(&registry, &net).connect().await.unwrap());
    sleep(100 * SECOND).await;
    assert_eq!(client.name().await.unwrap(), "a:1");
    let attempts = net.dials("b:1").len();
    assert!((6..=11).contains(&attempts), "{attempts}");
    let server = Server::on(&net, "b:1");
    // The next attempt of its backoff.
    sleep(80 * SECOND).await;
    assert_eq!(client.name().await.unwrap(), "b:1");
    assert_eq!((leaving.open(), leaving.accepted(), server.accepted()), (1, 1, 1));
}
