//! The traits, over the state.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{
    Catalog, Claim, Error, ErrorKind, Instance, Lease, Registrar, Registration, Resolver, Result,
    ServiceName, Snapshot, SnapshotStream,
};

use crate::shared::Shared;
use crate::state::{LeaseId, RegistrarId};
use crate::watch::Watch;
use crate::{Faults, Operation};

/// A registry in memory: registrar, resolver and catalog.
///
/// A clone is the same registry and the same registrar, as two parts of one process are;
/// [`connect`](Self::connect) is the same registry and another registrar, as another process is. It lives as
/// long as its handles do.
///
/// It behaves as etcd does: a record lives on a lease, which lapses when nobody renews it; a lease touches no
/// record but its own. A TTL is granted as asked, up to a year. Time is Tokio's, so a test can pause it.
///
/// ```
/// use hither_core::{Claim, Instance, Registrar, Registration, Resolver};
/// use hither_memory::MemoryRegistry;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let registry = MemoryRegistry::new();
/// let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?));
/// let mut lease = registry.register(&registration, Claim::TakeOver).await?;
/// assert_eq!(registry.resolve(&"greeter".parse()?).await?.len(), 1);
///
/// // Another process may not have the id as long as the lease lives.
/// let other = registry.connect();
/// assert!(other.register(&registration, Claim::IfVacant).await.is_err());
///
/// lease.revoke().await?;
/// assert!(registry.resolve(&"greeter".parse()?).await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryRegistry {
    shared: Arc<Shared>,
    registrar: RegistrarId,
}

impl MemoryRegistry {
    /// How long a call waits for a registry that does not answer (5 s), and how long a watch goes on hearing
    /// nothing from one: then they end with [`Timeout`](ErrorKind::Timeout). Only [`Faults`] make it so.
    pub const DEADLINE: Duration = Duration::from_secs(5);

    /// An empty registry. It needs no runtime.
    pub fn new() -> Self {
        let shared = Shared::new();
        let registrar = shared.enter().state.new_registrar();
        Self { shared, registrar }
    }

    /// The same registry, as another process sees it: what this handle registers belongs to another owner.
    #[must_use]
    pub fn connect(&self) -> Self {
        let registrar = self.shared.enter().state.new_registrar();
        Self { shared: Arc::clone(&self.shared), registrar }
    }

    /// What goes wrong with this registry, for tests to say.
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.shared), self.registrar)
    }
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRegistry").field("registrar", &self.registrar.0).finish_non_exhaustive()
    }
}

#[async_trait]
impl Registrar for MemoryRegistry {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        let registrar = self.registrar;
        let register =
            |inner: &mut crate::shared::Inner, now| inner.state.register(registrar, registration, claim, now);
        let (id, ttl) = self.shared.call(registrar, Operation::Register, register).await?;
        Ok(Box::new(MemoryLease {
            shared: Arc::clone(&self.shared),
            registrar,
            id,
            ttl,
            service: registration.service().clone(),
            instance: Arc::new(registration.instance().clone()),
        }))
    }
}

#[async_trait]
impl Resolver for MemoryRegistry {
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
        self.shared
            .call(self.registrar, Operation::Resolve, |inner, _| Ok(inner.state.snapshot(service)))
            .await
    }

    async fn watch(&self, service: &ServiceName, since: Option<Snapshot>) -> Result<SnapshotStream> {
        let (shared, registrar) = (&self.shared, self.registrar);
        let open =
            |inner: &mut crate::shared::Inner, _| Watch::open(inner, shared, registrar, service, since);
        self.shared.call(registrar, Operation::Watch, open).await.map(Watch::into_stream)
    }
}

#[async_trait]
impl Catalog for MemoryRegistry {
    async fn services(&self, under: Option<&ServiceName>) -> Result<Vec<ServiceName>> {
        self.shared
            .call(self.registrar, Operation::Services, |inner, _| Ok(inner.state.services(under)))
            .await
    }
}

/// The right to one record. Dropping it does nothing: the record goes when its TTL has passed.
struct MemoryLease {
    shared: Arc<Shared>,
    registrar: RegistrarId,
    id: LeaseId,
    ttl: Duration,
    service: ServiceName,
    /// What was said last, and what a renewal stands for.
    instance: Arc<Instance>,
}

impl fmt::Debug for MemoryLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLease")
            .field("service", &self.service)
            .field("instance", &self.instance.id())
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Lease for MemoryLease {
    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn renew(&mut self) -> Result<()> {
        let (id, instance) = (self.id, &self.instance);
        self.shared
            .call(self.registrar, Operation::Renew, |inner, now| inner.state.renew(id, instance, now))
            .await
    }

    async fn update(&mut self, instance: &Instance) -> Result<()> {
        self.check(instance).map_err(|error| error.with_operation(Operation::Update.name()))?;
        // Before the call: if its outcome stays unknown, the next call settles it in favour of the new.
        self.instance = Arc::new(instance.clone());
        let (id, instance) = (self.id, &self.instance);
        self.shared
            .call(self.registrar, Operation::Update, |inner, _| inner.state.restate(id, instance))
            .await
    }

    async fn revoke(&mut self) -> Result<()> {
        let id = self.id;
        let revoke = |inner: &mut crate::shared::Inner, _| {
            inner.state.revoke(id);
            Ok(())
        };
        self.shared.call(self.registrar, Operation::Revoke, revoke).await
    }
}

impl MemoryLease {
    fn check(&self, instance: &Instance) -> Result<()> {
        let (ours, other) = (self.instance.id(), instance.id());
        if ours != other {
            let why = format!("the lease is for instance {ours}, not for {other}");
            return Err(Error::new(ErrorKind::InvalidArgument, why));
        }
        Registration::new(self.service.clone(), instance.clone()).validate()
    }
}
