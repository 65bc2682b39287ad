//! Sticky: all calls to one instance.

use std::sync::Arc;

use hither_core::SortedById;

use super::policy::{CallInfo, LoadBalancingPolicy, Pick, Picker};
use crate::client::ready_instance::ReadyInstance;

/// Sends all calls to the first ready instance, by id, and stays with it for as long as it is ready.
///
/// Unlike gRPC's `pick_first` ([`Selection::pick_first`](crate::Selection::pick_first)) it connects to the others too, so that failover is immediate. They also take the calls
/// for which the first has no stream capacity (MAX_CONCURRENT_STREAMS).
///
/// ```
/// use hither_tonic::Sticky;
///
/// let policy = Sticky::default();
/// ```
#[derive(Debug, Clone, Default)]
pub struct Sticky {
    chosen: Option<ReadyInstance>,
}

impl LoadBalancingPolicy for Sticky {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        let last = self.chosen.as_ref();
        // By its id, which is not always that of its server's last record; then by its connections.
        let kept = last
            .and_then(|last| ready.get(last.instance().id()))
            .filter(|instance| Some(*instance) == last)
            .or_else(|| ready.iter().find(|instance| Some(*instance) == last));
        self.chosen = kept.or(ready.at(0)).cloned();
        Arc::new(StickyPicker { chosen: self.chosen.clone() })
    }
}

#[derive(Debug)]
struct StickyPicker {
    chosen: Option<ReadyInstance>,
}

impl Picker for StickyPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        self.chosen.clone().map_or(Pick::Queue, |chosen| Pick::Instance(chosen.into()))
    }
}
