//! A registration through the faults of its registry, under paused time.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod deregistration;
mod outages;
mod ownership;
mod panics;
mod refusals;
mod runtime;
mod updates;
mod withdrawal;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use hither_core::{
    Claim, ErrorKind, Instance, Lease, Registrar, Registration, RegistrationConfig, RegistrationHandle,
    RegistrationStatus, Resolver, Result, ServiceName, keep_registered,
};
use hither_memory::{MemoryRegistry, Operation};
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(30);

fn service() -> ServiceName {
    "greeter".parse().unwrap()
}

fn instance() -> Instance {
    Instance::new("10.0.0.7:8001".parse().unwrap())
}

fn registration() -> Registration {
    Registration::new(service(), instance()).unwrap().with_ttl(TTL).unwrap()
}

fn keep(registry: &MemoryRegistry) -> RegistrationHandle {
    keep_registered(registry.clone(), registration(), RegistrationConfig::default().with_seed(7))
}

async fn kept(registry: &MemoryRegistry) -> RegistrationHandle {
    let handle = keep(registry);
    soon(handle.registered()).await.unwrap();
    handle
}

/// Waits in paused time for what must come.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(4 * TTL, future).await.expect("it comes within four TTLs of paused time")
}

async fn status(
    handle: &RegistrationHandle,
    is_so: impl Fn(&RegistrationStatus) -> bool,
) -> RegistrationStatus {
    let mut statuses = Box::pin(handle.statuses());
    soon(async {
        loop {
            let status = statuses.next().await.expect("it comes before the last status");
            if is_so(&status) {
                return status;
            }
        }
    })
    .await
}

fn is_retrying(status: &RegistrationStatus) -> bool {
    matches!(status, RegistrationStatus::Retrying { .. })
}

/// The weights of all registered instances: they distinguish the records.
async fn weights(registry: &MemoryRegistry) -> Vec<u32> {
    let snapshot = registry.connect().resolve(&service()).await.unwrap();
    snapshot.iter().map(|instance| instance.weight()).collect()
}

/// How many tasks there are, once those that are to end have ended.
async fn tasks() -> usize {
    sleep(Duration::from_millis(1)).await;
    yield_now().await;
    Handle::current().metrics().num_alive_tasks()
}
