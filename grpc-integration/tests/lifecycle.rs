//! A server's life as its clients and its registry see it: real sockets, a registry in memory.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use hither_core::{
    Claim, Error, ErrorKind, Instance, InstanceState, Lease, Registrar, Registration, RegistrationStatus,
    Resolver, Result, ServiceName, Snapshot, SnapshotStream,
};
use hither_memory::MemoryRegistry;
use hither_tonic::{Lifecycle, LifecycleBuilder, LifecycleError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Long enough to be never in a test.
const NEVER: Duration = Duration::from_secs(3600);
/// How long anything may take that should happen at once.
const SOON: Duration = Duration::from_secs(10);

fn greeter() -> ServiceName {
    "greeter".parse().unwrap()
}

/// A server of gRPC health, and the means to end it.
struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    force: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), LifecycleError>>,
}

impl Running {
    /// Starts a server that takes no time for its steps, but for what `describe` says.
    async fn start(
        registrar: impl Registrar,
        describe: impl FnOnce(LifecycleBuilder) -> LifecycleBuilder,
    ) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (force, forced) = oneshot::channel::<()>();
        let (reporter, health) = tonic_health::server::health_reporter();
        let builder = Lifecycle::builder(registrar)
            .service(greeter())
            .health(reporter, ["demo.Greeter"])
            .announce(Duration::ZERO)
            .drain(Duration::ZERO)
            .registry_timeout(Duration::from_millis(200))
            .shutdown_on(async { drop(stopped.await) }, async { drop(forced.await) });
        let server = describe(builder).bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr();
        let served = tokio::spawn(server.serve(|incoming, shutdown| {
            Ok(Server::builder().add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
        }));
        Self { address, stop: Some(stop), force: Some(force), served }
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    fn force(&mut self) {
        self.force.take().unwrap().send(()).unwrap();
    }

    async fn ended(self) -> Result<(), LifecycleError> {
        timeout(SOON, self.served).await.expect("the server should have ended").unwrap()
    }

    async fn client(&self) -> HealthClient<Channel> {
        HealthClient::new(
            Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap(),
        )
    }

    async fn accepts(&self) -> bool {
        TcpStream::connect(self.address).await.is_ok()
    }
}

async fn health(client: &mut HealthClient<Channel>) -> ServingStatus {
    let request = HealthCheckRequest { service: "demo.Greeter".into() };
    client.check(request).await.unwrap().into_inner().status()
}

async fn watch(registry: &MemoryRegistry) -> SnapshotStream {
    registry.watch(&greeter(), None).await.unwrap()
}

/// Waits for a snapshot that `wanted` accepts.
async fn seen(snapshots: &mut SnapshotStream, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let look = async {
        loop {
            let snapshot = snapshots.next().await.unwrap().unwrap();
            if wanted(&snapshot) {
                return snapshot;
            }
        }
    };
    timeout(SOON, look).await.expect("the registry should have said so")
}

fn up(snapshot: &Snapshot) -> bool {
    snapshot.instances().iter().any(|instance| instance.state() == InstanceState::Up)
}

fn draining(snapshot: &Snapshot) -> bool {
    snapshot.instances().iter().any(|instance| instance.state() == InstanceState::Draining)
}

#[tokio::test]
async fn a_server_leaves_in_the_order_in_which_no_client_sees_an_error() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let mut server = Running::start(registry.clone(), |builder| {
        builder
            .announce(Duration::from_millis(500))
            .drain(Duration::from_secs(2))
            .zone("eu-1a")
            .metadata("shard", "3")
    })
    .await;

    let registered = seen(&mut snapshots, up).await;
    let instance = &registered.instances()[0];
    assert_eq!(instance.address().to_string(), server.address.to_string());
    assert_eq!((instance.zone(), instance.metadata()["shard"].as_str()), (Some("eu-1a"), "3"));
    let mut client = server.client().await;
    assert_eq!(health(&mut client).await, ServingStatus::Serving);

    server.stop();
    let leaving = seen(&mut snapshots, draining).await;
    assert_eq!(leaving.instances()[0].zone(), Some("eu-1a"), "only the state changes");
    assert_eq!(health(&mut client).await, ServingStatus::NotServing, "and it still answers");

    seen(&mut snapshots, Snapshot::is_empty).await;
    assert_eq!(
        health(&mut server.client().await).await,
        ServingStatus::NotServing,
        "a late client is still served"
    );

    let address = server.address;
    server.ended().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "only now nobody listens");
}

#[tokio::test]
async fn a_call_under_way_finishes_and_an_open_stream_is_cut_when_the_grace_is_over() {
    let registry = MemoryRegistry::new();
    let mut server = Running::start(registry, |builder| builder.grace(Duration::from_millis(300))).await;
    let request = HealthCheckRequest { service: String::new() };
    let mut stream = server.client().await.watch(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    server.stop();

    assert_eq!(
        stream.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing,
        "the stream still lives"
    );
    server.ended().await.unwrap();
    let end = timeout(SOON, stream.message()).await.expect("the stream should have been cut");
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn a_second_signal_goes_straight_to_the_cut() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let mut server =
        Running::start(registry, |builder| builder.announce(NEVER).drain(NEVER).grace(NEVER)).await;
    seen(&mut snapshots, up).await;
    let request = HealthCheckRequest { service: String::new() };
    let mut stream = server.client().await.watch(request).await.unwrap().into_inner();

    server.stop();
    seen(&mut snapshots, draining).await;
    assert!(server.accepts().await);
    server.force();

    server.ended().await.unwrap();
    while let Ok(Some(_)) = stream.message().await {}
    seen(&mut snapshots, Snapshot::is_empty).await;
}

#[tokio::test]
async fn a_second_signal_cuts_the_grace_short() {
    let mut server = Running::start(MemoryRegistry::new(), |builder| builder.grace(NEVER)).await;
    let request = HealthCheckRequest { service: String::new() };
    let _stream = server.client().await.watch(request).await.unwrap().into_inner();
    server.stop();
    let refused = async {
        while server.accepts().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, refused).await.expect("the grace should have begun");
    assert!(!server.served.is_finished());
    server.force();
    server.ended().await.unwrap();
}

/// A registry behind a wire that can be pulled.
#[derive(Debug, Default)]
struct Wire {
    down: AtomicBool,
    hangs: bool,
    attempts: AtomicUsize,
    registry: MemoryRegistry,
}

#[async_trait]
impl Registrar for Wire {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if self.down.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the wire was pulled"));
        }
        self.registry.register(registration, claim).await
    }
}

#[tokio::test]
async fn a_registry_that_is_down_keeps_a_server_neither_from_starting_nor_from_stopping() {
    for hangs in [false, true] {
        let wire = Arc::new(Wire { down: true.into(), hangs, ..Wire::default() });
        let mut server = Running::start(wire, |builder| builder).await;
        let mut client = server.client().await;
        assert_eq!(health(&mut client).await, ServingStatus::Serving);
        server.stop();
        server.ended().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_is_registered_when_the_registry_comes_up_and_each_change_is_told_once() {
    let wire = Arc::new(Wire { down: true.into(), ..Wire::default() });
    let mut snapshots = watch(&wire.registry).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let mut server = Running::start(Arc::clone(&wire), |builder| {
        builder.on_status(move |registration, status| {
            assert_eq!(registration.service().as_str(), "greeter");
            hear.lock().unwrap().push(match status {
                RegistrationStatus::Registering => "registering",
                RegistrationStatus::Retrying { .. } => "retrying",
                RegistrationStatus::Registered => "registered",
                RegistrationStatus::Deregistering => "deregistering",
                RegistrationStatus::Deregistered => "deregistered",
                _ => "something else",
            });
        })
    })
    .await;
    let many = async {
        while wire.attempts.load(Ordering::SeqCst) < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, many).await.expect("it should have been tried again");

    wire.down.store(false, Ordering::SeqCst);
    seen(&mut snapshots, up).await;
    server.stop();
    server.ended().await.unwrap();

    let told = told.lock().unwrap();
    let changes: Vec<_> =
        told.iter().filter(|change| !change.ends_with("ing") || **change == "retrying").collect();
    assert_eq!(changes, [&"retrying", &"registered", &"deregistered"]);
}

#[tokio::test]
async fn a_registration_that_is_required_and_does_not_come_ends_the_server() {
    let wire = Arc::new(Wire { down: true.into(), ..Wire::default() });
    let server =
        Running::start(wire, |builder| builder.require_registration(Duration::from_millis(300))).await;
    let address = server.address;

    let error = server.ended().await.unwrap_err();

    assert!(
        matches!(&error, LifecycleError::NotRegistered { service, .. } if *service == greeter()),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "greeter could not be registered");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_server_that_is_superseded_goes_on_serving() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut server = Running::start(registry.clone(), |builder| {
        builder.ttl(Duration::from_secs(1)).on_status(move |_, status| {
            if let RegistrationStatus::Superseded = status {
                tell.send(()).unwrap();
            }
        })
    })
    .await;
    let ours = seen(&mut snapshots, up).await;

    let successor = Registration::new(greeter(), Instance::clone(&ours.instances()[0]));
    let _lease = registry.connect().register(&successor, Claim::TakeOver).await.unwrap();
    timeout(SOON, told.recv()).await.expect("it should have been told").unwrap();

    assert_eq!(health(&mut server.client().await).await, ServingStatus::Serving);
    server.stop();
    server.ended().await.unwrap();
    assert_eq!(registry.resolve(&greeter()).await.unwrap().len(), 1, "the successor's record stays");
}

#[tokio::test]
async fn dropping_a_served_server_ends_everything() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let server = Running::start(registry, |builder| builder).await;
    seen(&mut snapshots, up).await;
    let request = HealthCheckRequest { service: String::new() };
    let mut stream = server.client().await.watch(request).await.unwrap().into_inner();

    server.served.abort();

    seen(&mut snapshots, Snapshot::is_empty).await;
    while let Ok(Some(_)) =
        timeout(SOON, stream.message()).await.expect("the connection should have been cut")
    {}
    assert!(!server.accepts().await);
}

#[tokio::test]
async fn a_server_that_fails_by_itself_is_deregistered_and_its_error_returned() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let (fail, failing) = oneshot::channel::<()>();
    let server = Lifecycle::builder(registry.clone()).service(greeter()).bind("127.0.0.1:0").await.unwrap();
    let served = tokio::spawn(server.serve(|_incoming, _shutdown| {
        Ok(async {
            failing.await.unwrap();
            Err::<(), _>("out of luck")
        })
    }));
    seen(&mut snapshots, up).await;

    fail.send(()).unwrap();

    let error = timeout(SOON, served).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(&error, LifecycleError::Server(why) if why.to_string() == "out of luck"), "{error:?}");
    assert!(registry.resolve(&greeter()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_fails_at_once_is_never_registered() {
    let wire = Arc::new(Wire::default());
    let build = || Lifecycle::builder(Arc::clone(&wire)).service(greeter()).bind("127.0.0.1:0");
    let unbuilt = build().await.unwrap().serve(|_, _| match "bad certificate" {
        why if !why.is_empty() => Err(why.into()),
        _ => Ok(std::future::ready(Ok::<(), std::io::Error>(()))),
    });
    assert!(
        matches!(unbuilt.await, Err(LifecycleError::Server(why)) if why.to_string() == "bad certificate")
    );
    let failed = build().await.unwrap().serve(|_, _| Ok(std::future::ready(Err::<(), _>("no luck"))));
    assert!(matches!(failed.await, Err(LifecycleError::Server(why)) if why.to_string() == "no luck"));
    assert_eq!(wire.attempts.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_port_in_use_is_named_in_the_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = Lifecycle::builder(MemoryRegistry::new()).service("greeter").bind(address).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
    assert!(
        matches!(error, LifecycleError::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
    );
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_before_anything_listens() {
    let builder = || Lifecycle::builder(MemoryRegistry::new());
    let table = [
        (builder(), "no service"),
        (builder().service("a//b"), "a//b"),
        (builder().service("a").advertise("nonsense"), "nonsense"),
        (builder().service("a").advertise("0.0.0.0:80"), "0.0.0.0:80"),
        (builder().service("a").advertise("[::]:80"), "[::]:80"),
        (builder().service("a").id("a/b"), "a/b"),
        (builder().service("a").ttl(Duration::ZERO), "TTL"),
    ];
    for (builder, told) in table {
        let error = builder.bind("127.0.0.1:0").await.unwrap_err();
        assert!(matches!(error, LifecycleError::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains(told), "{error}");
    }
    let everywhere = builder().service("a").bind("0.0.0.0:0").await.unwrap_err();
    assert!(everywhere.to_string().contains("which no client can call"), "{everywhere}");
}

#[tokio::test]
async fn the_advertised_address_takes_the_real_port_where_it_has_none() {
    let server = Lifecycle::builder(MemoryRegistry::new())
        .service("greeter")
        .advertise("greeter.internal:0")
        .advertise("10.0.0.7:80")
        .id("greeter-1")
        .bind("0.0.0.0:0")
        .await
        .unwrap();
    let port = server.local_addr().port();
    let addresses: Vec<_> = server.instance().addresses().iter().map(ToString::to_string).collect();
    assert_eq!(addresses, [format!("greeter.internal:{port}"), "10.0.0.7:80".into()]);
    assert_eq!(server.instance().id().as_str(), "greeter-1");
}

#[tokio::test]
async fn a_service_sees_who_calls_it() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (_, health) = tonic_health::server::health_reporter();
    let look = tonic::service::InterceptorLayer::new(move |request: tonic::Request<()>| {
        tell.send(request.remote_addr()).unwrap();
        Ok(request)
    });
    let server =
        Lifecycle::builder(MemoryRegistry::new()).service("greeter").bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr();
    let served = tokio::spawn(server.serve(|incoming, shutdown| {
        Ok(Server::builder().layer(look).add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
    }));
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    let peer = told.recv().await.unwrap().expect("the peer's address");
    assert_eq!(peer.ip(), address.ip());
    served.abort();
}
