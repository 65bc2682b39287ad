//! Servers that go: gracefully, by a crash, and only in the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hither_core::{Discovery, InstanceId};
use hither_memory::MemoryRegistry;
use hither_tonic::{DiscoveryChannel, Lifecycle, Result, RoundRobin};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::support::{Client, Echo, Net, Registry, SERVICE, SOON, Server, until};
use crate::{SECOND, channel};

/// Calls without a pause, from several tasks.
struct Load {
    over: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(client: &Client) -> Self {
        let (over, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let tasks = (0..4).map(|_| {
            let (client, over, calls) = (client.clone(), Arc::clone(&over), Arc::clone(&calls));
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    client.name().await.unwrap();
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        Self { tasks: tasks.collect(), over, calls }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Panics if a call has failed.
    async fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// A server on a socket, run by `Lifecycle`.
pub(crate) struct Living {
    echo: Echo,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<()>>,
}

impl Living {
    async fn start(registry: &MemoryRegistry) -> Self {
        Self::start_at("127.0.0.1:0", registry).await
    }

    pub(crate) async fn start_at(address: &str, registry: &MemoryRegistry) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Lifecycle::builder(registry.clone())
            .service(SERVICE)
            .announce_delay(Duration::from_millis(20))
            .propagation_delay(Duration::from_millis(20))
            .shutdown_on(async { drop(stopped.await) }, std::future::pending())
            .bind(address)
            .await
            .unwrap();
        let echo = Echo::new(&server.local_addr().to_string());
        let service = echo.clone();
        let served = tokio::spawn(server.serve(|incoming, shutdown| {
            let server = tonic::transport::Server::builder().add_service(service);
            Ok(server.serve_with_incoming_shutdown(incoming, shutdown))
        }));
        Self { echo, stop, served }
    }

    /// Returns its address.
    pub(crate) fn name(&self) -> String {
        self.echo.name.to_string()
    }

    pub(crate) fn calls(&self) -> usize {
        self.echo.calls.load(Ordering::SeqCst)
    }

    pub(crate) async fn leave(self) {
        self.stop.send(()).unwrap();
        timeout(SOON, self.served).await.expect("it should have ended").unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_during_100_graceful_restarts() {
    let registry = MemoryRegistry::new();
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Living::start(&registry).await);
    }
    let builder = DiscoveryChannel::builder(Discovery::new(registry.clone()), SERVICE)
        .policy(RoundRobin::default())
        .default_timeout(SOON);
    let load = Load::on(&Client::new(&builder.connect().await.unwrap()));
    for _ in 0..100 {
        let joined = Living::start(&registry).await;
        until("the new server is called", || joined.calls() > 0).await;
        servers.push(joined);
        servers.remove(0).leave().await;
    }
    assert!(load.calls() > 300, "{}", load.calls());
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_servers_drain_without_deregistering_first() {
    let mut registry = Registry::new();
    let staying = Server::start().await;
    registry.up(&staying.address).await;
    let builder = DiscoveryChannel::builder(registry.discovery(), SERVICE)
        .policy(RoundRobin::default())
        .default_timeout(SOON);
    let load = Load::on(&Client::new(&builder.connect().await.unwrap()));
    for _ in 0..100 {
        let mut server = Server::start().await;
        registry.up(&server.address).await;
        until("the new server is called", || server.calls() > 10).await;
        server.stop();
        timeout(SOON, server.ended()).await.expect("it should have ended");
        registry.leave(&server.address).await;
    }
    load.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_instance_gets_no_new_calls_and_finishes_those_in_flight() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let (leaving, staying) = (Server::on(&net, "a:1"), Server::on(&net, "b:1"));
    registry.up("a:1").await;
    registry.up("b:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    sleep(SECOND).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(client.stream("Stream", String::new()).await.unwrap());
    }
    registry.draining("a:1").await;
    sleep(SECOND).await;
    for _ in 0..10 {
        assert_eq!(client.name().await.unwrap(), "b:1");
    }
    registry.leave("a:1").await;
    sleep(60 * SECOND).await;
    assert_eq!((leaving.calls(), leaving.open()), (1, 1));
    leaving.open_gate();
    staying.open_gate();
    for mut stream in streams {
        while stream.message().await.unwrap().is_some() {}
    }
    until("its connection is closed", || leaving.open() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn draining_instances_are_called_if_all_are_draining() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _servers = [Server::on(&net, "a:1"), Server::on(&net, "b:1")];
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    registry.draining("a:1").await;
    sleep(SECOND).await;
    assert_eq!(client.name().await.unwrap(), "a:1");
    // Also by a client that starts now.
    let late = Client::new(&channel(&registry, &net).connect().await.unwrap());
    assert_eq!(late.name().await.unwrap(), "a:1");
    registry.up("b:1").await;
    sleep(SECOND).await;
    for client in [client, late] {
        assert_eq!(client.name().await.unwrap(), "b:1");
        assert_eq!(client.name().await.unwrap(), "b:1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_draining_instance_is_not_connected_to_while_others_are_up() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _servers = [Server::on(&net, "a:1"), Server::on(&net, "b:1")];
    registry.draining("a:1").await;
    registry.up("b:1").await;
    let _channel = channel(&registry, &net).connect().await.unwrap();
    sleep(60 * SECOND).await;
    assert_eq!(net.dials("a:1").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_held_instance_is_called_over_its_open_connection_and_never_connected_to_again() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let (a, b) = (Server::on(&net, "a:1"), Server::on(&net, "b:1"));
    for address in ["a:1", "b:1", "dead:1"] {
        registry.up(address).await;
    }
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    sleep(SECOND).await;
    let dials = |address| net.dials(address).len();
    let dead = dials("dead:1");

    registry.faults().wipe();
    sleep(60 * SECOND).await;
    for _ in 0..10 {
        client.name().await.unwrap();
    }
    assert_eq!((a.calls(), b.calls()), (5, 5));
    assert_eq!(dials("dead:1"), dead, "what was not connected is not dialled any more");

    a.break_connections();
    sleep(60 * SECOND).await;
    for _ in 0..10 {
        assert_eq!(client.name().await.unwrap(), "b:1");
    }
    assert_eq!((dials("a:1"), dials("b:1")), (1, 1));

    b.break_connections();
    sleep(SECOND).await;
    let status = client.name().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "no instance of greeter is registered")
    );
    assert_eq!((dials("a:1"), dials("b:1")), (1, 1));

    // An instance that registers again is connected to again.
    registry
        .faults()
        .put_without_lease(&Registry::service(), hither_core::Instance::new("a:1".parse().unwrap()));
    sleep(SECOND).await;
    assert_eq!(client.name().await.unwrap(), "a:1");
    assert_eq!((dials("a:1"), dials("b:1")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_held_instance_is_released_after_five_minutes() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    assert!(registry.faults().expire(&Registry::service(), &InstanceId::new("a:1").unwrap()));
    sleep(290 * SECOND).await;
    client.name().await.unwrap();
    sleep(20 * SECOND).await;
    client.name().await.unwrap_err();
    assert_eq!(server.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_other_instances_are_called_at_once_after_one_crashes() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let (a, _b) = (Server::on(&net, "a:1"), Server::on(&net, "b:1"));
    registry.up("a:1").await;
    registry.up("b:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    sleep(SECOND).await;
    drop(a);
    let mut failed = 0;
    for _ in 0..100 {
        failed += usize::from(client.name().await.is_err());
    }
    assert!(failed <= 1, "{failed}");
}
