//! The registry: the traits of hither-core on etcd.

use std::sync::Arc;

use async_trait::async_trait;
use hither_core::{
    Catalog, Claim, Lease, Registrar, Registration, Resolver, Result, ServiceName, Snapshot, SnapshotStream,
};

use crate::EtcdConfig;
use crate::client::Endpoints;
use crate::codec::Codec;
use crate::context::Context;
use crate::lease::EtcdLease;
use crate::watch;
use crate::watch::listing;

/// A registry on etcd, wire compatible with Go's `naming/endpoints` and `naming/resolver`.
///
/// A clone is the same registry, and as a [`Registrar`] the same owner. Two calls of
/// [`connect`](Self::connect) are two owners.
///
/// Thousands of registrations and services may share one registry, and its one connection. At most 64 registrations
/// are written, changed or removed at the same time; those that wait cost etcd nothing. The deadline of a caller includes
/// the wait: after it the caller starts again, as [`keep_registered`](hither_core::keep_registered) does.
///
/// ```no_run
/// use hither_core::{Resolver, ServiceName};
/// use hither_etcd::{EtcdConfig, EtcdRegistry};
///
/// # async fn example() -> hither_core::Result<()> {
/// let registry = EtcdRegistry::connect(EtcdConfig::new(["127.0.0.1:2379"]))?;
/// for instance in registry.resolve(&ServiceName::new("greeter")?).await?.iter() {
///     println!("{} at {}", instance.id(), instance.address());
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Permissions
/// With authentication enabled, resolving and watching need read permission on the range of the service, registering
/// needs read and write permission on its key.
#[derive(Debug, Clone)]
pub struct EtcdRegistry {
    pub(crate) context: Arc<Context>,
}

impl EtcdRegistry {
    /// Returns a registry on the etcd of `config`. It connects lazily: on the first call, and again whenever a connection
    /// broke. An etcd that is down is an error of that call, not of this one.
    ///
    /// # Errors
    /// `InvalidArgument` for no endpoint or an invalid one, a timeout that is zero or above a year, or TLS material that
    /// cannot be used.
    pub fn connect(config: EtcdConfig) -> Result<Self> {
        config.check()?;
        let config = Arc::new(config);
        let endpoints = Arc::new(Endpoints::new(Arc::clone(&config))?);
        let codec = Codec::new(config.layout(), config.prefix(), config.nested_ids());
        Ok(Self { context: Arc::new(Context::new(config, codec, endpoints)) })
    }

    /// Returns how many records were skipped because they could not be decoded: each version of a record counts once. The
    /// log has their keys.
    pub fn skipped_records(&self) -> u64 {
        self.context.skipped.count()
    }
}

#[async_trait]
impl Registrar for EtcdRegistry {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        let lease = EtcdLease::register(Arc::clone(&self.context), registration, claim).await;
        Ok(Box::new(lease.map_err(|error| error.with_operation("register"))?))
    }
}

#[async_trait]
impl Resolver for EtcdRegistry {
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
        let listed = async {
            let checkout = self.context.checkout().await?;
            Ok(listing::service(&self.context, &checkout, service, None).await?.snapshot())
        };
        listed.await.map_err(|error: hither_core::Error| error.with_operation("resolve"))
    }

    async fn watch(&self, service: &ServiceName) -> Result<SnapshotStream> {
        let watch = watch::open(Arc::clone(&self.context), service).await;
        watch.map_err(|error| error.with_operation("watch"))
    }
}

#[async_trait]
impl Catalog for EtcdRegistry {
    async fn services(&self, under: Option<&ServiceName>) -> Result<Vec<ServiceName>> {
        let listed = async {
            let checkout = self.context.checkout().await?;
            listing::services(&self.context, &checkout, under).await
        };
        listed.await.map_err(|error: hither_core::Error| error.with_operation("services"))
    }
}
