//! Idle watches: because nothing changes, or because etcd is gone.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use hither_core::{ErrorKind, Resolver, ServiceName};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use support::{Etcd, LONG, Proxy, comes_to, ends, hasty, put, register, shared, unique_service, watch};
use tokio::time::{Instant, sleep, timeout};

/// Settings under which an idle watch is probed soon, and a slow machine is not taken for a dead etcd.
fn curious(endpoint: String) -> EtcdConfig {
    let patience = Duration::from_secs(2);
    hasty(endpoint).with_connect_timeout(patience).with_request_timeout(patience)
}

/// The same where it is waited for that a dead etcd is noticed.
fn alert(endpoint: String) -> EtcdConfig {
    let patience = Duration::from_secs(1);
    hasty(endpoint).with_connect_timeout(patience).with_request_timeout(patience)
}

/// Tries until etcd is back: a backend makes one attempt.
async fn watches_again(registry: &EtcdRegistry, service: &ServiceName, expected: &[&str]) {
    let deadline = Instant::now() + LONG;
    loop {
        if let Ok(mut watch) = registry.watch(service).await {
            comes_to(&mut watch, expected).await;
            return;
        }
        assert!(Instant::now() < deadline, "etcd does not come back");
    }
}

#[tokio::test]
async fn an_idle_watch_stays_open_and_receives_later_events() {
    // Quiet everywhere: some versions answer no progress request while nothing is written.
    let etcd = Etcd::start().await;
    let (registry, service) = (EtcdRegistry::connect(curious(etcd.endpoint())).unwrap(), unique_service());
    let mut watch = watch(&registry, &service).await;
    comes_to(&mut watch, &[]).await;
    let quiet = timeout(Duration::from_secs(3), watch.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    put(&etcd.client().await, &format!("{service}/a"), r#"{"Addr":"h:1"}"#, 0).await;
    comes_to(&mut watch, &["a"]).await;
}

/// Which 3.5.8 to 3.5.12, and 3.4.25 to 3.4.30, then never answer until there is an event: etcd-io/etcd#17507.
#[tokio::test]
async fn an_idle_watch_that_was_probed_too_early_stays_open_and_ends_when_etcd_freezes() {
    let etcd = Etcd::start().await;
    let connect = |config: EtcdConfig| {
        EtcdRegistry::connect(config.with_probe_interval(Duration::from_millis(1))).unwrap()
    };
    let registry = connect(curious(etcd.endpoint()));
    for _ in 0..3 {
        let service = unique_service();
        let mut watch = watch(&registry, &service).await;
        comes_to(&mut watch, &[]).await;
        let quiet = timeout(Duration::from_secs(2), watch.next()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        put(&etcd.client().await, &format!("{service}/a"), r#"{"Addr":"h:1"}"#, 0).await;
        comes_to(&mut watch, &["a"]).await;
    }
    let mut watch = watch(&connect(alert(etcd.endpoint())), &unique_service()).await;
    comes_to(&mut watch, &[]).await;
    let _frozen = etcd.freeze();
    let since = Instant::now();
    assert_eq!(ends(&mut watch).await.kind(), ErrorKind::Timeout);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_watch_of_a_frozen_etcd_ends_in_time() {
    let etcd = Etcd::start().await;
    let (registry, service) = (EtcdRegistry::connect(alert(etcd.endpoint())).unwrap(), unique_service());
    let mut watch = watch(&registry, &service).await;
    comes_to(&mut watch, &[]).await;
    let frozen = etcd.freeze();
    let since = Instant::now();
    assert_eq!(ends(&mut watch).await.kind(), ErrorKind::Timeout);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert!(watch.next().await.is_none(), "after its first error it has ended");
    drop(frozen);
    watches_again(&registry, &service, &[]).await;
}

#[tokio::test]
async fn a_watch_over_a_black_holed_connection_ends_in_time() {
    let proxy = Proxy::start(shared().await.endpoint()).await;
    let (registry, service) = (EtcdRegistry::connect(alert(proxy.endpoint())).unwrap(), unique_service());
    let mut watch = watch(&registry, &service).await;
    comes_to(&mut watch, &[]).await;
    proxy.freeze();
    assert_eq!(ends(&mut watch).await.kind(), ErrorKind::Timeout);
    proxy.heal();
    let _a = register(&shared().await.registry(), &service, "a:1").await;
    watches_again(&registry, &service, &["a:1"]).await;
}

/// It forwards everything but the responses to progress requests: etcd-io/etcd#19710.
#[tokio::test]
async fn an_idle_watch_behind_the_proxy_of_etcd_stays_open() {
    let etcd = Etcd::start().await;
    let proxy = etcd.grpc_proxy();
    let (registry, service) = (EtcdRegistry::connect(curious(proxy.endpoint())).unwrap(), unique_service());
    watches_again(&registry, &service, &[]).await;
    let mut watch = watch(&registry, &service).await;
    comes_to(&mut watch, &[]).await;
    let quiet = timeout(Duration::from_secs(7), watch.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    put(&etcd.client().await, &format!("{service}/a"), r#"{"Addr":"h:1"}"#, 0).await;
    comes_to(&mut watch, &["a"]).await;
}

/// A member may forget a watch, and serve everything else.
#[tokio::test]
async fn a_watch_that_receives_nothing_on_a_good_connection_ends_in_time() {
    let proxy = Proxy::start(shared().await.endpoint()).await;
    let (registry, service) = (EtcdRegistry::connect(alert(proxy.endpoint())).unwrap(), unique_service());
    let mut watch = watch(&registry, &service).await;
    comes_to(&mut watch, &[]).await;
    let around = shared().await.registry();
    let _b = register(&around, &service, "b:1").await;
    comes_to(&mut watch, &["b:1"]).await;
    proxy.drop_stream_data();
    let _a = register(&around, &service, "a:1").await;
    registry.resolve(&service).await.unwrap();
    assert_eq!(ends(&mut watch).await.kind(), ErrorKind::Timeout);
    assert_eq!(proxy.connections(), 1);
    watches_again(&registry, &service, &["a:1", "b:1"]).await;
}

/// Its user was busy, or the whole process was suspended: only a probe that was sent can time out.
#[tokio::test]
async fn a_watch_that_was_not_polled_for_long_goes_on() {
    let etcd = Etcd::start().await;
    let (registry, service) = (EtcdRegistry::connect(curious(etcd.endpoint())).unwrap(), unique_service());
    let mut watch = watch(&registry, &service).await;
    comes_to(&mut watch, &[]).await;
    for round in 1..=2 {
        sleep(Duration::from_secs(3)).await;
        // It is asked now, and answers before the event.
        let asked = timeout(Duration::from_millis(300), watch.next()).await;
        assert!(asked.is_err(), "{asked:?}");
        sleep(Duration::from_secs(3)).await;
        put(&etcd.client().await, &format!("{service}/a"), format!(r#"{{"Addr":"h:{round}"}}"#), 0).await;
        comes_to(&mut watch, &["a"]).await;
    }
}
