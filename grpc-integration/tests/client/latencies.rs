//! Peak EWMA, where servers are slow, frozen or failing.

use futures_util::future::join_all;
use hither_core::Instance;
use hither_tonic::PeakEwma;
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

use crate::support::{Client, Net, Registry, Server};
use crate::{SECOND, channel};

/// Servers whose calls take two milliseconds, and a client of them.
async fn servers(weights: &[u32]) -> (Registry, Net, Vec<Server>, Client) {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = Vec::new();
    for (number, weight) in weights.iter().enumerate() {
        let server = Server::on(&net, &format!("s{number}:1"));
        server.set_delay(2);
        registry.put(Instance::new(server.address.parse().unwrap()).with_weight(*weight)).await;
        servers.push(server);
    }
    let builder = channel(&registry, &net).policy(PeakEwma::default().with_seed(1));
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    (registry, net, servers, client)
}

/// Makes so many calls by each of 16 callers; returns the share of each server.
async fn shares(client: &Client, servers: &[Server], method: &str, calls: usize) -> Vec<f64> {
    let before: Vec<_> = servers.iter().map(Server::calls).collect();
    join_all((0..16).map(|_| async {
        for _ in 0..calls {
            // What is frozen answers nothing.
            let _ = timeout(SECOND, client.call(method, String::new())).await;
        }
    }))
    .await;
    let calls = servers.iter().zip(before).map(|(server, before)| (server.calls() - before) as f64);
    let (calls, all) = (calls.clone(), calls.sum::<f64>());
    calls.map(|calls| calls / all).collect()
}

#[tokio::test(start_paused = true)]
async fn equal_servers_have_equal_shares_and_a_slow_one_little_until_it_is_fast_again() {
    let (_registry, _net, servers, client) = servers(&[1; 3]).await;
    let equal = shares(&client, &servers, "Slow", 200).await;
    assert!(equal.iter().all(|share| (0.25..0.42).contains(share)), "{equal:?}");
    servers[0].set_delay(40);
    let slow = shares(&client, &servers, "Slow", 200).await;
    assert!(slow[0] < 0.03, "{slow:?}");
    servers[0].set_delay(2);
    sleep(60 * SECOND).await;
    let equal = shares(&client, &servers, "Slow", 200).await;
    assert!(equal[0] > 0.25, "{equal:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_gets_a_few_calls_only() {
    let (_registry, _net, servers, client) = servers(&[1; 3]).await;
    servers.iter().for_each(Server::open_gate);
    shares(&client, &servers, "Hold", 50).await;
    servers[0].close_gate();
    let frozen = shares(&client, &servers, "Hold", 500).await;
    assert!(frozen[0] < 0.005, "{frozen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_at_once_attracts_nothing_and_what_fails_everywhere_shifts_nothing() {
    let (_registry, _net, servers, client) = servers(&[1; 3]).await;
    shares(&client, &servers, "Faulty", 50).await;
    servers[0].open_gate();
    let failing = shares(&client, &servers, "Faulty", 500).await;
    assert!(failing[0] < 0.05, "{failing:?}");
    servers.iter().for_each(Server::open_gate);
    let failing = shares(&client, &servers, "Faulty", 2000).await;
    assert!(failing.iter().all(|share| (0.2..0.47).contains(share)), "{failing:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_a_pause_has_it() {
    let (_registry, _net, servers, client) = servers(&[1; 2]).await;
    servers[0].open_gate();
    while client.call("Busy", String::new()).await.is_ok() {}
    let (calls, asked) = (servers[0].calls(), Instant::now());
    servers[0].close_gate();
    while asked.elapsed() < 4 * SECOND {
        assert_eq!(client.call("Busy", String::new()).await.unwrap().into_inner(), "s1:1");
        sleep(SECOND / 100).await;
    }
    assert_eq!(servers[0].calls(), calls);
    sleep(2 * SECOND).await;
    let back = async {
        while client.name().await.unwrap() != "s0:1" {
            sleep(SECOND / 100).await;
        }
    };
    timeout(SECOND, back).await.expect("it is called again");
}

/// Where there is no other it is called all the same.
#[tokio::test(start_paused = true)]
async fn the_only_server_is_called_though_it_has_asked_for_a_pause() {
    let (_registry, _net, servers, client) = servers(&[1]).await;
    servers[0].open_gate();
    client.call("Busy", String::new()).await.unwrap_err();
    servers[0].close_gate();
    client.call("Busy", String::new()).await.unwrap();
}

/// tower#134: one that joined was not called until another had taken as long as the latency assumed of it.
#[tokio::test(start_paused = true)]
async fn a_server_that_joins_has_its_share_at_once() {
    let (mut registry, net, mut servers, client) = servers(&[1; 2]).await;
    shares(&client, &servers, "Slow", 100).await;
    let joining = Server::on(&net, "new:1");
    joining.set_delay(2);
    registry.up("new:1").await;
    servers.push(joining);
    sleep(SECOND).await;
    let equal = shares(&client, &servers, "Slow", 200).await;
    assert!((0.25..0.42).contains(&equal[2]), "{equal:?}");
}

#[tokio::test(start_paused = true)]
async fn shares_of_equally_fast_servers_are_the_weights() {
    let (_registry, _net, servers, client) = servers(&[1, 4, 0]).await;
    let weighted = shares(&client, &servers, "Slow", 500).await;
    assert!((0.14..0.26).contains(&weighted[0]) && weighted[2] == 0.0, "{weighted:?}");
}

/// Opens a stream on this server, and reads its first message.
async fn stream_on(server: &Server, client: &Client) -> Streaming<String> {
    loop {
        let before = server.calls();
        let mut stream = client.stream("Stream", String::new()).await.unwrap();
        stream.message().await.unwrap();
        if server.calls() > before {
            return stream;
        }
    }
}

/// An open stream was a call without an answer, and its server got no other call until it ended.
#[tokio::test(start_paused = true)]
async fn a_server_with_an_open_stream_has_its_share_meanwhile_and_afterwards() {
    let (_registry, _net, servers, client) = servers(&[1; 2]).await;
    shares(&client, &servers, "Slow", 50).await;
    for is_cancelled in [true, false] {
        let mut stream = stream_on(&servers[0], &client).await;
        let reading = tokio::spawn(async move { while stream.message().await.unwrap().is_some() {} });
        // Each time it has answered other calls, and nothing since.
        for _ in 0..3 {
            sleep(60 * SECOND).await;
            let open = shares(&client, &servers, "Slow", 200).await;
            assert!(open[0] > 0.35, "{open:?}");
        }
        if is_cancelled {
            reading.abort();
        } else {
            servers[0].open_gate();
        }
        assert_eq!(reading.await.is_err(), is_cancelled);
        let ended = shares(&client, &servers, "Slow", 200).await;
        assert!(ended[0] > 0.35, "{ended:?}");
    }
}
