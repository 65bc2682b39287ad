//! Fleets that restart under load: which calls fail. No call that was sent is retried, unless the channel is set to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use hither_core::Discovery;
use hither_memory::MemoryRegistry;
use hither_tonic::{
    CalledInstance, ChannelBuilder, DiscoveryChannel, MemoryNetwork, MemoryServer, MethodConfig, RetryPolicy,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::server::Router;
use tonic::{Code, Request, Status};

use crate::SECOND;
use crate::departures::Living;
use crate::support::{Client, Echo, SERVICE, SOON, until};

const SERVERS: usize = 5;
const ROUNDS: usize = 20;
const CALLERS: usize = 16;

/// Callers that make one call after the other: every other one reads a stream of five messages, in 50 ms.
struct Callers {
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<Made>>>,
}

/// A call that was made.
#[derive(Debug)]
struct Made {
    is_stream: bool,
    /// Where it was sent.
    server: String,
    began: Instant,
    ended: Instant,
    outcome: Result<(), Status>,
}

impl Callers {
    fn start(channel: &DiscoveryChannel) -> Self {
        let over = Arc::<AtomicBool>::default();
        let tasks = (0..CALLERS).map(|caller| {
            let (client, over) = (Client::new(channel), Arc::clone(&over));
            tokio::spawn(async move {
                let mut calls = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    calls.push(call(&client, caller % 2 == 0).await);
                }
                calls
            })
        });
        Self { tasks: tasks.collect(), over }
    }

    /// Returns all calls, when those in flight have ended.
    async fn end(self) -> Vec<Made> {
        self.over.store(true, Ordering::SeqCst);
        let calls = timeout(SOON, join_all(self.tasks)).await.expect("no call hangs");
        calls.into_iter().flat_map(Result::unwrap).collect()
    }
}

async fn call(client: &Client, is_stream: bool) -> Made {
    let (called, began) = (CalledInstance::default(), Instant::now());
    let mut request = Request::new(if is_stream { "5" } else { "1" }.to_owned());
    request.extensions_mut().insert(called.clone());
    let outcome =
        if is_stream { read(client, request).await } else { client.call("Count", request).await.map(drop) };
    let server = called.get().map(|instance| instance.instance().address().to_string());
    Made { is_stream, server: server.unwrap_or_default(), began, ended: Instant::now(), outcome }
}

async fn read(client: &Client, request: Request<String>) -> Result<(), Status> {
    let mut messages = client.stream("Count", request).await?;
    let mut count = 0;
    while messages.message().await?.is_some() {
        count += 1;
    }
    assert_eq!(count, 5, "the stream is whole");
    Ok(())
}

fn failed(calls: &[Made]) -> Vec<&Made> {
    calls.iter().filter(|call| call.outcome.is_err()).collect()
}

async fn serve(network: &MemoryNetwork, address: &str) -> (Echo, MemoryServer) {
    let echo = Echo::new(address);
    let router: Router = tonic::transport::Server::builder().add_service(echo.clone());
    (echo, network.serve(SERVICE, address, router).await.unwrap())
}

async fn fleet(network: &MemoryNetwork) -> VecDeque<(Echo, MemoryServer)> {
    let mut servers = VecDeque::new();
    for at in 0..SERVERS {
        servers.push_back(serve(network, &format!("10.0.0.{at}:80")).await);
    }
    servers
}

async fn called(echo: &Echo) {
    until("the new server is called", || echo.calls.load(Ordering::SeqCst) > 0).await;
}

#[tokio::test(start_paused = true)]
async fn no_call_fails_in_a_rolling_restart_of_servers_in_memory() {
    let network = MemoryNetwork::new(MemoryRegistry::new());
    let mut servers = fleet(&network).await;
    let callers = Callers::start(&network.channel(SERVICE).connect().await.unwrap());
    for _ in 0..ROUNDS * SERVERS {
        let (old, server) = servers.pop_front().unwrap();
        server.shut_down().await;
        let (echo, server) = serve(&network, &old.name).await;
        called(&echo).await;
        servers.push_back((echo, server));
    }
    let calls = callers.end().await;
    assert!(calls.len() > 1000, "{}", calls.len());
    assert!(failed(&calls).is_empty(), "{:?}", failed(&calls));
}

/// An address for one server of these tests: at 127.0.0.1 another test could take a port that is free for a moment.
fn own_address(at: usize) -> String {
    if cfg!(target_os = "linux") { format!("127.0.1.{}:0", at + 1) } else { "127.0.0.1:0".to_owned() }
}

/// Each returns with the address that it had, and no other takes its place meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_in_a_rolling_restart_of_servers_on_sockets() {
    let registry = MemoryRegistry::new();
    let mut servers = VecDeque::new();
    for at in 0..SERVERS {
        servers.push_back(Living::start_at(&own_address(at), &registry).await);
    }
    let builder = DiscoveryChannel::builder(Discovery::new(registry.clone()), SERVICE).default_timeout(SOON);
    let callers = Callers::start(&builder.connect().await.unwrap());
    for _ in 0..ROUNDS * SERVERS {
        let old = servers.pop_front().unwrap();
        let address = old.name();
        old.leave().await;
        let server = Living::start_at(&address, &registry).await;
        until("the new server is called", || server.calls() > 0).await;
        servers.push_back(server);
    }
    let calls = callers.end().await;
    assert!(calls.len() > 1000, "{}", calls.len());
    assert!(failed(&calls).is_empty(), "{:?}", failed(&calls));
}

/// Kills each server in turn and starts it again, under load; returns the kills and the calls.
async fn kill_each(network: &MemoryNetwork, channel: ChannelBuilder) -> (Vec<(String, Instant)>, Vec<Made>) {
    let mut servers = fleet(network).await;
    let callers = Callers::start(&channel.connect().await.unwrap());
    let mut kills = Vec::new();
    for _ in 0..ROUNDS {
        sleep(SECOND / 10).await;
        let (old, server) = servers.pop_front().unwrap();
        kills.push((old.name.to_string(), Instant::now()));
        server.kill();
        sleep(SECOND / 10).await;
        let (echo, server) = serve(network, &old.name).await;
        called(&echo).await;
        servers.push_back((echo, server));
    }
    (kills, callers.end().await)
}

#[tokio::test(start_paused = true)]
async fn only_the_calls_in_flight_at_a_server_fail_when_it_is_killed() {
    let network = MemoryNetwork::new(MemoryRegistry::new());
    let (kills, calls) = kill_each(&network, network.channel(SERVICE)).await;
    let failed = failed(&calls);
    for call in &failed {
        assert_eq!(call.outcome.as_ref().unwrap_err().code(), Code::Unavailable, "{call:?}");
        let killed = |(server, at): &(String, Instant)| {
            *server == call.server && call.began <= *at && call.ended == *at
        };
        assert!(kills.iter().any(killed), "{call:?}");
    }
    // Some three of the sixteen each time.
    assert!((ROUNDS..5 * ROUNDS).contains(&failed.len()), "{}", failed.len());
}

/// But for streams of which a message has arrived: they are committed.
#[tokio::test(start_paused = true)]
async fn with_retries_a_kill_fails_no_unary_call() {
    let network = MemoryNetwork::new(MemoryRegistry::new());
    let retrying = MethodConfig::default().with_retry(RetryPolicy::default());
    let (_, calls) = kill_each(&network, network.channel(SERVICE).method("", retrying)).await;
    let unary = failed(&calls).into_iter().filter(|call| !call.is_stream);
    assert_eq!(unary.count(), 0);
}
