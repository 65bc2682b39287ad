//! A lease, over the state.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{Error, ErrorKind, Instance, Lease, Registration, Result, ServiceName};

use crate::Operation;
use crate::state::{LeaseId, RegistrarId};
use crate::store::Shared;

/// The right to one record. Dropping it does nothing: the record goes when its TTL has passed.
pub(crate) struct MemoryLease {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registrar: RegistrarId,
    pub(crate) id: LeaseId,
    pub(crate) ttl: Duration,
    pub(crate) service: ServiceName,
    /// What was said last, and what a renewal stands for.
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
        let revoke = |inner: &mut crate::store::Inner, _| {
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
