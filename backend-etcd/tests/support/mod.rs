//! What the tests are written with.
#![allow(dead_code, unused_imports, reason = "not every test file needs everything")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "this is a part of tests")]

mod cluster;
mod etcd;
mod etcdctl;
pub(crate) mod fake;
pub(crate) mod frame;
mod metrics;
mod port;
mod proxy;
mod streams;

use std::sync::LazyLock;
use std::time::Duration;

use etcd_client::{Client, KeyValue, PutOptions, Txn, TxnOp};
use futures_util::StreamExt;
use hither_core::{
    Claim, Error, Instance, Lease, Registrar, Registration, Resolver, Result, ServiceName, Snapshot,
    SnapshotStream,
};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use tokio::time::timeout;

pub(crate) use cluster::Cluster;
pub(crate) use etcd::{Etcd, Frozen};
pub(crate) use etcdctl::documented_roles;
pub(crate) use metrics::Requests;
pub(crate) use port::Port;
pub(crate) use proxy::Proxy;

/// As long as anything may take on a slow machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// One etcd for all tests of a file that do it no harm; each has service names of its own.
pub(crate) async fn shared() -> &'static Etcd {
    // It is never dropped: its watchdog ends it.
    static SHARED: LazyLock<Etcd> = LazyLock::new(|| Etcd::start_blocking(Vec::new()));
    tokio::task::spawn_blocking(|| &*SHARED).await.unwrap()
}

/// A service name that no other test has.
pub(crate) fn unique_service() -> ServiceName {
    format!("test-{:016x}", fastrand::u64(..)).parse().unwrap()
}

pub(crate) fn instance(address: &str) -> Instance {
    Instance::new(address.parse().unwrap())
}

/// A registration that does not lapse while a test looks at other things.
pub(crate) fn registration(service: &ServiceName, instance: Instance) -> Registration {
    Registration::new(service.clone(), instance).unwrap().with_ttl(Duration::from_secs(3600)).unwrap()
}

pub(crate) async fn register(
    registry: &EtcdRegistry,
    service: &ServiceName,
    address: &str,
) -> Box<dyn Lease> {
    registry.register(&registration(service, instance(address)), Claim::TakeOver).await.unwrap()
}

/// A record as etcd has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) value: String,
    pub(crate) lease: i64,
}

/// Since which revision there is such a record; `None` if there is none.
pub(crate) async fn created(client: &Client, key: &str) -> Option<i64> {
    let response = client.clone().get(key, None).await.unwrap();
    response.kvs().first().map(KeyValue::create_revision)
}

pub(crate) async fn get(client: &Client, key: &str) -> Option<Raw> {
    let response = client.clone().get(key, None).await.unwrap();
    response.kvs().first().map(|kv| Raw { value: kv.value_str().unwrap().to_owned(), lease: kv.lease() })
}

/// Puts a record on a lease, or on none (0).
pub(crate) async fn put(client: &Client, key: &str, value: impl Into<Vec<u8>>, lease: i64) {
    let options = PutOptions::new().with_lease(lease);
    client.clone().put(key, value, Some(options)).await.unwrap();
}

/// Puts many records on a lease, or on none (0).
pub(crate) async fn put_many(client: &Client, lease: i64, records: impl Iterator<Item = (String, String)>) {
    let options = PutOptions::new().with_lease(lease);
    let puts: Vec<_> = records.map(|(key, value)| TxnOp::put(key, value, Some(options.clone()))).collect();
    // etcd takes 128 in one transaction.
    for puts in puts.chunks(100) {
        client.clone().txn(Txn::new().and_then(puts)).await.unwrap();
    }
}

pub(crate) async fn delete(client: &Client, key: &str) {
    let deleted = client.clone().delete(key, None).await.unwrap();
    assert_eq!(deleted.deleted(), 1, "{key} was there");
}

/// The ids of a snapshot's instances.
pub(crate) fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.iter().map(|instance| instance.id().as_str()).collect()
}

/// Settings with short timeouts.
pub(crate) fn hasty(endpoint: String) -> EtcdConfig {
    EtcdConfig::new([endpoint])
        .with_connect_timeout(Duration::from_millis(500))
        .with_request_timeout(Duration::from_millis(500))
        .with_probe_interval(Duration::from_millis(100))
}

pub(crate) async fn watch(registry: &EtcdRegistry, service: &ServiceName) -> SnapshotStream {
    timeout(LONG, registry.watch(service)).await.unwrap().unwrap()
}

/// The next snapshot or error of a watch.
pub(crate) async fn next(watch: &mut SnapshotStream) -> Option<Result<Snapshot>> {
    timeout(LONG, watch.next()).await.expect("the watch yields something")
}

/// Reads on until the watch shows exactly these ids.
pub(crate) async fn comes_to(watch: &mut SnapshotStream, expected: &[&str]) -> Snapshot {
    loop {
        let snapshot = next(watch).await.expect("the watch goes on").unwrap();
        if ids(&snapshot) == expected {
            return snapshot;
        }
    }
}

/// Reads on until the watch ends, and returns the error.
pub(crate) async fn ends(watch: &mut SnapshotStream) -> Error {
    loop {
        match next(watch).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("the watch ended without an error"),
        }
    }
}
