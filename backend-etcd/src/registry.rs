//! The registry: what users hold, and what implements the traits.

use std::sync::Arc;

use async_trait::async_trait;
use hither_core::{
    Catalog, Claim, Lease, Registrar, Registration, Resolver, Result, ServiceName, Snapshot, SnapshotStream,
};

use crate::EtcdOptions;
use crate::client::endpoints::Pool;
use crate::codec::Format;
use crate::context::Shared;
use crate::lease::EtcdLease;
use crate::watch;
use crate::watch::listing as list;

/// A registry on etcd, wire compatible with Go's `naming/endpoints` and `naming/resolver`.
///
/// A clone is the same registry, and as a [`Registrar`] the same owner. Two calls of
/// [`connect`](Self::connect) are two owners.
///
/// Thousands of registrations and of services may share one registry, and its one connection. At most 64 registrations
/// are written, changed or removed at the same time; those that wait cost etcd nothing. Their caller's deadline counts
/// while they wait: who is not done by then begins again, as [`keep_registered`](hither_core::keep_registered) does.
///
/// ```no_run
/// use hither_core::{Resolver, ServiceName};
/// use hither_etcd::{EtcdOptions, EtcdRegistry};
///
/// # async fn example() -> hither_core::Result<()> {
/// let registry = EtcdRegistry::connect(EtcdOptions::new(["127.0.0.1:2379"]))?;
/// for instance in registry.resolve(&ServiceName::new("greeter")?).await?.instances() {
///     println!("{} at {}", instance.id(), instance.address());
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Permissions
/// Where etcd has users: resolving and watching need read permission on the range of the service, registering
/// needs read and write permission on its key.
#[derive(Debug, Clone)]
pub struct EtcdRegistry {
    pub(crate) shared: Arc<Shared>,
}

impl EtcdRegistry {
    /// A registry on the etcd that `options` name. Nothing is connected yet: that happens on the first call, and
    /// again whenever a connection broke. An etcd that is down is an error of that call, not of this one.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no endpoint or one that is none, a timeout that is zero or above a year, or
    /// TLS material that cannot be used.
    pub fn connect(options: EtcdOptions) -> Result<Self> {
        options.check()?;
        let options = Arc::new(options);
        let pool = Arc::new(Pool::new(Arc::clone(&options))?);
        let format = Format::new(options.layout(), options.prefix(), options.nested_ids());
        Ok(Self { shared: Arc::new(Shared::new(options, format, pool)) })
    }

    /// How many records were skipped so far because they could not be decoded, each version of each counted
    /// once. The log has their keys.
    pub fn skipped_records(&self) -> u64 {
        self.shared.skipped.count()
    }
}

#[async_trait]
impl Registrar for EtcdRegistry {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        let lease = EtcdLease::register(Arc::clone(&self.shared), registration, claim).await;
        Ok(Box::new(lease.map_err(|error| error.with_operation("register"))?))
    }
}

#[async_trait]
impl Resolver for EtcdRegistry {
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
        let listed = async {
            let lent = self.shared.connection().await?;
            Ok(list::service(&self.shared, &lent, service).await?.snapshot())
        };
        listed.await.map_err(|error: hither_core::Error| error.with_operation("resolve"))
    }

    async fn watch(&self, service: &ServiceName, since: Option<Snapshot>) -> Result<SnapshotStream> {
        let watch = watch::open(Arc::clone(&self.shared), service, since).await;
        watch.map_err(|error| error.with_operation("watch"))
    }
}

#[async_trait]
impl Catalog for EtcdRegistry {
    async fn services(&self, under: Option<&ServiceName>) -> Result<Vec<ServiceName>> {
        let listed = async {
            let lent = self.shared.connection().await?;
            list::services(&self.shared, &lent, under).await
        };
        listed.await.map_err(|error: hither_core::Error| error.with_operation("services"))
    }
}
