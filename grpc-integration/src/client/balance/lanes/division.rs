//! Which instance is in which lane, and the policy of each lane.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hither_core::contain::drop_contained;
use hither_core::{HasId, Instance, InstanceId, SortedById};
use tokio::time::Instant;

use super::super::policy::{LoadBalancingPolicy, Picker};
use crate::client::closure::Closure;
use crate::client::ready_instance::{InstanceGroup, ReadyInstance};

/// Makes the policy of a lane.
type MakePolicy = dyn Fn() -> Box<dyn LoadBalancingPolicy> + Send;

/// The ready instances by lane, kept up with each change of one.
pub(super) struct Division {
    lane_of: Closure<Option<String>>,
    make_policy: Box<MakePolicy>,
    ready: SortedById<ReadyInstance>,
    placed: SortedById<Placed>,
    lanes: BTreeMap<Arc<str>, LaneState>,
}

/// A ready instance, and its lane.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) instance: ReadyInstance,
    pub(super) lane: Arc<str>,
}

impl HasId for Placed {
    fn id(&self) -> &InstanceId {
        self.instance.id()
    }
}

impl AsRef<ReadyInstance> for Placed {
    fn as_ref(&self) -> &ReadyInstance {
        &self.instance
    }
}

/// A lane that has instances.
#[derive(Debug)]
struct LaneState {
    instances: SortedById<ReadyInstance>,
    /// How many of them have a weight.
    weighty: usize,
    group: Arc<InstanceGroup>,
    /// `None` before the first picker.
    policy: Option<Box<dyn LoadBalancingPolicy>>,
    /// `None` if the instances have changed since.
    picker: Option<Arc<dyn Picker>>,
    due: Option<Instant>,
}

/// A lane as calls see it.
#[derive(Debug, Clone)]
pub(super) struct LanePicker {
    pub(super) picker: Arc<dyn Picker>,
    pub(super) group: Arc<InstanceGroup>,
    pub(super) has_weight: bool,
}

impl Division {
    pub(super) fn new(lane_of: Closure<Option<String>>, make_policy: Box<MakePolicy>) -> Self {
        let (ready, placed, lanes) = (SortedById::new(), SortedById::new(), BTreeMap::new());
        Self { lane_of, make_policy, ready, placed, lanes }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        (self.make_policy)().check()
    }

    pub(super) fn has_slow_start(&self) -> bool {
        (self.make_policy)().has_slow_start()
    }

    /// Takes over the ready instances; those without a lane are in the `default` one. It works from what has changed.
    ///
    /// # Panics
    /// If a policy does. What is missing then is made the next time.
    pub(super) fn update(&mut self, ready: &SortedById<ReadyInstance>, default: &Arc<str>) {
        self.divide(ready, default);
        let now = Instant::now();
        for lane in self.lanes.values_mut() {
            if lane.due.is_some_and(|due| due <= now) {
                lane.picker = None;
            }
            if lane.picker.is_some() {
                continue;
            }
            if !lane.group.instances().is_same(&lane.instances) {
                lane.group = Arc::new(lane.group.with(lane.instances.clone()));
            }
            lane.due = None;
            let policy = lane.policy.get_or_insert_with(|| (self.make_policy)());
            let picker = policy.picker(&lane.instances);
            lane.due = policy.due();
            lane.picker = Some(picker);
        }
    }

    fn divide(&mut self, ready: &SortedById<ReadyInstance>, default: &Arc<str>) {
        let before = std::mem::replace(&mut self.ready, ready.clone());
        if ready.is_same(&before) {
            return;
        }
        for (old, new) in ready.merge(&before) {
            if let (Some(old), Some(new)) = (old, new)
                && old.is_same(new)
            {
                continue;
            }
            let known = old.and_then(|old| self.placed.remove(old.id()));
            if let Some(known) = &known
                && let Some(lane) = self.lanes.get_mut(&known.lane)
            {
                lane.remove(&known.instance);
            }
            let Some(new) = new else { continue };
            // Its weight alone may have changed.
            let lane = known.filter(|known| Arc::ptr_eq(known.instance.instance(), new.instance()));
            let lane = lane.map_or_else(|| self.lane_of(new.instance(), default), |known| known.lane);
            self.lanes.entry(Arc::clone(&lane)).or_default().insert(new);
            self.placed.insert(Placed { instance: new.clone(), lane });
        }
        let is_gone =
            |(name, lane): (&Arc<str>, &LaneState)| lane.instances.is_empty().then(|| Arc::clone(name));
        let gone: Vec<_> = self.lanes.iter().filter_map(is_gone).collect();
        gone.iter().for_each(|name| drop_contained(self.lanes.remove(name)));
    }

    fn lane_of(&self, instance: &Instance, default: &Arc<str>) -> Arc<str> {
        let lane = self.lane_of.call(instance, None).filter(|lane| !lane.is_empty());
        let Some(lane) = lane else { return Arc::clone(default) };
        match self.lanes.get_key_value(lane.as_str()) {
            Some((known, _)) => Arc::clone(known),
            None => lane.into(),
        }
    }

    /// Returns when a policy wants to make another picker.
    pub(super) fn due(&self) -> Option<Instant> {
        self.lanes.values().filter_map(|lane| lane.due).min()
    }

    pub(super) fn placed(&self) -> &SortedById<Placed> {
        &self.placed
    }

    /// Returns the lanes as they are now.
    pub(super) fn pickers(&self) -> BTreeMap<Arc<str>, LanePicker> {
        let picker = |(name, lane): (&Arc<str>, &LaneState)| {
            let (picker, group) = (lane.picker.clone()?, Arc::clone(&lane.group));
            Some((Arc::clone(name), LanePicker { picker, group, has_weight: lane.weighty > 0 }))
        };
        self.lanes.iter().filter_map(picker).collect()
    }
}

impl Drop for Division {
    fn drop(&mut self) {
        std::mem::take(&mut self.lanes).into_values().for_each(drop_contained);
    }
}

impl fmt::Debug for Division {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.lanes.iter().map(|(name, lane)| (name, &lane.policy))).finish()
    }
}

impl LaneState {
    fn insert(&mut self, instance: &ReadyInstance) {
        self.group.add(instance);
        self.weighty += usize::from(instance.weight() > 0.0);
        self.instances.insert(instance.clone());
        self.picker = None;
    }

    fn remove(&mut self, instance: &ReadyInstance) {
        self.weighty -= usize::from(instance.weight() > 0.0);
        self.instances.remove(instance.id());
        self.group.remove(instance);
        self.picker = None;
    }
}

impl Drop for LaneState {
    fn drop(&mut self) {
        self.instances.iter().for_each(|instance| self.group.remove(instance));
    }
}

impl Default for LaneState {
    fn default() -> Self {
        let group = Arc::new(InstanceGroup::new(&Arc::default()));
        let instances = group.instances().clone();
        Self { instances, weighty: 0, group, policy: None, picker: None, due: None }
    }
}
