//! The traits, over the state.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{
    Catalog, Claim, Lease, Registrar, Registration, Resolver, Result, ServiceName, Snapshot, SnapshotStream,
};

use crate::lease::MemoryLease;
use crate::state::RegistrarId;
use crate::store::Shared;
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
    /// nothing from one: then they end with [`Timeout`](hither_core::ErrorKind::Timeout). Only [`Faults`] make it so.
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
            |inner: &mut crate::store::Inner, now| inner.state.register(registrar, registration, claim, now);
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
        let open = |inner: &mut crate::store::Inner, _| Watch::open(inner, shared, registrar, service, since);
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
