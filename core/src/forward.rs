//! The traits, forwarded through `Arc` and `Box`.
#![deny(clippy::missing_trait_methods)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Catalog, Claim, Lease, Registrar, Registration, Resolver, Result, ServiceName, Snapshot, SnapshotStream,
};

macro_rules! forward {
    ($pointer:ident) => {
        #[async_trait]
        impl<T: Registrar + ?Sized> Registrar for $pointer<T> {
            async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
                (**self).register(registration, claim).await
            }
        }

        #[async_trait]
        impl<T: Resolver + ?Sized> Resolver for $pointer<T> {
            async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
                (**self).resolve(service).await
            }

            async fn watch(&self, service: &ServiceName) -> Result<SnapshotStream> {
                (**self).watch(service).await
            }
        }

        #[async_trait]
        impl<T: Catalog + ?Sized> Catalog for $pointer<T> {
            async fn services(&self, under: Option<&ServiceName>) -> Result<Vec<ServiceName>> {
                (**self).services(under).await
            }
        }
    };
}

forward!(Arc);
forward!(Box);

#[async_trait]
impl<T: Lease + ?Sized> Lease for Box<T> {
    fn ttl(&self) -> Duration {
        (**self).ttl()
    }

    async fn renew(&mut self) -> Result<()> {
        (**self).renew().await
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        (**self).update(registration).await
    }

    async fn revoke(&mut self) -> Result<()> {
        (**self).revoke().await
    }
}
