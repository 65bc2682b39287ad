//! What a watcher yields.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Error, Instance, Snapshot, SortedById};

/// The state of a service as a client knows it now.
///
/// Two updates of one watcher share the instances that have not changed in between: comparing them
/// ([`Snapshot::diff`], [`SortedById::diff`]) costs what their difference does, also if updates were skipped.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Update {
    /// The last snapshot of the registry; `None` until the first one. It is kept through any outage.
    pub snapshot: Option<Snapshot>,
    /// Instances removed in bulk without having been `Draining`, sorted by id: see
    /// [`ProtectionConfig`](crate::ProtectionConfig). They are not in the snapshot. Call them only over a connection that
    /// is already open.
    pub held: SortedById<Arc<Instance>>,
    /// Whether the snapshot is current.
    pub freshness: Freshness,
}

impl Update {
    /// The state before the first snapshot: stale because of `cause`.
    pub(crate) fn unknown(cause: Error) -> Self {
        Self {
            snapshot: None,
            held: SortedById::new(),
            freshness: Freshness::Stale { since: Instant::now(), age: Duration::ZERO, cause },
        }
    }

    /// Drops it, and yields in between if there is much to drop.
    pub(super) async fn discard(self) {
        let instances = self.snapshot.map(|snapshot| snapshot.instances().clone());
        instances.unwrap_or_default().discard().await;
        self.held.discard().await;
    }

    /// Iterates over the instances of the last snapshot; none while there is no snapshot.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> + Clone {
        self.snapshot.iter().flatten()
    }

    /// Iterates over all instances that can be called: those of the last snapshot, then those that are held.
    pub fn callable(&self) -> impl Iterator<Item = &Arc<Instance>> + Clone {
        self.instances().chain(self.held.iter())
    }
}

/// Whether a snapshot is current.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Freshness {
    /// The registry is being watched, and the snapshot is its present state.
    Fresh,
    /// The registry is not being watched, and the snapshot is the last one before that.
    #[non_exhaustive]
    Stale {
        /// When the watch was lost.
        since: Instant,
        /// How old the snapshot was then: zero, unless it was read from disk
        /// (`DiscoveryBuilder::cache_dir`, feature `disk-cache`).
        age: Duration,
        /// The most recent error.
        cause: Error,
    },
}

impl Freshness {
    /// Whether the snapshot is current.
    pub fn is_fresh(&self) -> bool {
        matches!(self, Self::Fresh)
    }
}
