//! The handle of a registry: the traits, over the state.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{
    Catalog, Claim, Lease, Registrar, Registration, Resolver, Result, ServiceName, Snapshot, SnapshotStream,
};

use crate::lease::MemoryLease;
use crate::state::RegistrarId;
use crate::store::{DEADLINE, Inner, Store};
use crate::watch::MemoryWatch;
use crate::{Faults, Operation};

/// The registries of [`MemoryRegistry::named`].
static NAMED: Mutex<BTreeMap<String, Arc<Store>>> = Mutex::new(BTreeMap::new());

/// A registry in memory: registrar, resolver and catalog.
///
/// A clone is the same registry and the same registrar, as two parts of one process are;
/// [`connect`](Self::connect) returns the same registry as another registrar, as another process is. A registry
/// made by [`new`](Self::new) lives as long as its handles; one made by [`named`](Self::named) as long as the
/// process.
///
/// It behaves as etcd does: each record is bound to a lease of its own, and a lease that is not renewed expires
/// and takes the record with it. A TTL is granted as requested, up to a year. Time is Tokio's, so a test can
/// pause it.
///
/// ```
/// use hither_core::{Claim, Instance, Registrar, Registration, Resolver};
/// use hither_memory::MemoryRegistry;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let registry = MemoryRegistry::new();
/// let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?))?;
/// let mut lease = registry.register(&registration, Claim::TakeOver).await?;
/// assert_eq!(registry.resolve(&"greeter".parse()?).await?.len(), 1);
///
/// // Another process cannot register the same id while the lease lives.
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
    store: Arc<Store>,
    registrar: RegistrarId,
}

impl MemoryRegistry {
    /// The deadline of every call (5 s), and the longest time that a watch of a frozen registry stays silent:
    /// then they end with [`Timeout`](hither_core::ErrorKind::Timeout). Only [`Faults`] make a call take time.
    pub const DEADLINE: Duration = DEADLINE;

    /// Creates an empty registry. Needs no runtime.
    pub fn new() -> Self {
        Self::on(Store::new())
    }

    /// Returns the registry of this name in this process, as another registrar each time, as
    /// [`connect`](Self::connect) does. The first call with a name creates the registry.
    ///
    /// A server and a client in one process that know nothing but the name (from a URL such as `memory://name`)
    /// meet in it, in whatever order they open it. It lives as long as the process, as a registry on the network
    /// outlives its clients: a record outlasts the handle that registered it until its TTL has passed. So
    /// choose names from configuration, not from unbounded input.
    ///
    /// Tests of one process share it, each with a clock of its own if time is paused: give each test its own
    /// name, or use [`new`](Self::new).
    ///
    /// ```
    /// use hither_core::{Claim, Instance, Registrar, Registration, Resolver};
    /// use hither_memory::MemoryRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_core::Result<()> {
    /// let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?))?;
    /// let lease = MemoryRegistry::named("shop").register(&registration, Claim::TakeOver).await?;
    /// assert_eq!(MemoryRegistry::named("shop").resolve(&"greeter".parse()?).await?.len(), 1);
    /// assert!(MemoryRegistry::named("bank").resolve(&"greeter".parse()?).await?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn named(name: &str) -> Self {
        // A map stays consistent whatever panics beside it.
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        let store = named.entry(name.to_owned()).or_insert_with(Store::new);
        Self::on(Arc::clone(store))
    }

    /// Returns a handle of the same registry for another registrar, as another process has: what it registers
    /// has another owner.
    #[must_use]
    pub fn connect(&self) -> Self {
        Self::on(Arc::clone(&self.store))
    }

    /// Returns the control of this registry's faults, for tests.
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.store), self.registrar)
    }

    fn on(store: Arc<Store>) -> Self {
        let registrar = store.lock_as_it_is().state.new_registrar();
        Self { store, registrar }
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
        let register = |inner: &mut Inner, now| inner.state.register(registrar, registration, claim, now);
        let (id, ttl) = self.store.call(registrar, Operation::Register, register).await?;
        Ok(Box::new(MemoryLease {
            store: Arc::clone(&self.store),
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
        self.store
            .call(self.registrar, Operation::Resolve, |inner, _| Ok(inner.state.snapshot(service)))
            .await
    }

    async fn watch(&self, service: &ServiceName) -> Result<SnapshotStream> {
        let (store, registrar) = (&self.store, self.registrar);
        let open = |inner: &mut Inner, _| MemoryWatch::open(inner, store, registrar, service);
        self.store.call(registrar, Operation::Watch, open).await.map(MemoryWatch::into_stream)
    }
}

#[async_trait]
impl Catalog for MemoryRegistry {
    async fn services(&self, under: Option<&ServiceName>) -> Result<Vec<ServiceName>> {
        self.store.call(self.registrar, Operation::Services, |inner, _| Ok(inner.state.services(under))).await
    }
}
