//! What the clones of a registry, its leases and its watches share.

use std::sync::Arc;

use hither_core::Result;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::EtcdOptions;
use crate::client::endpoints::{Lent, Pool};
use crate::codec::Format;
use crate::codec::skipped::Skipped;
use crate::lease::lease_id::Owner;

/// How many registrations of one registry are written, changed or removed at a time; the others wait for their turn.
///
/// Renewals wait for nobody: they are spread over time, and a lease does not wait either.
const AT_ONCE: usize = 64;

/// What clones, leases and watches have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Arc<EtcdOptions>,
    pub(crate) format: Format,
    pub(crate) owner: Owner,
    pub(crate) skipped: Skipped,
    pool: Arc<Pool>,
    turns: Semaphore,
}

impl Shared {
    pub(crate) fn new(options: Arc<EtcdOptions>, format: Format, pool: Arc<Pool>) -> Self {
        let (owner, skipped, turns) = (Owner::new(), Skipped::default(), Semaphore::new(AT_ONCE));
        Self { options, format, owner, skipped, pool, turns }
    }

    pub(crate) async fn connection(&self) -> Result<Lent> {
        self.pool.connection().await
    }

    /// Waits until this registration may be written, changed or removed: see [`AT_ONCE`].
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.turns.acquire().await.ok()
    }
}
