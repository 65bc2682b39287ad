//! The context that the clones of a registry, its leases and its watches share.

use std::sync::Arc;

use hither_core::Result;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::EtcdConfig;
use crate::client::{Checkout, Endpoints};
use crate::codec::Codec;
use crate::codec::skipped::Skipped;
use crate::lease::lease_id::LeaseIds;

/// How many registrations of one registry are written, changed or removed at a time; the others wait for their turn.
///
/// Renewals do not wait: they are spread over time, and a lease expires meanwhile.
const AT_ONCE: usize = 64;

/// Shared by the clones of one registry, its leases and its watches.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Arc<EtcdConfig>,
    pub(crate) codec: Codec,
    pub(crate) lease_ids: LeaseIds,
    pub(crate) skipped: Skipped,
    endpoints: Arc<Endpoints>,
    turns: Semaphore,
}

impl Context {
    pub(crate) fn new(config: Arc<EtcdConfig>, codec: Codec, endpoints: Arc<Endpoints>) -> Self {
        let (lease_ids, skipped, turns) = (LeaseIds::new(), Skipped::default(), Semaphore::new(AT_ONCE));
        Self { config, codec, lease_ids, skipped, endpoints, turns }
    }

    /// The current connection: see [`Endpoints::checkout`].
    pub(crate) async fn checkout(&self) -> Result<Checkout> {
        self.endpoints.checkout().await
    }

    /// Waits until this registration may be written, changed or removed: see [`AT_ONCE`].
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.turns.acquire().await.ok()
    }
}
