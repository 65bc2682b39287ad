//! The registrar of a process that can be killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{Claim, Error, ErrorKind, Lease, Registrar, Registration, Result};

/// A registrar that revokes nothing any more once its process was killed: the records of that expire by their TTL, as
/// those of a real one do.
#[derive(Debug, Clone)]
pub(super) struct Mortal {
    registrar: Arc<dyn Registrar>,
    killed: Arc<AtomicBool>,
}

impl Mortal {
    pub(super) fn new(registrar: Arc<dyn Registrar>) -> Self {
        Self { registrar, killed: Arc::default() }
    }

    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Registrar for Mortal {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        let lease = self.registrar.register(registration, claim).await?;
        Ok(Box::new(MortalLease { lease, killed: Arc::clone(&self.killed) }))
    }
}

#[derive(Debug)]
struct MortalLease {
    lease: Box<dyn Lease>,
    killed: Arc<AtomicBool>,
}

#[async_trait]
impl Lease for MortalLease {
    fn ttl(&self) -> Duration {
        self.lease.ttl()
    }

    async fn renew(&mut self) -> Result<()> {
        self.lease.renew().await
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        self.lease.update(registration).await
    }

    async fn revoke(&mut self) -> Result<()> {
        if self.killed.load(Ordering::SeqCst) {
            // Not retryable, so the lease is dropped.
            return Err(Error::new(ErrorKind::Closed, "the process was killed").with_operation("deregister"));
        }
        self.lease.revoke().await
    }
}
