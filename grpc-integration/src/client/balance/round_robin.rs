//! Round robin: one instance after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hither_core::SortedById;

use super::policy::{CallInfo, LoadBalancingPolicy, Pick, Picker};
use crate::client::ready_instance::ReadyInstance;

/// Picks the ready instances in turn, one call each.
///
/// The first is random, so that many clients do not start with the same server (thundering herd).
///
/// ```
/// use hither_tonic::RoundRobin;
///
/// let policy = RoundRobin::default();
/// let repeatable = RoundRobin::default().with_seed(0);
/// ```
#[derive(Debug, Clone, Default)]
pub struct RoundRobin {
    seed: Option<u64>,
    last: Option<Arc<RoundRobinPicker>>,
}

impl RoundRobin {
    /// Sets the seed of the random start.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl LoadBalancingPolicy for RoundRobin {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        let next = match &self.last {
            // Continues after the instance that was picked last, at whatever index it is now.
            Some(last) => last.successor_among(ready),
            None => fastrand::Rng::with_seed(self.seed.unwrap_or_else(|| fastrand::u64(..)))
                .usize(..ready.len().max(1)),
        };
        let picker = Arc::new(RoundRobinPicker { ready: ready.clone(), next: AtomicUsize::new(next) });
        self.last = Some(Arc::clone(&picker));
        picker
    }
}

#[derive(Debug)]
struct RoundRobinPicker {
    ready: SortedById<ReadyInstance>,
    next: AtomicUsize,
}

impl RoundRobinPicker {
    fn successor_among(&self, ready: &SortedById<ReadyInstance>) -> usize {
        let Some(next) = self.next.load(Ordering::Relaxed).checked_rem(self.ready.len()) else {
            return 0;
        };
        // Both are sorted by id.
        let due = self.ready[next].instance().id();
        match ready.position(due) {
            Ok(next) => next,
            Err(next) if next < ready.len() => next,
            Err(_) => 0,
        }
    }
}

impl Picker for RoundRobinPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match turn.checked_rem(self.ready.len()) {
            Some(index) => Pick::Instance(self.ready[index].clone().into()),
            None => Pick::Queue,
        }
    }
}
