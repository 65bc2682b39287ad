//! In and out of the registry while a server runs: changes of its instance, and its readiness.

use std::time::Duration;

use hither_core::{Discovery, Instance, InstanceState, Resolver, Snapshot};
use hither_memory::{MemoryRegistry, Operation};
use hither_tonic::{CalledInstance, DiscoveryChannel, ErrorKind, Lifecycle, LifecycleHandle};
use tokio::sync::watch as signal;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{NEVER, Running, SOON, draining, greeter, health, seen, up, watch};

/// A server and its handle.
async fn start(
    registry: &MemoryRegistry,
    describe: impl FnOnce(hither_tonic::LifecycleBuilder) -> hither_tonic::LifecycleBuilder,
) -> (Running, LifecycleHandle) {
    let mut handle = None;
    let server = Running::start_at(registry.clone(), async |builder| {
        let server = describe(builder).bind("127.0.0.1:0").await?;
        handle = Some(server.handle());
        Ok(server)
    })
    .await;
    (server, handle.unwrap())
}

fn weight(of: u32) -> impl Fn(&Snapshot) -> bool {
    move |snapshot| snapshot.iter().any(|instance| instance.weight() == of)
}

fn is_out(handle: &LifecycleHandle) {
    let error = handle.update(|instance| instance).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
}

#[tokio::test]
async fn a_handle_changes_the_instance_under_every_service_or_under_one() {
    let registry = MemoryRegistry::new();
    let (mut greeters, admin) = (watch(&registry).await, "admin".parse().unwrap());
    let mut admins = registry.watch(&admin).await.unwrap();
    let (mut server, handle) =
        start(&registry, |builder| builder.service_with("admin", |instance| instance.with_weight(7))).await;
    seen(&mut admins, weight(7)).await;

    handle.update(|instance| instance.with_metadata("shard", "3")).unwrap();
    handle.update_service("greeter", |instance| instance.with_weight(5)).unwrap();
    let greeter = seen(&mut greeters, weight(5)).await;
    assert_eq!(greeter.iter().next().unwrap().metadata()["shard"], "3");
    let sharded = |snapshot: &Snapshot| snapshot.iter().any(|each| each.metadata().contains_key("shard"));
    assert_eq!(seen(&mut admins, sharded).await.iter().next().unwrap().weight(), 7);
    assert_eq!(registry.faults().calls_of(Operation::Register), 2, "changed in place");

    let error = handle.update_service("nobody", |instance| instance).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::InvalidArgument, "the server has no service \"nobody\"")
    );
    let error = handle.update(|instance| instance.with_id("other".parse().unwrap())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    server.stop();
    server.ended().await.unwrap();
}

#[tokio::test]
async fn a_change_before_serving_or_during_an_outage_is_what_is_registered() {
    let registry = MemoryRegistry::new();
    registry.faults().stop();
    let mut early = None;
    let mut server = Running::start_at(registry.clone(), async |builder| {
        let server = builder.bind("127.0.0.1:0").await?;
        server.handle().update(|instance| instance.with_weight(2)).unwrap();
        early = Some(server.handle());
        Ok(server)
    })
    .await;
    let handle = early.unwrap();
    let remember = |instance: Instance| {
        let weight = instance.weight().to_string();
        instance.with_metadata("weight before", weight)
    };
    handle.update(remember).unwrap();
    registry.faults().start();
    let mut snapshots = watch(&registry).await;
    let registered = seen(&mut snapshots, weight(2)).await;
    assert_eq!(registered.iter().next().unwrap().metadata()["weight before"], "2");
    server.stop();
    server.ended().await.unwrap();
}

#[tokio::test]
async fn concurrent_changes_are_all_made() {
    let server =
        Lifecycle::builder(MemoryRegistry::new()).service("greeter").bind("127.0.0.1:0").await.unwrap();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let handle = server.handle();
            std::thread::spawn(move || {
                for _ in 0..100 {
                    handle
                        .update(|instance| {
                            let weight = instance.weight();
                            instance.with_weight(weight + 1)
                        })
                        .unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let seen = std::cell::Cell::new(0);
    server
        .handle()
        .update(|instance| {
            seen.set(instance.weight());
            instance
        })
        .unwrap();
    assert_eq!(seen.get(), 801);
}

#[tokio::test]
async fn a_server_out_of_rotation_gets_no_calls_until_it_is_back() {
    let registry = MemoryRegistry::new();
    let (one, handle) = start(&registry, |builder| builder).await;
    let (two, _) = start(&registry, |builder| builder).await;
    let discovery = Discovery::new(registry.clone());
    let channel = DiscoveryChannel::builder(&discovery, "greeter").connect().await.unwrap();
    let called = async || {
        let called = CalledInstance::default();
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.extensions_mut().insert(called.clone());
        HealthClient::new(channel.clone()).check(request).await.unwrap();
        called.get().unwrap().instance().address().to_string()
    };
    let only = async |address: &str| {
        // The change has reached the channel once this many calls in a row went there.
        let mut row = 0;
        while row < 50 {
            row = if called().await == address { row + 1 } else { 0 };
        }
    };
    let both = async || while called().await != one.address {};
    tokio::time::timeout(SOON, both()).await.expect("both are called");
    handle.update(|instance| instance.with_state(InstanceState::Draining)).unwrap();
    tokio::time::timeout(SOON, only(&two.address)).await.expect("the other one alone is called");
    handle.update(|instance| instance.with_state(InstanceState::Up)).unwrap();
    tokio::time::timeout(SOON, both()).await.expect("it is called again");
}

#[tokio::test]
async fn a_server_that_shuts_down_does_not_come_back() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let (mut server, handle) = start(&registry, |builder| builder.announce_delay(NEVER)).await;
    seen(&mut snapshots, up).await;
    server.stop();
    seen(&mut snapshots, draining).await;
    is_out(&handle);
    server.force();
    server.ended().await.unwrap();
    is_out(&handle);

    let unserved = Lifecycle::builder(registry).service("greeter").bind("127.0.0.1:0").await.unwrap();
    let handle = unserved.handle();
    drop(unserved);
    is_out(&handle);
}

#[tokio::test]
async fn a_handle_keeps_no_server_registered() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let (server, handle) = start(&registry, |builder| builder).await;
    seen(&mut snapshots, up).await;
    server.served.abort();
    seen(&mut snapshots, Snapshot::is_empty).await;
    is_out(&handle);
}

/// As asked for in go-kratos/kratos#1665, apache/dubbo#13213 and zeromicro/go-zero#1427.
#[tokio::test]
async fn a_server_is_registered_only_while_it_is_ready() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let (ready, readiness) = signal::channel(false);
    let (mut server, handle) =
        start(&registry, |builder| builder.readiness(readiness).announce_delay(Duration::from_millis(300)))
            .await;
    let mut client = server.client().await;
    assert_eq!(health(&mut client).await, ServingStatus::NotServing, "it serves, and is not ready");
    assert_eq!(registry.faults().calls_of(Operation::Register), 0);

    ready.send_replace(true);
    seen(&mut snapshots, up).await;
    assert_eq!(health(&mut client).await, ServingStatus::Serving);

    ready.send_replace(false);
    // Announced first: clients hold what leaves in bulk without that.
    seen(&mut snapshots, draining).await;
    assert_eq!(health(&mut client).await, ServingStatus::NotServing);
    seen(&mut snapshots, Snapshot::is_empty).await;
    handle.update(|instance| instance.with_weight(3)).unwrap();

    ready.send_replace(true);
    let back = seen(&mut snapshots, up).await;
    assert_eq!(back.iter().next().unwrap().weight(), 3);
    assert_eq!(health(&mut client).await, ServingStatus::Serving);

    // Without a sender the last value stays.
    drop(ready);
    assert_eq!(health(&mut client).await, ServingStatus::Serving);
    server.stop();
    server.ended().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_ready_again_within_the_announce_delay_does_not_leave() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let (ready, readiness) = signal::channel(true);
    let (server, handle) =
        start(&registry, |builder| builder.readiness(readiness).announce_delay(NEVER)).await;
    seen(&mut snapshots, up).await;
    ready.send_replace(false);
    seen(&mut snapshots, draining).await;
    // What the program wants is kept, and does not end the draining.
    handle.update(|instance| instance.with_weight(3).with_state(InstanceState::Up)).unwrap();
    let draining = seen(&mut snapshots, weight(3)).await;
    assert_eq!(draining.iter().next().unwrap().state(), InstanceState::Draining);
    ready.send_replace(true);
    seen(&mut snapshots, up).await;
    assert_eq!(registry.faults().calls_of(Operation::Register), 1);
    assert_eq!(registry.faults().calls_of(Operation::Revoke), 0);
    server.served.abort();
}

#[tokio::test]
async fn a_server_that_is_not_ready_is_out_of_rotation_still_when_it_is_ready_again() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let (ready, readiness) = signal::channel(true);
    let (server, handle) = start(&registry, |builder| builder.readiness(readiness)).await;
    seen(&mut snapshots, up).await;
    handle.update(|instance| instance.with_state(InstanceState::Draining)).unwrap();
    ready.send_replace(false);
    seen(&mut snapshots, Snapshot::is_empty).await;
    ready.send_replace(true);
    seen(&mut snapshots, draining).await;
    server.served.abort();
}

#[tokio::test]
async fn a_server_that_is_not_ready_shuts_down_at_once() {
    let registry = MemoryRegistry::new();
    let (_ready, readiness) = signal::channel(false);
    // A registry that does not answer: nothing is to be announced there.
    registry.faults().freeze();
    let (mut server, _) = start(&registry, |builder| {
        let builder = builder.readiness(readiness).registry_timeout(NEVER);
        builder.announce_delay(NEVER).propagation_delay(NEVER)
    })
    .await;
    server.stop();
    server.ended().await.unwrap();
    assert!(registry_is_empty(&registry).await);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_required_registration_begins_when_the_server_is_ready() {
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let (ready, readiness) = signal::channel(false);
    let required = Duration::from_millis(200);
    let (mut server, _) =
        start(&registry, |builder| builder.readiness(readiness).require_registration(required)).await;
    tokio::time::sleep(2 * required).await;
    ready.send_replace(true);
    seen(&mut snapshots, up).await;
    ready.send_replace(false);
    seen(&mut snapshots, Snapshot::is_empty).await;
    // It was registered once: no outage ends it any more.
    registry.faults().stop();
    ready.send_replace(true);
    tokio::time::sleep(2 * required).await;
    assert!(!server.served.is_finished());
    server.stop();
    server.ended().await.unwrap();
}

async fn registry_is_empty(registry: &MemoryRegistry) -> bool {
    registry.faults().thaw();
    registry.resolve(&greeter()).await.unwrap().is_empty()
}
