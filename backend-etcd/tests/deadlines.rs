//! Deadlines: every call ends, and the next one goes to another endpoint.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use hither_core::{Claim, ErrorKind, Registrar, Resolver, Result, ServiceName};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use socket2::{Domain, Socket, Type};
use support::fake::{Fake, Script};
use support::{
    Etcd, LONG, Port, Proxy, get, ids, instance, put, register, registration, shared, unique_service,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// The deadlines of connecting and of a request, where they are waited for. A busy machine answers within.
const DEADLINE: Duration = Duration::from_secs(1);

/// Shorter than any deadline.
const SHORT: Duration = Duration::from_millis(300);

fn config(endpoints: impl IntoIterator<Item = String>) -> EtcdConfig {
    EtcdConfig::new(endpoints).with_connect_timeout(DEADLINE).with_request_timeout(DEADLINE)
}

fn hasty(endpoints: impl IntoIterator<Item = String>) -> EtcdRegistry {
    EtcdRegistry::connect(config(endpoints)).unwrap()
}

/// The error of a call that ends after about as many deadlines as it may.
async fn fails_within<T>(deadlines: u32, call: impl Future<Output = Result<T>>) -> ErrorKind {
    let since = Instant::now();
    let Err(error) = timeout(LONG, call).await.expect("it ends") else { panic!("it cannot succeed") };
    let took = since.elapsed();
    assert!(took < DEADLINE * deadlines + Duration::from_secs(1), "{error} after {took:?}");
    error.kind()
}

/// An address that accepts connections and is silent.
async fn mute() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn every_call_to_a_frozen_etcd_ends_in_time() {
    let etcd = Etcd::start().await;
    let (registry, service) = (hasty([etcd.endpoint()]), unique_service());
    let desired = registration(&service, instance("a:1"));
    let mut lease = registry.register(&desired, Claim::TakeOver).await.unwrap();
    let _frozen = etcd.freeze();
    // The first waits for its answer, those after it for a connection.
    assert_eq!(fails_within(1, lease.renew()).await, ErrorKind::Timeout);
    assert_eq!(
        fails_within(1, lease.update(&registration(&service, instance("a:1").with_weight(2)))).await,
        ErrorKind::Timeout
    );
    assert_eq!(fails_within(1, lease.revoke()).await, ErrorKind::Timeout);
    assert_eq!(fails_within(1, registry.register(&desired, Claim::TakeOver)).await, ErrorKind::Timeout);
    assert_eq!(fails_within(1, registry.resolve(&service)).await, ErrorKind::Timeout);
    assert_eq!(fails_within(1, registry.watch(&service)).await, ErrorKind::Timeout);
}

#[tokio::test]
async fn connecting_to_a_silent_peer_ends_in_time() {
    let ((_first, first), (_second, second)) = (mute().await, mute().await);
    let config = config([first, second]);
    // With a user, the first request is the authentication.
    for config in [config.clone(), config.with_user("me", "secret")] {
        let registry = EtcdRegistry::connect(config).unwrap();
        assert_eq!(fails_within(2, registry.resolve(&unique_service())).await, ErrorKind::Timeout);
    }
}

/// A program may leave a runtime that began to connect, and go on with another one.
#[test]
fn a_connect_attempt_on_a_stopped_runtime_delays_no_caller() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let service = unique_service();
    let (resting, other) = (runtime(), runtime());
    let (registry, _proxy) = other.block_on(async {
        let proxy = Proxy::start(shared().await.endpoint()).await;
        let config = config([proxy.endpoint()]).with_request_timeout(LONG);
        (EtcdRegistry::connect(config).unwrap(), proxy)
    });
    let given_up = resting.block_on(async { timeout(Duration::ZERO, registry.resolve(&service)).await });
    assert!(given_up.is_err(), "{given_up:?}");
    other.block_on(async {
        // The deadline of connecting, and a second.
        assert_eq!(fails_within(3, registry.resolve(&service)).await, ErrorKind::Timeout);
        registry.resolve(&service).await.unwrap();
    });
}

/// An address that drops connection requests (SYN): its queue is full, and nothing accepts from it.
async fn black_hole() -> (Socket, Vec<TcpStream>, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(connected) = timeout(SHORT, TcpStream::connect(address)).await {
        waiting.push(connected.unwrap());
        assert!(waiting.len() < 100, "its queue is never full");
    }
    (socket, waiting, address.to_string())
}

#[tokio::test]
async fn connecting_into_a_black_hole_ends_in_time_and_fails_no_call() {
    let (_socket, _waiting, nowhere) = black_hole().await;
    let service = unique_service();
    let config = config([nowhere.clone()]);
    for config in [config.clone(), config.with_user("me", "secret")] {
        let registry = EtcdRegistry::connect(config).unwrap();
        assert_eq!(fails_within(1, registry.resolve(&service)).await, ErrorKind::Timeout);
    }
    let registry = hasty([nowhere, shared().await.endpoint()]);
    for _ in 0..4 {
        registry.resolve(&service).await.unwrap();
    }
}

#[tokio::test]
async fn a_request_in_flight_when_etcd_dies_fails_at_once() {
    let mut etcd = Etcd::start().await;
    let (registry, service) = (etcd.registry(), unique_service());
    registry.resolve(&service).await.unwrap();
    let frozen = etcd.freeze();
    let mut call = Box::pin(registry.resolve(&service));
    assert!(timeout(SHORT, &mut call).await.is_err(), "no response arrives");
    etcd.kill();
    drop(frozen);
    // No deadline of 3 s is waited for.
    assert_eq!(timeout(2 * DEADLINE, call).await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
}

/// A connection whose maker gives up early, with the answer that it waits for still to come.
#[tokio::test]
async fn a_connect_attempt_that_its_first_caller_dropped_serves_the_next_one() {
    let proxy = Proxy::start(shared().await.endpoint()).await;
    proxy.delay(SHORT / 3);
    let registry = EtcdRegistry::connect(EtcdConfig::new([proxy.endpoint()])).unwrap();
    let service = unique_service();
    assert!(timeout(SHORT / 6, registry.resolve(&service)).await.is_err());
    // Beyond the deadline of connecting, which is 2 s.
    sleep(Duration::from_millis(2500)).await;
    registry.resolve(&service).await.unwrap();
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn a_refused_connection_is_an_error_with_endpoint_and_reason() {
    let reserved = Port::new();
    let nowhere = reserved.endpoint();
    let error = hasty([nowhere.clone()]).resolve(&unique_service()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retryable());
    let report = error.report();
    assert!(report.contains(&nowhere) && report.contains("refused"), "{report}");
    assert_eq!(report.matches("refused").count(), 1, "each cause is printed once: {report}");
}

#[tokio::test]
async fn an_endpoint_may_be_a_name_and_an_unknown_name_fails_no_call() {
    let port = shared().await.endpoint().rsplit_once(':').unwrap().1.to_owned();
    let service = unique_service();
    let (unknown, known) = ("no-such-host.invalid:2379".to_owned(), format!("localhost:{port}"));
    let error = hasty([unknown.clone()]).resolve(&service).await.unwrap_err();
    assert!(error.is_retryable() && error.report().contains(&unknown), "{}", error.report());
    for _ in 0..4 {
        let config = config([unknown.clone(), known.clone()]).with_connect_timeout(Duration::from_secs(2));
        EtcdRegistry::connect(config).unwrap().resolve(&service).await.unwrap();
    }
}

#[tokio::test]
async fn a_dead_or_mute_endpoint_fails_no_call() {
    let ((_mute, mute), dead) = (mute().await, Port::new());
    let service = unique_service();
    let _lease = register(&shared().await.registry(), &service, "a:1").await;
    for endpoints in [
        [dead.endpoint(), shared().await.endpoint()],
        [shared().await.endpoint(), dead.endpoint()],
        [mute.clone(), shared().await.endpoint()],
        [shared().await.endpoint(), mute],
    ] {
        // Which of them is tried first is chance.
        for _ in 0..4 {
            let snapshot = hasty(endpoints.clone()).resolve(&service).await.unwrap();
            assert_eq!(ids(&snapshot), ["a:1"], "{endpoints:?}");
        }
    }
}

/// A registry with two ways to one etcd, the first of which it is using, and that one swallows everything from now on.
async fn one_way_lost(service: &ServiceName) -> (EtcdRegistry, [Proxy; 2]) {
    let endpoint = shared().await.endpoint();
    let mut ways = [Proxy::start(endpoint.clone()).await, Proxy::start(endpoint).await];
    let config = EtcdConfig::new(ways.each_ref().map(Proxy::endpoint)).with_request_timeout(DEADLINE);
    let registry = EtcdRegistry::connect(config).unwrap();
    registry.resolve(service).await.unwrap();
    if ways[0].connections() == 0 {
        ways.reverse();
    }
    ways[0].freeze();
    (registry, ways)
}

#[tokio::test]
async fn after_a_deadline_the_next_call_goes_to_the_next_endpoint() {
    let service = unique_service();
    let (registry, ways) = one_way_lost(&service).await;
    assert_eq!(registry.resolve(&service).await.unwrap_err().kind(), ErrorKind::Timeout);
    for _ in 0..10 {
        registry.resolve(&service).await.unwrap();
    }
    // No caller tried the lost way again.
    assert_eq!(ways.map(|way| way.connections()), [1, 1]);
}

#[tokio::test]
async fn a_caller_with_a_shorter_deadline_rotates_the_endpoints_too() {
    let service = unique_service();
    let (registry, _ways) = one_way_lost(&service).await;
    // As long as a renewal may take at the smallest TTL.
    let given_up = timeout(Duration::from_secs(1) / 3, registry.resolve(&service)).await;
    assert!(given_up.is_err(), "{given_up:?}");
    registry.resolve(&service).await.unwrap();
}

/// One that asks again and again, each time for less than it takes one request to show that etcd is gone.
#[tokio::test]
async fn a_caller_with_a_very_short_deadline_rotates_the_endpoints_in_a_few_attempts() {
    let (frozen, service) = (Etcd::start().await, unique_service());
    let config = EtcdConfig::new([frozen.endpoint(), shared().await.endpoint()]);
    let _a = register(&frozen.registry(), &service, "a:1").await;
    let _b = register(&shared().await.registry(), &service, "b:1").await;
    // Each begins with either of them.
    let registry = loop {
        let registry = EtcdRegistry::connect(config.clone()).unwrap();
        if ids(&registry.resolve(&service).await.unwrap()) == ["a:1"] {
            break registry;
        }
    };
    let _stopped = frozen.freeze();
    let mut since = Instant::now();
    loop {
        // Enough for an answer of the other one, to which it connects in the background.
        if let Ok(found) = timeout(Duration::from_millis(100), registry.resolve(&service)).await {
            if ids(&found.unwrap()) == ["b:1"] {
                break;
            }
            // A process does not stop in the moment of the signal.
            since = Instant::now();
        }
        // 0.3 s of them, and a probe of 1 s meanwhile.
        assert!(since.elapsed() < Duration::from_secs(10), "it never leaves the first");
    }
    assert!(since.elapsed() > SHORT, "of one attempt nothing is known: {:?}", since.elapsed());
}

/// Gives up after 100 ms, again and again, each time before the answer that is on its way. Returns how often it asked.
async fn keeps_its_connection(registry: &EtcdRegistry, service: &ServiceName, way: &Proxy) -> usize {
    let (mut connections, mut rounds, mut requests) = (way.connections(), 0, 1);
    while rounds < 30 {
        let since = Instant::now();
        requests += 1;
        let given_up = timeout(SHORT / 3, registry.resolve(service)).await;
        assert!(given_up.is_err(), "{given_up:?}");
        if since.elapsed() > SHORT / 2 {
            // On a machine that stalls one round may be enough.
            registry.resolve(service).await.unwrap();
            requests += 1;
            (connections, rounds) = (way.connections(), 0);
        } else {
            assert_eq!(way.connections(), connections, "after {rounds} rounds");
            rounds += 1;
        }
    }
    registry.resolve(service).await.unwrap();
    assert_eq!(way.connections(), connections);
    requests
}

#[tokio::test]
async fn a_caller_with_a_shorter_deadline_than_the_way_to_etcd_takes_keeps_its_connection() {
    let (service, way) = (unique_service(), Proxy::start(shared().await.endpoint()).await);
    let registry = EtcdRegistry::connect(EtcdConfig::new([way.endpoint()])).unwrap();
    registry.resolve(&service).await.unwrap();
    way.delay(SHORT / 4);
    keeps_its_connection(&registry, &service, &way).await;
}

/// As one whose quorum or disk is slow. It sends nothing in answer to requests that were cancelled meanwhile.
#[tokio::test]
async fn a_caller_with_a_shorter_deadline_than_etcd_takes_keeps_its_connection() {
    let (service, fake) = (unique_service(), Fake::start(Script::default().range_delay(SHORT / 2)).await);
    let way = Proxy::start(fake.endpoint()).await;
    let registry = EtcdRegistry::connect(EtcdConfig::new([way.endpoint()])).unwrap();
    let since = Instant::now();
    registry.resolve(&service).await.unwrap();
    let requests = 1 + keeps_its_connection(&registry, &service, &way).await;
    // It is slow because it has much to do: few are added.
    let (seconds, all) = (since.elapsed().as_secs_f64().ceil() as usize, fake.counts().ranges);
    assert!(all <= requests + seconds, "{requests} requests in {seconds} s, and {all} arrived");
}

#[tokio::test]
async fn a_caller_that_gives_up_now_and_then_keeps_a_connection_that_answers_in_between() {
    let (service, way) = (unique_service(), Proxy::start(shared().await.endpoint()).await);
    let registry = EtcdRegistry::connect(EtcdConfig::new([way.endpoint()])).unwrap();
    registry.resolve(&service).await.unwrap();
    way.delay(Duration::from_millis(50));
    let (mut connections, mut rounds) = (way.connections(), 0);
    while rounds < 15 {
        let since = Instant::now();
        let given_up = timeout(Duration::from_millis(40), registry.resolve(&service)).await;
        assert!(given_up.is_err(), "{given_up:?}");
        let is_stalled = since.elapsed() > SHORT / 2;
        registry.resolve(&service).await.unwrap();
        if is_stalled {
            // On a machine that stalls one round may be enough.
            (connections, rounds) = (way.connections(), 0);
        } else {
            assert_eq!(way.connections(), connections, "after {rounds} rounds");
            rounds += 1;
        }
    }
}

#[tokio::test]
async fn a_lease_is_renewed_over_another_endpoint() {
    let service = unique_service();
    let endpoint = shared().await.endpoint();
    let ways = [Proxy::start(endpoint.clone()).await, Proxy::start(endpoint).await];
    let registry = hasty(ways.each_ref().map(Proxy::endpoint));
    let mut lease = register(&registry, &service, "a:1").await;
    ways.iter().find(|way| way.connections() > 0).unwrap().freeze();
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::Timeout);
    lease.renew().await.unwrap();
}

#[tokio::test]
async fn an_etcd_that_was_restarted_serves_the_next_call_or_the_one_after() {
    let mut etcd = Etcd::start().await;
    let (registry, service) = (hasty([etcd.endpoint()]), unique_service());
    registry.resolve(&service).await.unwrap();
    etcd.kill();
    assert_eq!(fails_within(1, registry.resolve(&service)).await, ErrorKind::Unavailable);
    let etcd = etcd.start_again().await;
    put(&etcd.client().await, &format!("{service}/a"), r#"{"Addr":"a:1"}"#, 0).await;
    // A member that has just begun to listen may still be electing its leader.
    let snapshot = timeout(LONG, async {
        loop {
            if let Ok(snapshot) = registry.resolve(&service).await {
                return snapshot;
            }
        }
    });
    assert_eq!(ids(&snapshot.await.unwrap()), ["a"]);
}

#[tokio::test]
async fn a_restart_between_two_renewals_is_not_seen_and_keeps_the_lease() {
    let mut etcd = Etcd::start().await;
    let (registry, service) = (EtcdRegistry::connect(etcd.config()).unwrap(), unique_service());
    let mut lease = register(&registry, &service, "a:1").await;
    let key = format!("{service}/a:1");
    let before = get(&etcd.client().await, &key).await;
    lease.renew().await.unwrap();
    etcd.kill();
    let etcd = etcd.start_again().await;
    lease.renew().await.unwrap();
    assert_eq!(get(&etcd.client().await, &key).await, before);
}

#[tokio::test]
async fn dropped_calls_and_registries_leave_no_connection_behind() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    let service = unique_service();
    let mut open = Vec::new();
    for _ in 0..20 {
        let registry = EtcdRegistry::connect(EtcdConfig::new([proxy.endpoint()])).unwrap();
        let watch = registry.watch(&service).await.unwrap();
        let lease = register(&registry, &service, "a:1").await;
        open.push((registry, watch, lease));
    }
    assert!(proxy.open_connections() >= 20);
    let _frozen = etcd.freeze();
    for (registry, _watch, lease) in &mut open {
        assert!(timeout(SHORT / 10, lease.renew()).await.is_err());
        assert!(timeout(SHORT / 10, registry.resolve(&service)).await.is_err());
    }
    drop(open);
    let closed = timeout(LONG, async {
        while proxy.open_connections() > 0 {
            tokio::task::yield_now().await;
        }
    });
    assert!(closed.await.is_ok(), "{} are left", proxy.open_connections());
}
