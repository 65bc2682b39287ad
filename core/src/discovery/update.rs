//! What a watcher yields.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Error, Instance, Snapshot};

/// What is known of a service now.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Update {
    /// The registry's last word; `None` until it has spoken for the first time. It is kept through any outage.
    pub snapshot: Option<Snapshot>,
    /// Instances that vanished together without a word, sorted by id: see [`Protection`]. To be called only
    /// over a connection that is already open.
    pub held: Arc<[Arc<Instance>]>,
    /// Whether the registry is being heard.
    pub freshness: Freshness,
}

impl Update {
    /// What is known before anything is: no snapshot, and stale because of `cause`.
    pub(crate) fn unknown(cause: Error) -> Self {
        Self {
            snapshot: None,
            held: Arc::new([]),
            freshness: Freshness::Stale { since: Instant::now(), age: Duration::ZERO, cause },
        }
    }

    /// The instances of the last snapshot; none while there is no snapshot.
    pub fn instances(&self) -> &[Arc<Instance>] {
        self.snapshot.as_ref().map(Snapshot::instances).unwrap_or_default()
    }
}

/// Whether the registry is being heard.
#[derive(Debug, Clone)]
pub enum Freshness {
    /// The snapshot is what the registry says now.
    Fresh,
    /// The registry is not being heard; the snapshot is its last word.
    Stale {
        /// Since when.
        since: Instant,
        /// How old the snapshot was by then: zero, unless it was found on disk
        /// ([`Discovery::with_cache_dir`](crate::Discovery::with_cache_dir)).
        age: Duration,
        /// The newest reason.
        cause: Error,
    },
}

impl Freshness {
    /// Whether the registry is being heard.
    pub fn is_fresh(&self) -> bool {
        matches!(self, Self::Fresh)
    }
}
