//! The instances that are being connected to, by lane.

use std::collections::BTreeMap;
use std::sync::Arc;

use hither_core::{HasId, Instance, InstanceId, SortedById};
use tokio::time::Instant;

/// Kept up with each change of one.
#[derive(Debug, Default)]
pub(super) struct Connecting {
    all: SortedById<Arc<Instance>>,
    lane_by_id: BTreeMap<InstanceId, Arc<str>>,
    lanes: BTreeMap<Arc<str>, ConnectingLane>,
}

#[derive(Debug)]
pub(super) struct ConnectingLane {
    /// At least one.
    instances: SortedById<Arc<Instance>>,
    /// When the last one of them came to it.
    since: Instant,
}

impl Connecting {
    /// Takes over the instances that are being connected to. It works from what has changed.
    pub(super) fn update(
        &mut self,
        connecting: &SortedById<Arc<Instance>>,
        lane_of: impl Fn(&Instance) -> Arc<str>,
    ) {
        let (before, now) = (std::mem::replace(&mut self.all, connecting.clone()), Instant::now());
        for (old, new) in connecting.merge(&before) {
            if let (Some(old), Some(new)) = (old, new)
                && Arc::ptr_eq(old, new)
            {
                continue;
            }
            if let Some(old) = old
                && let Some(name) = self.lane_by_id.remove(old.id())
                && let Some(lane) = self.lanes.get_mut(&name)
            {
                lane.instances.remove(old.id());
                if lane.instances.is_empty() {
                    self.lanes.remove(&name);
                }
            }
            let Some(new) = new else { continue };
            let name = lane_of(new);
            let lane = self.lanes.entry(Arc::clone(&name));
            let lane = lane.or_insert_with(|| ConnectingLane { instances: SortedById::new(), since: now });
            lane.instances.insert(Arc::clone(new));
            lane.since = now;
            self.lane_by_id.insert(new.id().clone(), name);
        }
    }

    /// Returns those of a lane.
    pub(super) fn of(&self, lane: &str) -> Option<&SortedById<Arc<Instance>>> {
        self.lanes.get(lane).map(|lane| &lane.instances)
    }

    /// Returns the lanes that have any, and since when the last one of each is being connected to.
    pub(super) fn lanes(&self) -> impl Iterator<Item = (&Arc<str>, Instant)> {
        self.lanes.iter().map(|(name, lane)| (name, lane.since))
    }
}
