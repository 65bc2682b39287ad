//! A watch made of questions, under paused time.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use hither_core::{
    Claim, Error, ErrorKind, Instance, Lease, Registrar, Registration, Resolver, Result, ServiceName,
    Snapshot, SnapshotStream, poll_watch,
};
use hither_memory::{MemoryRegistry, Operation};
use tokio::time::{Instant, timeout};

const INTERVAL: Duration = Duration::from_secs(5);

/// Makes everything anew for each answer, as a registry that is asked over a wire.
#[derive(Debug)]
struct Wire(MemoryRegistry);

#[async_trait]
impl Resolver for Wire {
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
        let snapshot = self.0.resolve(service).await?;
        let anew = snapshot.iter().map(|instance| Arc::new(Instance::clone(instance)));
        Ok(Snapshot::new(service.clone(), anew))
    }

    async fn watch(&self, _service: &ServiceName) -> Result<SnapshotStream> {
        Err(Error::new(ErrorKind::Unsupported, "it can only be asked"))
    }
}

fn service() -> ServiceName {
    "greeter".parse().unwrap()
}

async fn register(registry: &MemoryRegistry, address: &str) -> Box<dyn Lease> {
    let instance = Instance::new(address.parse().unwrap());
    let registration =
        Registration::new(service(), instance).unwrap().with_ttl(Duration::from_secs(3600)).unwrap();
    registry.register(&registration, Claim::TakeOver).await.unwrap()
}

fn poll(registry: &MemoryRegistry) -> SnapshotStream {
    poll_watch(Arc::new(Wire(registry.clone())), service(), INTERVAL)
}

async fn next(snapshots: &mut SnapshotStream) -> Snapshot {
    let next = timeout(10 * INTERVAL, snapshots.next()).await.expect("it comes in time");
    next.expect("the watch goes on").unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_comes_at_once_even_if_it_is_empty() {
    let registry = MemoryRegistry::new();
    let mut snapshots = poll(&registry);
    let first = snapshots.next().now_or_never().expect("it does not wait").unwrap().unwrap();
    assert!(first.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_is_sent_an_interval_later_and_a_repeated_snapshot_is_not() {
    let registry = MemoryRegistry::new();
    let _a = register(&registry, "10.0.0.7:1").await;
    let mut snapshots = poll(&registry);
    let first = next(&mut snapshots).await;
    assert!(timeout(3 * INTERVAL, snapshots.next()).await.is_err(), "sent without a change");
    let _b = register(&registry, "10.0.0.8:1").await;
    let began = Instant::now();
    let second = next(&mut snapshots).await;
    assert!(began.elapsed() <= INTERVAL);
    assert_eq!(second.len(), 2);
    assert!(second.get(first.iter().next().unwrap().id()).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_first_error_ends_the_watch() {
    let registry = MemoryRegistry::new();
    let mut snapshots = poll(&registry);
    next(&mut snapshots).await;
    registry.faults().fail_next(1, ErrorKind::Unavailable);
    assert_eq!(snapshots.next().await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(snapshots.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_slow_registry_is_called_no_faster_than_it_answers() {
    let registry = MemoryRegistry::new();
    registry.faults().delay(Duration::from_secs(4));
    let mut snapshots = poll(&registry);
    next(&mut snapshots).await;
    let before = registry.faults().calls_of(Operation::Resolve);
    assert!(timeout(Duration::from_secs(90), snapshots.next()).await.is_err());
    assert_eq!(registry.faults().calls_of(Operation::Resolve) - before, 10, "every 5 + 4 s");
}
