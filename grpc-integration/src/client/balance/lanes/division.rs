//! Which instance is in which lane, and the policy of each lane.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hither_core::contain::{contain, drop_contained};
use hither_core::{HasId, Instance, InstanceId, SortedById};
use tokio::time::Instant;

use super::super::contained::{Method, Panics};
use super::super::others::{Others, PATIENCE};
use super::super::policy::{LoadBalancingPolicy, Picker};
use super::by_lane::ByLane;
use crate::client::closure::Closure;
use crate::client::ready_instance::{InstanceGroup, ReadyInstance};

/// Makes the policy of a lane.
type MakePolicy = dyn Fn() -> Box<dyn LoadBalancingPolicy> + Send;

/// The ready instances by lane, kept up with each change of one.
pub(super) struct Division {
    lane_of: Closure<Option<String>>,
    make_policy: Box<MakePolicy>,
    /// Of the policies of all lanes.
    panics: Panics,
    connecting: ByLane<Arc<Instance>>,
    draining: ByLane<ReadyInstance>,
    ready: SortedById<ReadyInstance>,
    placed: SortedById<Placed>,
    lanes: BTreeMap<Arc<str>, LaneState>,
    /// Of the last update: what is waited for then has an end that is still to come.
    now: Instant,
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
    /// How many of them are not draining: all, or none.
    ready: usize,
    /// All, if they are draining.
    standing_in: SortedById<ReadyInstance>,
    /// How many of them have a weight.
    weighty: usize,
    group: Arc<InstanceGroup>,
    /// Those of the lane, and whether the policy follows them.
    others: Others,
    follows_others: bool,
    /// `None` before the first picker.
    policy: Option<Box<dyn LoadBalancingPolicy>>,
    /// The last one that the policy has made; `None` if it has panicked from the first time on.
    picker: Option<Arc<dyn Picker>>,
    /// Whether that is of the instances as they are now.
    is_current: bool,
    /// The text for calls if there is no picker.
    panic: Option<Arc<str>>,
    due: Option<Instant>,
}

/// A lane as calls see it.
#[derive(Debug, Clone)]
pub(super) struct LanePicker {
    pub(super) picker: Arc<dyn Picker>,
    /// Whether it was made for other instances, because the policy has panicked since.
    pub(super) is_old: bool,
    pub(super) group: Arc<InstanceGroup>,
    pub(super) has_weight: bool,
    /// Whether its instances are draining.
    pub(super) is_draining: bool,
}

impl Division {
    pub(super) fn new<P: LoadBalancingPolicy>(
        lane_of: Closure<Option<String>>,
        make_policy: impl Fn() -> P + Send + 'static,
    ) -> Self {
        let make_policy = Box::new(move || Box::new(make_policy()) as Box<dyn LoadBalancingPolicy>);
        let (ready, placed, lanes) = (SortedById::new(), SortedById::new(), BTreeMap::new());
        let (panics, connecting, draining) = (Panics::of::<P>(), ByLane::default(), ByLane::default());
        let now = Instant::now();
        Self { lane_of, make_policy, panics, connecting, draining, ready, placed, lanes, now }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        (self.make_policy)().check()
    }

    pub(super) fn has_slow_start(&self) -> bool {
        (self.make_policy)().has_slow_start()
    }

    /// Takes over the instances besides the ready ones, before [`update`](Self::update).
    pub(super) fn others(&mut self, others: &Others, default: &Arc<str>) {
        let mut connecting = std::mem::take(&mut self.connecting);
        connecting.update(others.connecting(), Arc::ptr_eq, |instance| self.lane_of(instance, default));
        self.connecting = connecting;
        let mut draining = std::mem::take(&mut self.draining);
        let lane_of = |instance: &ReadyInstance| self.lane_of(instance.instance(), default);
        draining.update(others.draining(), ReadyInstance::is_same, lane_of);
        self.draining = draining;
    }

    /// Takes over the ready instances; those without a lane are in the `default` one. It works from what has changed.
    ///
    /// A panic of a lane's policy is one of this lane alone, which keeps its last picker; the policy is asked again the next
    /// time.
    pub(super) fn update(&mut self, ready: &SortedById<ReadyInstance>, default: &Arc<str>) {
        self.divide(ready, default);
        self.stand_in();
        self.now = Instant::now();
        for (name, lane) in &mut self.lanes {
            lane.set_others(self.connecting.of(name), self.draining.of(name));
            if lane.is_current && lane.due.is_none_or(|due| due > self.now) {
                continue;
            }
            if !lane.group.instances().is_same(&lane.instances) {
                lane.group = Arc::new(lane.group.with(lane.instances.clone()));
            }
            let made = contain(|| {
                let policy = lane.policy.get_or_insert_with(|| (self.make_policy)());
                lane.follows_others = policy.follows_others();
                if lane.follows_others {
                    policy.others(&lane.others);
                }
                policy.picker(&lane.instances)
            });
            lane.is_current = made.is_ok();
            match made {
                Ok(picker) => drop_contained(lane.picker.replace(picker)),
                Err(panic) => lane.panic = Some(self.panics.add(Method::Picker, &panic).into()),
            }
            let due = lane.policy.as_ref().filter(|_| lane.is_current);
            lane.due = due.and_then(|policy| {
                contain(|| policy.due()).unwrap_or_else(|panic| {
                    self.panics.add(Method::Due, &panic);
                    None
                })
            });
        }
    }

    fn divide(&mut self, ready: &SortedById<ReadyInstance>, default: &Arc<str>) {
        let before = std::mem::replace(&mut self.ready, ready.clone());
        if ready.is_same(&before) {
            return;
        }
        let changed = || {
            let is_same = |old: Option<&ReadyInstance>, new: Option<&ReadyInstance>| {
                old.zip(new).is_some_and(|(old, new)| old.is_same(new))
            };
            ready.merge(&before).filter(move |(old, new)| !is_same(*old, *new))
        };
        // First all that leave: one may come back with another id, and is of its lane's group once.
        for (old, new) in changed() {
            let Some(known) = old.and_then(|old| self.placed.get(old.id())) else { continue };
            if let Some(lane) = self.lanes.get_mut(&known.lane) {
                lane.remove_ready(&known.instance);
            }
            if let (Some(old), None) = (old, new) {
                self.placed.remove(old.id());
            }
        }
        for (_, new) in changed() {
            let Some(new) = new else { continue };
            // Its weight alone may have changed.
            let known = self.placed.get(new.id());
            let known = known.filter(|known| Arc::ptr_eq(known.instance.instance(), new.instance()));
            let lane = match known {
                Some(known) => Arc::clone(&known.lane),
                None => self.lane_of(new.instance(), default),
            };
            self.lanes.entry(Arc::clone(&lane)).or_default().insert_ready(new);
            self.placed.insert(Placed { instance: new.clone(), lane });
        }
    }

    /// Lets the draining instances of the lanes that have no ready ones take calls.
    fn stand_in(&mut self) {
        for (name, _) in self.draining.lanes() {
            if !self.lanes.contains_key(name) {
                self.lanes.insert(Arc::clone(name), LaneState::default());
            }
        }
        for (name, lane) in &mut self.lanes {
            match self.draining.of(name) {
                Some(draining) if lane.ready == 0 => lane.set_standing_in(draining),
                _ => lane.end_standing_in(),
            }
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

    /// Returns when a policy wants to make another picker, or a lane is no longer waited for.
    pub(super) fn due(&self) -> Option<Instant> {
        let ends = self.waits().map(|(_, end)| end).filter(|end| *end > self.now);
        self.lanes.values().filter_map(|lane| lane.due).chain(ends).min()
    }

    /// Returns the lanes of which some are being connected to that are better than what is ready, and whether they are waited
    /// for where there is another place to go to.
    pub(super) fn awaited(&self) -> BTreeMap<Arc<str>, bool> {
        self.waits().map(|(name, end)| (Arc::clone(name), end > self.now)).collect()
    }

    /// Those lanes, and until when they are waited for.
    fn waits(&self) -> impl Iterator<Item = (&Arc<str>, Instant)> {
        let is_awaited = |name: &str| match self.lanes.get(name) {
            None => true,
            // Its calls are told so.
            Some(lane) if lane.picker.is_none() => false,
            Some(lane) if lane.weighty == 0 => self.is_weight_connecting(name),
            // All that are draining may be ejected.
            Some(lane) => lane.ready == 0,
        };
        let awaited = self.connecting.lanes().filter(move |(name, _)| is_awaited(name));
        awaited.map(|(name, since)| (name, since + PATIENCE))
    }

    fn is_weight_connecting(&self, lane: &str) -> bool {
        let mut connecting = self.connecting.of(lane).into_iter().flatten();
        connecting.any(|instance| instance.weight() > 0)
    }

    pub(super) fn placed(&self) -> &SortedById<Placed> {
        &self.placed
    }

    /// Returns the lanes as they are now.
    pub(super) fn pickers(&self) -> BTreeMap<Arc<str>, LanePicker> {
        let picker = |(name, lane): (&Arc<str>, &LaneState)| {
            let (picker, group) = (lane.picker.clone()?, Arc::clone(&lane.group));
            let (is_old, has_weight, is_draining) = (!lane.is_current, lane.weighty > 0, lane.ready == 0);
            Some((Arc::clone(name), LanePicker { picker, is_old, group, has_weight, is_draining }))
        };
        self.lanes.iter().filter_map(picker).collect()
    }

    /// Returns the lanes whose policies have panicked instead of making a first picker, and the texts for calls.
    pub(super) fn broken(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        let broken = self.lanes.iter().filter(|(_, lane)| lane.picker.is_none());
        broken.filter_map(|(name, lane)| Some((Arc::clone(name), lane.panic.clone()?))).collect()
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
    fn set_others(
        &mut self,
        connecting: Option<&SortedById<Arc<Instance>>>,
        draining: Option<&SortedById<ReadyInstance>>,
    ) {
        let others = self.others.with(connecting, draining);
        if !others.is_same(&self.others) {
            self.others = others;
            self.is_current &= !self.follows_others;
        }
    }

    fn insert_ready(&mut self, instance: &ReadyInstance) {
        self.end_standing_in();
        self.ready += 1;
        self.insert(instance);
    }

    fn remove_ready(&mut self, instance: &ReadyInstance) {
        self.ready -= 1;
        self.remove(instance);
    }

    fn set_standing_in(&mut self, draining: &SortedById<ReadyInstance>) {
        if !draining.is_same(&self.standing_in) {
            self.end_standing_in();
            draining.iter().for_each(|instance| self.insert(instance));
            self.standing_in = draining.clone();
        }
    }

    fn end_standing_in(&mut self) {
        for instance in &std::mem::take(&mut self.standing_in) {
            self.remove(instance);
        }
    }

    fn insert(&mut self, instance: &ReadyInstance) {
        self.group.add(instance);
        self.weighty += usize::from(instance.weight() > 0.0);
        self.instances.insert(instance.clone());
        self.is_current = false;
    }

    fn remove(&mut self, instance: &ReadyInstance) {
        self.weighty -= usize::from(instance.weight() > 0.0);
        self.instances.remove(instance.id());
        self.group.remove(instance);
        self.is_current = false;
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
        Self {
            instances,
            ready: 0,
            standing_in: SortedById::new(),
            weighty: 0,
            group,
            others: Others::default(),
            follows_others: false,
            policy: None,
            picker: None,
            is_current: false,
            panic: None,
            due: None,
        }
    }
}
