//! A fixed list of instances.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream;

use crate::{
    Address, AddressKind, Claim, Error, ErrorKind, Instance, Lease, Registrar, Registration, Resolver,
    Result, ServiceName, Snapshot, SnapshotStream,
};

/// A registry with a fixed list of instances, the same for every service: for addresses from a configuration file, and
/// for tests.
///
/// Registering succeeds and changes nothing, so that a server whose registry is configured runs without one too.
///
/// ```
/// use hither_core::{Instance, Resolver, StaticRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let registry = StaticRegistry::new([Instance::new("10.0.0.7:8001".parse()?)]);
/// assert_eq!(registry.resolve(&"greeter".parse()?).await?.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct StaticRegistry {
    instances: Vec<Arc<Instance>>,
}

impl StaticRegistry {
    /// Returns a registry with these instances.
    pub fn new(instances: impl IntoIterator<Item = Instance>) -> Self {
        Self { instances: instances.into_iter().map(Arc::new).collect() }
    }

    /// Parses a list of addresses, separated by commas: `10.0.0.1:80,10.0.0.2:80`.
    ///
    /// # Errors
    /// `InvalidArgument` when a part of the list is not an [`Address`](crate::Address), or has a URL for a host.
    pub fn parse(addresses: &str) -> Result<Self> {
        let instance = |text: &str| {
            let address: Address = text.trim().parse()?;
            match address.kind() {
                // Found in the records of others, where it is tolerated; nothing can connect to it.
                AddressKind::Host { host, .. } if host.contains("://") => {
                    let why = format!("address {text:?} is a URL (expected host:port)");
                    Err(Error::new(ErrorKind::InvalidArgument, why))
                }
                _ => Ok(Instance::new(address)),
            }
        };
        addresses.split(',').map(instance).collect()
    }

    fn snapshot(&self, service: &ServiceName) -> Snapshot {
        Snapshot::new(service.clone(), self.instances.iter().cloned())
    }
}

impl FromIterator<Instance> for StaticRegistry {
    fn from_iter<I: IntoIterator<Item = Instance>>(instances: I) -> Self {
        Self::new(instances)
    }
}

#[async_trait]
impl Resolver for StaticRegistry {
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
        Ok(self.snapshot(service))
    }

    async fn watch(&self, service: &ServiceName) -> Result<SnapshotStream> {
        let snapshot = self.snapshot(service);
        Ok(Box::pin(stream::once(async { Ok(snapshot) }).chain(stream::pending())))
    }
}

#[async_trait]
impl Registrar for StaticRegistry {
    async fn register(&self, registration: &Registration, _claim: Claim) -> Result<Box<dyn Lease>> {
        Ok(Box::new(StaticLease { registration: registration.clone(), is_revoked: false }))
    }
}

/// A lease on nothing: it keeps the rules of the trait and changes no list.
#[derive(Debug)]
struct StaticLease {
    registration: Registration,
    is_revoked: bool,
}

#[async_trait]
impl Lease for StaticLease {
    fn ttl(&self) -> Duration {
        self.registration.ttl()
    }

    async fn renew(&mut self) -> Result<()> {
        match self.is_revoked {
            false => Ok(()),
            true => Err(Error::new(ErrorKind::LeaseExpired, "the lease was revoked").with_operation("renew")),
        }
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        self.renew().await?;
        self.registration = self.registration.clone().with_instance(registration.instance().clone())?;
        Ok(())
    }

    async fn revoke(&mut self) -> Result<()> {
        self.is_revoked = true;
        Ok(())
    }
}
