//! What the behaviours are written with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Harness, Profile};
use crate::{
    Catalog, Claim, Error, Instance, Lease, Registrar, Registration, Resolver, ServiceName, Snapshot,
    SnapshotStream,
};

/// What a backend did instead of what it must.
#[derive(Debug, Clone)]
pub struct Failure(String);

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(format!("an error where none was due: {}", error.report()))
    }
}

/// Fails with what was seen, unless the condition holds.
pub(super) fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(Failure(otherwise())) }
}

/// One behaviour's way to the backend: names of its own, and deadlines on everything.
#[derive(Debug)]
pub struct Probe {
    harness: Arc<dyn Harness>,
    resolver: Option<Arc<dyn Resolver>>,
    namespace: String,
}

impl Probe {
    pub(super) fn new(harness: Arc<dyn Harness>, behaviour: &str) -> Self {
        // A registry may outlive a run, and the kit may run twice on it.
        let namespace = format!("conformance/{behaviour}/{:08x}", fastrand::u32(..));
        Self { harness, resolver: None, namespace }
    }

    pub(super) fn harness(&self) -> &dyn Harness {
        &*self.harness
    }

    pub(super) fn service(&self, name: &str) -> Result<ServiceName, Failure> {
        Ok(ServiceName::new(format!("{}/{name}", self.namespace))?)
    }

    pub(super) fn ttl(&self) -> Duration {
        self.profile().min_ttl
    }

    /// By when a record of this TTL that nobody renews is gone.
    pub(super) fn lapse(&self, ttl: Duration) -> Duration {
        ttl + self.profile().granularity
    }

    pub(super) fn settle(&self) -> Duration {
        self.profile().settle
    }

    fn profile(&self) -> Profile {
        self.harness.profile()
    }

    pub(super) async fn registrar(&self) -> Owner {
        Owner { registrar: self.harness.registrar().await, ttl: self.ttl(), settle: self.settle() }
    }

    pub(super) async fn catalog(&self) -> Result<Arc<dyn Catalog>, Failure> {
        let catalog = self.harness.catalog().await;
        catalog.ok_or_else(|| Failure::new("the harness has no catalog: `ignore catalog`, with the reason"))
    }

    pub(super) async fn resolver(&mut self) -> Arc<dyn Resolver> {
        if self.resolver.is_none() {
            self.resolver = Some(self.harness.resolver().await);
        }
        match &self.resolver {
            Some(resolver) => Arc::clone(resolver),
            None => self.harness.resolver().await,
        }
    }

    pub(super) async fn resolve(&mut self, service: &ServiceName) -> Result<Snapshot, Failure> {
        let resolver = self.resolver().await;
        Ok(in_time(self.settle(), "resolve", resolver.resolve(service)).await??)
    }

    /// Asks until the snapshot is as it must be.
    pub(super) async fn resolves_to(
        &mut self,
        service: &ServiceName,
        what: &str,
        is_so: impl Fn(&Snapshot) -> bool,
    ) -> Result<Snapshot, Failure> {
        let within = self.settle();
        self.resolves_within(service, within, what, is_so).await
    }

    pub(super) async fn resolves_within(
        &mut self,
        service: &ServiceName,
        within: Duration,
        what: &str,
        is_so: impl Fn(&Snapshot) -> bool,
    ) -> Result<Snapshot, Failure> {
        let deadline = Instant::now() + within;
        loop {
            let snapshot = self.resolve(service).await?;
            if is_so(&snapshot) {
                return Ok(snapshot);
            }
            ensure(Instant::now() < deadline, || {
                format!(
                    "resolving {service} does not give {what} within {within:?}, but {:?}",
                    ids(&snapshot)
                )
            })?;
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn watch(&mut self, service: &ServiceName) -> Result<Watch, Failure> {
        let resolver = self.resolver().await;
        let snapshots = in_time(self.settle(), "watch", resolver.watch(service)).await??;
        Ok(Watch { snapshots, settle: self.settle() })
    }
}

/// One process that registers.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    registrar: Arc<dyn Registrar>,
    ttl: Duration,
    settle: Duration,
}

impl Owner {
    /// Registers for the smallest TTL, taking over.
    pub(super) async fn register(
        &self,
        service: &ServiceName,
        instance: &Instance,
    ) -> Result<Box<dyn Lease>, Failure> {
        self.register_for(service, instance, self.ttl).await
    }

    /// Registers for long enough not to lapse while a behaviour looks at other things.
    pub(super) async fn settle_in(
        &self,
        service: &ServiceName,
        instance: &Instance,
    ) -> Result<Box<dyn Lease>, Failure> {
        self.register_for(service, instance, (20 * self.ttl).max(Duration::from_secs(60))).await
    }

    pub(super) async fn register_for(
        &self,
        service: &ServiceName,
        instance: &Instance,
        ttl: Duration,
    ) -> Result<Box<dyn Lease>, Failure> {
        let registration = Registration::new(service.clone(), instance.clone())?.with_ttl(ttl)?;
        Ok(self.attempt(&registration, Claim::TakeOver).await??)
    }

    /// The registrar's own answer, in time.
    pub(super) async fn attempt(
        &self,
        registration: &Registration,
        claim: Claim,
    ) -> Result<crate::Result<Box<dyn Lease>>, Failure> {
        in_time(self.settle, "register", self.registrar.register(registration, claim)).await
    }
}

/// An open watch, every wait of which has a deadline.
pub(super) struct Watch {
    snapshots: SnapshotStream,
    settle: Duration,
}

impl Watch {
    pub(super) async fn next(&mut self) -> Result<Snapshot, Failure> {
        match in_time(self.settle, "the next snapshot", self.snapshots.next()).await? {
            Some(snapshot) => Ok(snapshot?),
            None => Err(Failure::new("the watch ended")),
        }
    }

    /// Reads on until the snapshot is as it must be.
    pub(super) async fn comes_to(
        &mut self,
        what: &str,
        is_so: impl Fn(&Snapshot) -> bool,
    ) -> Result<Snapshot, Failure> {
        let within = self.settle;
        self.comes_within(within, what, is_so).await
    }

    pub(super) async fn comes_within(
        &mut self,
        within: Duration,
        what: &str,
        is_so: impl Fn(&Snapshot) -> bool,
    ) -> Result<Snapshot, Failure> {
        let deadline = Instant::now() + within;
        let mut last = None;
        loop {
            let Ok(next) = timeout_at(deadline, self.snapshots.next()).await else {
                let last = last.as_ref().map(ids);
                return Err(Failure(format!(
                    "the watch does not come to {what} within {within:?}; last: {last:?}"
                )));
            };
            let snapshot = next.ok_or_else(|| Failure::new(format!("the watch ended before {what}")))??;
            if is_so(&snapshot) {
                return Ok(snapshot);
            }
            last = Some(snapshot);
        }
    }

    /// Reads on until the watch ends, with an error or without.
    pub(super) async fn ends_within(&mut self, within: Duration) -> Result<(), Failure> {
        let end = async { while let Some(Ok(_)) = self.snapshots.next().await {} };
        in_time(within, "the end of the watch", end).await
    }
}

/// Instances for the behaviours: `a` and so on, each with an address of its own.
pub(super) fn instance(name: &str) -> Result<Instance, Failure> {
    Ok(Instance::new(format!("{name}.example:80").parse()?))
}

pub(super) fn registration(service: &ServiceName, instance: Instance) -> Result<Registration, Failure> {
    Ok(Registration::new(service.clone(), instance)?)
}

pub(super) fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.iter().map(|instance| instance.id().as_str()).collect()
}

pub(super) fn has(snapshot: &Snapshot, instance: &Instance) -> bool {
    snapshot.get(instance.id()).is_some_and(|found| **found == *instance)
}

/// Whether exactly these instances are there, just as they are.
pub(super) fn is_exactly(snapshot: &Snapshot, instances: &[&Instance]) -> bool {
    snapshot.len() == instances.len() && instances.iter().all(|instance| has(snapshot, instance))
}

pub(super) async fn in_time<T>(
    within: Duration,
    what: &str,
    call: impl Future<Output = T>,
) -> Result<T, Failure> {
    timeout(within, call).await.map_err(|_| Failure(format!("{what} did not come within {within:?}")))
}
