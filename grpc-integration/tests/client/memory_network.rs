//! The network in memory, as the tests of a program use it. What others report of such networks is named at the tests:
//! they ask for a way to test clients at all (grpc/grpc-rust#2335, tyrchen/tonic-mock#7).

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hither_core::{Instance, Resolver};
use hither_memory::MemoryRegistry;
use hither_tonic::{
    CalledInstance, DiscoveryChannel, ErrorKind, MemoryNetwork, MemoryServer, RoundRobin, WaitForReady,
};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::server::Router;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::SECOND;
use crate::support::{Client, Echo, Registry, SERVICE, path, until};

const MINUTE: Duration = Duration::from_secs(60);

/// A registry, and the network of the servers in it.
fn network() -> (MemoryRegistry, MemoryNetwork) {
    let registry = MemoryRegistry::new();
    (registry.clone(), MemoryNetwork::new(registry))
}

fn router(echo: &Echo) -> Router {
    tonic::transport::Server::builder().add_service(echo.clone())
}

/// A server, and what it sees.
async fn serve(network: &MemoryNetwork, address: &str) -> (MemoryServer, Echo) {
    let echo = Echo::new(address);
    (network.serve(SERVICE, address, router(&echo)).await.unwrap(), echo)
}

/// A channel over the network, with all the servers of now. No call hangs for ever.
async fn channel(network: &MemoryNetwork) -> DiscoveryChannel {
    let builder = network.channel(SERVICE).policy(RoundRobin::default()).default_timeout(60 * MINUTE);
    let channel = builder.connect().await.unwrap();
    settle().await;
    channel
}

/// Paused time advances only when all tasks wait, so everything that was due has happened then.
async fn settle() {
    sleep(SECOND).await;
}

/// A call that a server holds until its gate is open.
fn held(client: &Client) -> tokio::task::JoinHandle<Result<String, Status>> {
    let client = client.clone();
    tokio::spawn(async move { client.call("Hold", String::new()).await.map(tonic::Response::into_inner) })
}

#[tokio::test(start_paused = true)]
async fn unary_calls_reach_each_server_and_bring_back_its_status_codes() {
    let (_, network) = network();
    let servers = [serve(&network, "10.0.0.1:80").await, serve(&network, "10.0.0.2:80").await];
    let client = Client::new(&channel(&network).await);
    let mut names = [client.name().await.unwrap(), client.name().await.unwrap()];
    names.sort();
    assert_eq!(names, ["10.0.0.1:80", "10.0.0.2:80"]);
    let status = client.call("Fail", String::new()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "not today"));
    let status = client.call("Else", String::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(servers.map(|(_, echo)| echo.calls.load(Ordering::SeqCst)), [2, 2]);
}

/// A small pipe blocks for ever a writer that is its own reader (tokio-rs/tokio#5313).
#[tokio::test(start_paused = true)]
async fn streams_in_both_directions_are_longer_than_what_is_buffered() {
    let (_, network) = network();
    let (_server, echo) = serve(&network, "10.0.0.1:80").await;
    let client = Client::new(&channel(&network).await);
    let messages = stream::iter((0..64).map(|_| "a".repeat(64 * 1024)));
    let mut grpc = client.grpc.clone();
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<String, String>::new();
    let length = grpc.client_streaming(Request::new(messages), path("Length"), codec).await.unwrap();
    assert_eq!(length.into_inner(), (64 * 64 * 1024).to_string());

    let ticks = client.stream("Ticks", String::new()).await.unwrap();
    assert_eq!(ticks.take(100).filter(|tick| std::future::ready(tick.is_ok())).count().await, 100);
    let mut stream = client.stream("Stream", String::new()).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap(), "10.0.0.1:80");
    echo.gate.send_replace(true);
    assert_eq!(stream.message().await.unwrap().unwrap(), "end");
    assert!(stream.message().await.unwrap().is_none());
}

/// The names that a test makes up are not looked up by DNS, as bufconn's are (grpc/grpc-go#7091, #7856).
#[tokio::test(start_paused = true)]
async fn two_services_are_called_by_their_own_names() {
    let (registry, network) = network();
    let (bank, shop) = (Echo::new("bank"), Echo::new("shop"));
    let zoned = Instance::new("bank.internal:80".parse().unwrap()).with_zone("eu-1a");
    let _bank = network.serve_instance("bank", zoned, router(&bank)).await.unwrap();
    let _shop = network.serve("shop", "10.0.0.1:80", router(&shop)).await.unwrap();
    for service in ["bank", "shop"] {
        let client = Client::new(&network.channel(service).connect().await.unwrap());
        assert_eq!(client.name().await.unwrap(), service);
    }
    let records = registry.resolve(&"bank".parse().unwrap()).await.unwrap();
    assert_eq!(records.iter().next().unwrap().zone(), Some("eu-1a"));
}

#[tokio::test(start_paused = true)]
async fn a_program_that_makes_its_channels_itself_takes_the_network_as_a_connector() {
    let (registry, network) = network();
    let (_server, _) = serve(&network, "10.0.0.1:80").await;
    let builder = DiscoveryChannel::builder(hither_core::Discovery::new(registry), SERVICE);
    let channel = builder.connector(network).connect().await.unwrap();
    Client::new(&channel).name().await.unwrap();
}

/// Closing the listener of bufconn leaves connections open (grpc/grpc-go#9084).
#[tokio::test(start_paused = true)]
async fn a_killed_server_breaks_its_calls_and_its_record_stays_for_its_ttl() {
    let (registry, network) = network();
    let (a, echo_a) = serve(&network, "10.0.0.1:80").await;
    let (_b, echo_b) = serve(&network, "10.0.0.2:80").await;
    let client = Client::new(&channel(&network).await);
    let (first, second) = (held(&client), held(&client));
    settle().await;
    assert_eq!((echo_a.gate.receiver_count(), echo_b.gate.receiver_count()), (1, 1));
    let began = Instant::now();
    a.kill();
    echo_b.gate.send_replace(true);
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!(began.elapsed(), Duration::ZERO);
    let status = first.clone().err().or(second.clone().err()).unwrap();
    assert_eq!(first.or(second).unwrap(), "10.0.0.2:80");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("connection reset"), "{}", status.message());
    settle().await;
    assert_eq!(echo_a.gate.receiver_count(), 0, "the handler was dropped");

    let known = || async { registry.resolve(&Registry::service()).await.unwrap().len() };
    for _ in 0..4 {
        assert_eq!(client.name().await.unwrap(), "10.0.0.2:80");
    }
    assert_eq!(known().await, 2, "as the record of a process that was killed");
    sleep(MINUTE).await;
    assert_eq!(known().await, 1);
    let _again = serve(&network, "10.0.0.1:80").await;
    settle().await;
    let mut names = [client.name().await.unwrap(), client.name().await.unwrap()];
    names.sort();
    assert_eq!(names, ["10.0.0.1:80", "10.0.0.2:80"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_shuts_down_finishes_its_calls_and_is_no_longer_registered() {
    let (registry, network) = network();
    let (server, echo) = serve(&network, "10.0.0.1:80").await;
    let host = server.host().clone();
    let client = Client::new(&channel(&network).await);
    let call = held(&client);
    settle().await;
    let ended = tokio::spawn(server.shut_down());
    settle().await;
    assert!(registry.resolve(&Registry::service()).await.unwrap().is_empty());
    // The address is free while the calls of the one before finish, and its end does not concern the next one.
    let (_next, next_echo) = serve(&network, "10.0.0.1:80").await;
    settle().await;
    let other = held(&client);
    settle().await;
    assert_eq!((call.is_finished(), host.connections()), (false, 2));
    echo.gate.send_replace(true);
    assert_eq!(call.await.unwrap().unwrap(), "10.0.0.1:80");
    ended.await.unwrap();
    settle().await;
    assert_eq!((other.is_finished(), host.connections()), (false, 1));
    next_echo.gate.send_replace(true);
    other.await.unwrap().unwrap();
    Client::new(&channel(&network).await).name().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_graceful_shutdown_ends_in_time_whatever_its_calls_do() {
    let (_, network) = network();
    let (server, _echo) = serve(&network, "10.0.0.1:80").await;
    let client = Client::new(&channel(&network).await);
    let call = held(&client);
    settle().await;
    let began = Instant::now();
    server.shut_down().await;
    assert_eq!(began.elapsed().as_secs(), 20);
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

/// All timers are Tokio's, so paused time is enough (hyperium/hyper#3950 was one that was not).
#[tokio::test(start_paused = true)]
async fn a_frozen_server_answers_nothing_until_it_is_thawed() {
    let (_, network) = network();
    let (server, echo) = serve(&network, "10.0.0.1:80").await;
    // Keep-alive would close the connection: see below.
    let builder = network.channel(SERVICE).keepalive_interval(None);
    let client = Client::new(&builder.connect().await.unwrap());
    let mut ticks = client.stream("Ticks", String::new()).await.unwrap();
    ticks.message().await.unwrap().unwrap();
    settle().await;
    server.host().freeze();
    let mut request = Request::new(String::new());
    request.set_timeout(3 * SECOND);
    let began = Instant::now();
    let status = client.call("Name", request).await.unwrap_err();
    assert_eq!((status.code(), began.elapsed().as_secs()), (Code::DeadlineExceeded, 3));
    let patient = client.clone();
    let call = tokio::spawn(async move { patient.name().await });
    // What was under way arrives; then nothing does.
    while timeout(SECOND, ticks.message()).await.is_ok() {}
    sleep(60 * MINUTE).await;
    assert_eq!((call.is_finished(), echo.calls.load(Ordering::SeqCst)), (false, 1));
    server.host().thaw();
    assert_eq!(timeout(SECOND, call).await.unwrap().unwrap().unwrap(), "10.0.0.1:80");
    ticks.message().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn keep_alive_moves_calls_away_from_a_frozen_server() {
    let (_, network) = network();
    let (a, _) = serve(&network, "10.0.0.1:80").await;
    let (_b, echo_b) = serve(&network, "10.0.0.2:80").await;
    echo_b.gate.send_replace(true);
    let client = Client::new(&channel(&network).await);
    a.host().freeze();
    let began = Instant::now();
    let (first, second) = (held(&client), held(&client));
    let outcomes = [first.await.unwrap(), second.await.unwrap()];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!((10..=25).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    for _ in 0..4 {
        assert_eq!(client.name().await.unwrap(), "10.0.0.2:80");
    }
}

#[tokio::test(start_paused = true)]
async fn connects_that_are_ignored_end_at_the_timeouts_of_the_channel() {
    let (_, network) = network();
    let (server, _) = serve(&network, "10.0.0.1:80").await;
    server.host().ignore_connects();
    let began = Instant::now();
    let error = network.channel(SERVICE).connect().await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed().as_secs()), (ErrorKind::NotReady, 20));
    assert!(error.to_string().ends_with("no HTTP/2 within 10s at 10.0.0.1:80"), "{error}");

    let channel = network.channel(SERVICE).connect_lazy().unwrap();
    let client = Client::new(&channel);
    let call = tokio::spawn(async move { client.name().await });
    sleep(SECOND).await;
    server.host().answer_connects();
    let began = Instant::now();
    call.await.unwrap().unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "the attempt that was waiting was answered");
}

/// The connector of tonic's example, which many have copied, opens one connection: the next is an error.
#[tokio::test(start_paused = true)]
async fn reset_connections_are_made_again() {
    let (_, network) = network();
    let (server, echo) = serve(&network, "10.0.0.1:80").await;
    let client = Client::new(&channel(&network).await);
    let (call, mut ticks) = (held(&client), client.stream("Ticks", String::new()).await.unwrap());
    settle().await;
    server.host().reset_connections();
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    let status = loop {
        match ticks.message().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    client.name().await.unwrap();
    settle().await;
    assert_eq!((server.host().connections(), echo.gate.receiver_count()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn where_nothing_listens_connections_are_refused() {
    let (registry, network) = network();
    let mut dead = Registry::new();
    dead.up("10.0.0.9:80").await;
    drop(registry);
    let builder = DiscoveryChannel::builder(dead.discovery(), SERVICE).connector(network.clone());
    let began = Instant::now();
    let status = Client::new(&builder.connect_lazy().unwrap()).name().await.unwrap_err();
    assert_eq!((status.code(), began.elapsed()), (Code::Unavailable, Duration::ZERO));
    assert!(status.message().ends_with("connection refused at 10.0.0.9:80"), "{}", status.message());

    // A call that waits is answered by a server that comes up there.
    let channel = DiscoveryChannel::builder(dead.discovery(), SERVICE).connector(network.clone());
    let client = Client::new(&channel.connect_lazy().unwrap());
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(WaitForReady(true));
    let call = tokio::spawn(async move { client.call("Name", request).await });
    sleep(MINUTE).await;
    let (_server, _) = serve(&network, "10.0.0.9:80").await;
    call.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_channel_and_a_dropped_server_leave_no_connection_and_no_task() {
    let (registry, network) = network();
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let (server, _) = serve(&network, "10.0.0.1:80").await;
    let host = server.host().clone();
    let channel = channel(&network).await;
    Client::new(&channel).name().await.unwrap();
    assert_eq!(host.connections(), 1);
    drop(channel);
    until("the connection is closed", || host.connections() == 0).await;
    drop(server);
    drop(network);
    until("the tasks have ended", || tasks() == before).await;
    assert_eq!(registry.faults().open_watches(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_registry_is_part_of_a_test() {
    let (registry, network) = network();
    let (_server, _) = serve(&network, "10.0.0.1:80").await;
    let client = Client::new(&channel(&network).await);
    registry.faults().stop();
    sleep(60 * MINUTE).await;
    client.name().await.unwrap();
    let began = Instant::now();
    let error = network.serve(SERVICE, "10.0.0.2:80", router(&Echo::new("b"))).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed().as_secs()), (ErrorKind::NotRegistered, 10));
    registry.faults().wipe();
    registry.faults().start();
    sleep(MINUTE).await;
    client.name().await.unwrap();
    assert_eq!(registry.resolve(&Registry::service()).await.unwrap().len(), 1);
}

/// Handlers that log their client need not be changed for a test.
#[tokio::test(start_paused = true)]
async fn a_server_sees_an_address_of_each_client() {
    let (_, network) = network();
    let (_server, _) = serve(&network, "10.0.0.1:80").await;
    let mut peers = Vec::new();
    for _ in 0..2 {
        let client = Client::new(&channel(&network).await);
        let called = CalledInstance::default();
        let mut request = Request::new(String::new());
        request.extensions_mut().insert(called.clone());
        peers.push(client.call("Peer", request).await.unwrap().into_inner());
        assert_eq!(called.get().unwrap().instance().address().to_string(), "10.0.0.1:80");
    }
    assert_eq!(peers, ["127.0.0.1:49152 0", "127.0.0.1:49153 0"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_served_is_an_error_that_names_it() {
    let (_, network) = network();
    let (_server, _) = serve(&network, "10.0.0.1:80").await;
    let echo = Echo::new("b");
    let error = network.serve(SERVICE, "10.0.0.1:80", router(&echo)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bind);
    assert_eq!(error.report(), "cannot listen on 10.0.0.1:80: address in use");
    assert_eq!(error.address(), Some(&"10.0.0.1:80".parse().unwrap()));
    for (service, address) in [("", "10.0.0.2:80"), (SERVICE, "10.0.0.2")] {
        let error = network.serve(service, address, router(&echo)).await.unwrap_err();
        assert_eq!(error.kind().code(), Code::Internal, "{error}");
    }
    assert!(network.host("").is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_in_real_time_and_on_several_threads() {
    let (_, network) = network();
    let (_server, echo) = serve(&network, "10.0.0.1:80").await;
    let client = Client::new(&network.channel(SERVICE).connect().await.unwrap());
    let calls = (0..1000).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.name().await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert_eq!(echo.calls.load(Ordering::SeqCst), 1000);
}
