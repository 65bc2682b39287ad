//! A lease, over the state.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{Error, ErrorKind, Instance, Lease, Registration, Result, ServiceName};

use crate::Operation;
use crate::state::{LeaseId, RegistrarId};
use crate::store::{Inner, Store};

/// The lease of one record. Dropping it does nothing: the record is removed when its TTL has passed.
pub(crate) struct MemoryLease {
    pub(crate) store: Arc<Store>,
    pub(crate) registrar: RegistrarId,
    pub(crate) id: LeaseId,
    pub(crate) ttl: Duration,
    pub(crate) service: ServiceName,
    /// The desired content: what a renewal restores.
    pub(crate) instance: Arc<Instance>,
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
        self.store
            .call(self.registrar, Operation::Renew, |inner, now| inner.state.renew(id, instance, now))
            .await
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        self.check(registration).map_err(|error| error.with_operation(Operation::Update.name()))?;
        // Before the call: if its outcome stays unknown, the next call writes the new content.
        self.instance = Arc::new(registration.instance().clone());
        let (id, instance) = (self.id, &self.instance);
        self.store.call(self.registrar, Operation::Update, |inner, _| inner.state.update(id, instance)).await
    }

    async fn revoke(&mut self) -> Result<()> {
        let id = self.id;
        let revoke = |inner: &mut Inner, _| {
            inner.state.revoke(id);
            Ok(())
        };
        self.store.call(self.registrar, Operation::Revoke, revoke).await
    }
}

impl MemoryLease {
    fn check(&self, registration: &Registration) -> Result<()> {
        let (ours, other) = (self.instance.id(), registration.instance().id());
        if ours != other || self.service != *registration.service() {
            let (service, theirs) = (&self.service, registration.service());
            let message = format!("the lease is of instance {ours} of {service}, not of {other} of {theirs}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(())
    }
}
