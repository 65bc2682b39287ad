//! Least request, where servers fail at once.

use futures_util::future::join_all;
use hither_tonic::{DiscoveryChannel, LeastRequest};
use tokio::time::timeout;

use crate::SECOND;
use crate::support::{Client, Registry, SERVICE, Server};

const CALLERS: usize = 16;

/// Two servers on sockets, and a client of both.
async fn two() -> (Registry, [Server; 2], Client) {
    let mut registry = Registry::new();
    let servers = [Server::start().await, Server::start().await];
    for server in &servers {
        registry.up(&server.address).await;
    }
    let builder = DiscoveryChannel::builder(registry.discovery(), SERVICE)
        .policy(LeastRequest::default().with_seed(1))
        .connect()
        .await;
    let client = Client::new(&builder.unwrap());
    while servers.iter().any(|server| server.calls() == 0) {
        client.name().await.unwrap();
    }
    (registry, servers, client)
}

/// Makes so many calls by each caller; returns the share of the first server.
async fn share_of_first(client: &Client, servers: &[Server; 2], calls: usize) -> f64 {
    let counts = || [0, 1].map(|at| servers[at].calls() as f64);
    let before = counts();
    join_all((0..CALLERS).map(|_| async {
        for _ in 0..calls {
            let _ = client.call("Faulty", String::new()).await;
        }
    }))
    .await;
    let [first, second] = [0, 1].map(|at| counts()[at] - before[at]);
    first / (first + second)
}

#[tokio::test]
async fn a_server_that_fails_at_once_attracts_no_calls_and_is_back_within_seconds() {
    let (_registry, servers, client) = two().await;
    servers[0].open_gate();
    let share = share_of_first(&client, &servers, 200).await;
    assert!(share < 0.55, "{share}");
    servers[0].close_gate();
    let back = async { while share_of_first(&client, &servers, 50).await < 0.4 {} };
    timeout(15 * SECOND, back).await.expect("it has its share again");
}

#[tokio::test]
async fn what_fails_everywhere_shifts_nothing() {
    let (_registry, servers, client) = two().await;
    servers.iter().for_each(Server::open_gate);
    let share = share_of_first(&client, &servers, 200).await;
    assert!((0.45..0.55).contains(&share), "{share}");
}
