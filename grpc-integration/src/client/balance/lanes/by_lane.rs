//! Instances that are not called by themselves, by lane: those that are being connected to, and those that are draining.

use std::collections::BTreeMap;
use std::sync::Arc;

use hither_core::{HasId, InstanceId, SortedById};
use tokio::time::Instant;

/// Kept up with each change of one.
#[derive(Debug)]
pub(super) struct ByLane<T> {
    all: SortedById<T>,
    lane_by_id: BTreeMap<InstanceId, Arc<str>>,
    lanes: BTreeMap<Arc<str>, OfLane<T>>,
}

#[derive(Debug)]
struct OfLane<T> {
    /// At least one.
    instances: SortedById<T>,
    /// When the last one of them came to it. Not when one changed that was of it already.
    since: Instant,
}

impl<T: HasId + Clone> ByLane<T> {
    /// Takes over the instances. It works from what has changed.
    pub(super) fn update(
        &mut self,
        instances: &SortedById<T>,
        is_same: impl Fn(&T, &T) -> bool,
        lane_of: impl Fn(&T) -> Arc<str>,
    ) {
        let (before, now) = (std::mem::replace(&mut self.all, instances.clone()), Instant::now());
        for (old, new) in instances.merge(&before) {
            if let (Some(old), Some(new)) = (old, new)
                && is_same(old, new)
            {
                continue;
            }
            let known = old.and_then(|old| self.lane_by_id.remove(old.id()));
            let name = new.map(&lane_of);
            if let Some(old) = old
                && let Some(known) = &known
                && name.as_ref() != Some(known)
                && let Some(lane) = self.lanes.get_mut(known)
            {
                lane.instances.remove(old.id());
                if lane.instances.is_empty() {
                    self.lanes.remove(known);
                }
            }
            let (Some(new), Some(name)) = (new, name) else { continue };
            let lane = self.lanes.entry(Arc::clone(&name));
            let lane = lane.or_insert_with(|| OfLane { instances: SortedById::new(), since: now });
            lane.instances.insert(new.clone());
            if known.as_ref() != Some(&name) {
                lane.since = now;
            }
            self.lane_by_id.insert(new.id().clone(), name);
        }
    }

    /// Returns those of a lane.
    pub(super) fn of(&self, lane: &str) -> Option<&SortedById<T>> {
        self.lanes.get(lane).map(|lane| &lane.instances)
    }

    /// Returns the lanes that have any, and since when the last one of each is there.
    pub(super) fn lanes(&self) -> impl Iterator<Item = (&Arc<str>, Instant)> {
        self.lanes.iter().map(|(name, lane)| (name, lane.since))
    }
}

impl<T> Default for ByLane<T> {
    fn default() -> Self {
        Self { all: SortedById::new(), lane_by_id: BTreeMap::new(), lanes: BTreeMap::new() }
    }
}
