//! Helpers of the tests.
#![allow(dead_code, reason = "not every test file needs everything")]
#![allow(clippy::unwrap_used, reason = "this is a part of tests")]

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use hither_core::{
    Claim, Error, Instance, InstanceId, Lease, Registrar, Registration, Resolver, Result, ServiceName,
    Snapshot, SnapshotStream,
};
use hither_memory::MemoryRegistry;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const TTL: Duration = Duration::from_secs(10);

pub(crate) fn service() -> ServiceName {
    "greeter".parse().unwrap()
}

/// An instance at `name:80`.
pub(crate) fn instance(name: &str) -> Instance {
    Instance::new(format!("{name}:80").parse().unwrap())
}

pub(crate) fn id(name: &str) -> InstanceId {
    instance(name).id().clone()
}

pub(crate) fn registration(name: &str) -> Registration {
    Registration::new(service(), instance(name)).unwrap().with_ttl(TTL).unwrap()
}

pub(crate) async fn register(registry: &MemoryRegistry, name: &str) -> Box<dyn Lease> {
    registry.register(&registration(name), Claim::TakeOver).await.unwrap()
}

/// Registers what outlives a test in real time.
pub(crate) async fn register_for_long(registry: &MemoryRegistry, name: &str) -> Box<dyn Lease> {
    let registration = registration(name).with_ttl(360 * TTL).unwrap();
    registry.register(&registration, Claim::TakeOver).await.unwrap()
}

pub(crate) async fn present(registry: &MemoryRegistry) -> Vec<String> {
    names(&registry.resolve(&service()).await.unwrap())
}

pub(crate) fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.iter().map(|instance| instance.id().to_string().replace(":80", "")).collect()
}

/// Opens a watch and reads its first snapshot.
pub(crate) async fn watch(registry: &MemoryRegistry) -> (SnapshotStream, Snapshot) {
    let mut watch = registry.watch(&service()).await.unwrap();
    let first = watch.next().await.unwrap().unwrap();
    (watch, first)
}

/// Reads the error that ends a watch.
pub(crate) async fn end(watch: &mut SnapshotStream) -> Error {
    let error = watch.next().await.unwrap().unwrap_err();
    assert!(watch.next().await.is_none(), "the watch continues after an error");
    error
}

/// The next item of the watch, if it is ready.
pub(crate) fn now(watch: &mut SnapshotStream) -> Option<Result<Snapshot>> {
    watch.next().now_or_never().flatten()
}
