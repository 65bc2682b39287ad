//! How many connections there are, when they are made, and when they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::future::join_all;
use hither_core::{Backoff, Instance, InstanceState};
use hither_tonic::{Connected, Connector, Destination, DiscoveryChannel, Sticky};
use tokio::runtime::Handle;
use tokio::time::sleep;
use tracing::level_filters::LevelFilter;

use crate::support::{Client, Log, Net, Registry, SERVICE, Server, peers, until};
use crate::{SECOND, channel};

fn one_stream(server: tonic::transport::Server) -> tonic::transport::Server {
    server.max_concurrent_streams(1)
}

#[tokio::test(start_paused = true)]
async fn two_records_with_one_address_share_one_connection() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let (a, b) = (Server::on(&net, "a:1"), Server::on(&net, "b:1"));
    let instance =
        |id: &str, address: &str| Instance::new(address.parse().unwrap()).with_id(id.parse().unwrap());
    for (id, address) in [("one", "a:1"), ("other", "a:1"), ("third", "b:1")] {
        registry.put(instance(id, address)).await;
    }
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    sleep(SECOND).await;
    for _ in 0..10 {
        client.name().await.unwrap();
    }
    assert_eq!((a.accepted(), b.accepted()), (1, 1));
    assert_eq!((a.calls(), b.calls()), (5, 5), "it is one server");

    registry.put(instance("one", "a:1").with_state(InstanceState::Draining)).await;
    sleep(SECOND).await;
    client.name().await.unwrap();
    client.name().await.unwrap();
    assert_eq!((a.calls(), b.calls()), (6, 6), "that takes calls while one of its records does");
    registry.leave("one").await;
    sleep(SECOND).await;
    assert_eq!((a.open(), a.accepted()), (1, 1));
    registry.put(instance("other", "a:1").with_state(InstanceState::Draining)).await;
    registry.leave("other").await;
    until("the connection is closed", || a.open() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_description_keeps_the_connection() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    for shard in 0..10 {
        let instance = Instance::new("a:1".parse().unwrap()).with_weight(shard);
        registry.put(instance.with_metadata("shard", shard.to_string()).with_zone("eu-1a")).await;
        sleep(SECOND).await;
        client.name().await.unwrap();
    }
    assert_eq!((server.accepted(), net.dials("a:1").len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_allows_few_streams_gets_more_connections() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::described(&net, "a:1", one_stream);
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(client.stream("Stream", String::new()).await.unwrap());
    }
    assert_eq!(server.open(), 5);
    drop(streams);
    client.name().await.unwrap();
    assert_eq!(server.accepted(), 5);
}

#[tokio::test(start_paused = true)]
async fn calls_wait_in_turn_while_all_connections_are_full() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::described(&net, "a:1", one_stream);
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).max_connections(3).connect().await.unwrap());
    let calls = tokio::spawn({
        let client = client.clone();
        async move { join_all((0..50).map(|_| client.call("Hold", String::new()))).await }
    });
    until("as many calls are there as can be", || server.calls() == 3).await;
    sleep(60 * SECOND).await;
    assert_eq!((server.calls(), server.accepted()), (3, 3));

    let mut request = tonic::Request::new(String::new());
    request.set_timeout(SECOND);
    let status = client.call("Name", request).await.unwrap_err();
    let expected = "not done within 1s: no connection has room for it";
    assert_eq!(status.message(), expected);

    server.open_gate();
    for answer in calls.await.unwrap() {
        answer.unwrap();
    }
    assert_eq!(server.calls(), 50);
}

#[tokio::test]
async fn no_call_is_lost_between_many_tasks_and_few_streams() {
    for streams in [1, 2, 7] {
        let (mut registry, net) = (Registry::new(), Net::new());
        let describe = match streams {
            1 => one_stream,
            2 => |server: tonic::transport::Server| server.max_concurrent_streams(2),
            _ => |server: tonic::transport::Server| server.max_concurrent_streams(7),
        };
        let servers = ["a:1", "b:1"].map(|address| Server::described(&net, address, describe));
        registry.up("a:1").await;
        registry.up("b:1").await;
        let client = Client::new(&channel(&registry, &net).max_connections(2).connect().await.unwrap());
        let tasks = (0..30).map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..30 {
                    client.name().await.unwrap();
                }
            })
        });
        for task in join_all(tasks).await {
            task.unwrap();
        }
        assert_eq!(servers.iter().map(Server::calls).sum::<usize>(), 900);
        assert!(servers.iter().all(|server| server.accepted() <= 2));
    }
}

#[tokio::test(start_paused = true)]
async fn sticky_sends_calls_to_the_next_when_the_first_is_full() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let servers = ["a:1", "b:1"].map(|address| Server::described(&net, address, one_stream));
    registry.up("a:1").await;
    registry.up("b:1").await;
    let builder = channel(&registry, &net).policy(Sticky::default()).max_connections(1);
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    let first = client.stream("Stream", String::new()).await.unwrap();
    assert_eq!(client.name().await.unwrap(), "b:1");
    drop(first);
    assert_eq!(client.name().await.unwrap(), "a:1");
    assert!(servers.iter().all(|server| server.accepted() == 1));
}

#[tokio::test(start_paused = true)]
async fn a_further_connection_that_is_not_needed_any_more_is_closed() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::described(&net, "a:1", one_stream);
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let first = client.stream("Stream", String::new()).await.unwrap();
    let second = client.stream("Stream", String::new()).await.unwrap();
    drop(second);
    sleep(30 * SECOND).await;
    assert_eq!(server.open(), 2);
    sleep(120 * SECOND).await;
    assert_eq!(server.open(), 1);
    drop(first);
    sleep(600 * SECOND).await;
    assert_eq!(server.open(), 1, "the last one stays");
    client.name().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_reestablished_without_any_call() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    for times in 2..5 {
        sleep(10 * SECOND).await;
        server.break_connections();
        until("there is a new one", || server.accepted() == times && server.open() == 1).await;
        Client::new(&channel).name().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_instance_is_retried_with_exponential_backoff() {
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("dead:1").await;
    let _channel = channel(&registry, &net).connect_lazy().unwrap();
    sleep(600 * SECOND).await;
    let dials = net.dials("dead:1");
    let mut expected = 1.0_f64;
    for pair in dials.windows(2) {
        let delay = (pair[1] - pair[0]).as_secs_f64();
        assert!((expected * 0.79..expected * 1.21).contains(&delay), "{delay} for {expected}");
        expected = (expected * 1.6).min(120.0);
    }
    assert!((12..=16).contains(&dials.len()), "{}", dials.len());
}

#[tokio::test(start_paused = true)]
async fn instances_that_fail_together_are_not_retried_together() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let addresses: Vec<_> = (0..20).map(|i| format!("dead{i}:1")).collect();
    for address in &addresses {
        registry.up(address).await;
    }
    let _channel = channel(&registry, &net).connect_lazy().unwrap();
    sleep(10 * SECOND).await;
    for attempt in 1..4 {
        let mut times: Vec<_> = addresses.iter().map(|address| net.dials(address)[attempt]).collect();
        times.sort();
        times.dedup();
        assert!(times.len() > 15, "attempt {attempt} was made at {} different times", times.len());
    }
}

#[tokio::test(start_paused = true)]
async fn the_backoff_between_attempts_can_be_set() {
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("dead:1").await;
    let backoff = Backoff::proportional(3 * SECOND, 2.0, 10 * SECOND, 0.0);
    let _channel = channel(&registry, &net).backoff(backoff).connect_lazy().unwrap();
    sleep(40 * SECOND).await;
    let dials = net.dials("dead:1");
    let delays: Vec<_> = dials.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(delays, [3, 6, 10, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_accepts_and_closes_at_once_is_retried_with_backoff() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut incoming = net.listen("a:1");
    tokio::spawn(async move { while incoming.recv().await.is_some() {} });
    // And one that sends GOAWAY at once.
    let _seen = peers::going_away(&net, "b:1");
    registry.up("a:1").await;
    registry.up("b:1").await;
    let client = Client::new(&channel(&registry, &net).connect_lazy().unwrap());
    for _ in 0..100 {
        let _ = client.name().await;
        sleep(SECOND / 10).await;
    }
    // The peer that has sent SETTINGS is tolerated a few times more.
    for (address, most) in [("a:1", 10), ("b:1", 14)] {
        let dials = net.dials(address).len();
        assert!((3..=most).contains(&dials), "{dials} times {address}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_registers_again_is_connected_to_at_once() {
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    sleep(200 * SECOND).await;
    registry.leave("a:1").await;
    sleep(SECOND).await;
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    channel.wait_ready(SECOND).await.unwrap();
    assert_eq!(server.open(), 1);
}

/// As in linkerd/linkerd2-proxy#1289, which went on connecting to endpoints that were gone.
#[tokio::test(start_paused = true)]
async fn an_unreachable_instance_that_is_removed_is_not_connected_to_any_more() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    registry.up("dead:1").await;
    let _channel = channel(&registry, &net).connect().await.unwrap();
    sleep(60 * SECOND).await;
    registry.leave("dead:1").await;
    sleep(SECOND).await;
    let dials = net.dials("dead:1").len();
    sleep(3600 * SECOND).await;
    assert!(dials > 3 && net.dials("dead:1").len() == dials);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_clone_of_a_channel_ends_everything() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let (mut a, b) = (Server::on(&net, "a:1"), Server::described(&net, "b:1", one_stream));
    let _frozen = peers::Frozen::on(&net, "frozen:1");
    for address in ["a:1", "b:1", "dead:1", "frozen:1"] {
        registry.up(address).await;
    }
    sleep(SECOND).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let channel = channel(&registry, &net).connect().await.unwrap();
    let client = Client::new(&channel);
    join_all((0..20).map(|_| client.name())).await.into_iter().for_each(|name| drop(name.unwrap()));
    assert!(registry.faults().open_watches() == 1 && tasks() > before);

    let clone = channel.clone();
    drop((channel, client));
    Client::new(&clone).name().await.unwrap();
    drop(clone);
    until("the connections are closed", || a.open() == 0 && b.open() == 0).await;
    until("the watch has ended", || registry.faults().open_watches() == 0).await;
    until("the tasks have ended", || tasks() == before).await;
    a.stop();
    a.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_response_in_flight_finishes_after_the_channel_is_dropped() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    let mut stream = Client::new(&channel).stream("Stream", String::new()).await.unwrap();
    drop(channel);
    sleep(60 * SECOND).await;
    assert_eq!(stream.message().await.unwrap().unwrap(), "a:1");
    server.open_gate();
    assert_eq!(stream.message().await.unwrap().unwrap(), "end");
    assert!(stream.message().await.unwrap().is_none());
    until("the connection is closed", || server.open() == 0).await;
}

/// A peer that sends SETTINGS and never reads; the pipe to it takes 100 bytes.
#[derive(Debug, Default)]
struct Stuck(Arc<AtomicUsize>);

#[async_trait]
impl Connector for Stuck {
    async fn connect(&self, _destination: Destination<'_>) -> std::io::Result<Connected> {
        use tokio::io::AsyncWriteExt;
        let (ours, mut theirs) = tokio::io::duplex(100);
        self.0.fetch_add(1, Ordering::SeqCst);
        let open = Arc::clone(&self.0);
        tokio::spawn(async move {
            theirs.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            // Until it is cut.
            while theirs.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.is_ok() {
                sleep(SECOND).await;
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(ours.into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_keeps_no_connection_open_and_is_named_in_the_log() {
    let log = Log::capture_at(LevelFilter::DEBUG);
    let mut registry = Registry::new();
    registry.up("a:1").await;
    let open = Arc::<AtomicUsize>::default();
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let builder =
        DiscoveryChannel::builder(registry.discovery(), SERVICE).connector(Stuck(Arc::clone(&open)));
    let channel = builder.connect().await.unwrap();
    let client = Client::new(&channel);
    let call = tokio::spawn(async move { client.name().await });
    sleep(SECOND).await;
    assert_eq!(open.load(Ordering::SeqCst), 1);
    call.abort();
    drop(channel);
    until("the connection is cut", || open.load(Ordering::SeqCst) == 0).await;
    until("the tasks have ended", || tasks() == before).await;
    let lines = log.take_all();
    let closed: Vec<_> = lines.iter().filter(|line| line.contains("did not read GOAWAY; closing")).collect();
    assert_eq!(closed.len(), 1, "{lines:#?}");
    assert!(
        closed[0].contains("{service=greeter}") && closed[0].contains("connection{address=a:1}"),
        "{closed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_blocked_is_closed_with_requests_in_its_queue() {
    let mut registry = Registry::new();
    registry.up("a:1").await;
    let open = Arc::<AtomicUsize>::default();
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let builder =
        DiscoveryChannel::builder(registry.discovery(), SERVICE).connector(Stuck(Arc::clone(&open)));
    let channel = builder.keepalive_interval(None).connect().await.unwrap();
    let client = Client::new(&channel);
    let mut calls = Vec::new();
    for _ in 0..3 {
        let client = client.clone();
        calls.push(tokio::spawn(async move { client.name().await }));
        // The first one fills the pipe; the others are queued.
        sleep(SECOND).await;
    }
    for call in calls {
        call.abort();
    }
    drop((client, channel));
    until("the connection is cut", || open.load(Ordering::SeqCst) == 0).await;
    until("the tasks have ended", || tasks() == before).await;
}

#[tokio::test(start_paused = true)]
async fn after_goaway_a_new_connection_is_opened_while_calls_on_the_old_one_finish() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut old = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let mut stream = client.stream("Stream", String::new()).await.unwrap();
    sleep(10 * SECOND).await;
    let new = Server::on(&net, "a:1");
    old.stop();
    until("there is a connection to the new one, without any call", || new.open() == 1).await;
    client.name().await.unwrap();
    assert_eq!((new.calls(), old.calls(), old.open()), (1, 1, 1));
    old.open_gate();
    while stream.message().await.unwrap().is_some() {}
    old.ended().await;
}
