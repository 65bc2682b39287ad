//! Telling instances that left from instances that the registry lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::window::{Counts, Dated};
use crate::time::after;
use crate::{Change, Instance, InstanceId, InstanceState, SortedById};

/// The settings of the protection against a registry that loses its instances.
///
/// A removal is *announced* if the instance was seen [`Draining`](InstanceState::Draining) before. If within a
/// window the unannounced removals leave fewer than half of the peak number of instances, or none, those removed are
/// *held* until they return or the hold time ends. A held instance is called only over a connection that is already
/// open. So a false hold (a crash, a peer that deregisters without draining, a service scaled to zero) costs nothing, and
/// a registry that lost all its data stops no traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtectionConfig {
    window: Duration,
    hold: Duration,
}

impl ProtectionConfig {
    /// Sets the window within which removals are counted together. Default 30 s.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets how long a removed instance is held at most. Default 5 min.
    #[must_use]
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }
}

impl Default for ProtectionConfig {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), hold: Duration::from_secs(300) }
    }
}

/// The state machine behind [`ProtectionConfig`]: it observes every snapshot, before any is coalesced away.
///
/// What it does for a change costs the same whatever the number of instances, lost ones and held ones.
#[derive(Debug)]
pub(super) struct HoldState {
    config: ProtectionConfig,
    counts: Counts,
    draining: BTreeSet<InstanceId>,
    /// Removed without an announcement, within the window.
    lost: Dated<Arc<Instance>>,
    held: SortedById<Arc<Instance>>,
    /// When each of them is released.
    releases: Dated<()>,
}

impl HoldState {
    pub(super) fn new(config: ProtectionConfig) -> Self {
        Self {
            config,
            counts: Counts::default(),
            draining: BTreeSet::new(),
            lost: Dated::default(),
            held: SortedById::new(),
            releases: Dated::default(),
        }
    }

    /// Observes what was known before the first snapshot.
    pub(super) async fn know(&mut self, instances: &SortedById<Arc<Instance>>, now: Instant) {
        for instance in instances {
            self.note(instance);
            consume_budget().await;
        }
        self.counts.push(now, instances.len());
    }

    /// Begins to observe a snapshot: its changes follow, and [`count`](Self::count) at last.
    pub(super) async fn begin(&mut self, now: Instant) {
        self.release(now).await;
        self.counts.forget(now, self.config.window);
        while self.lost.first().is_some_and(|at| now.duration_since(at) > self.config.window) {
            self.lost.pop_first();
            consume_budget().await;
        }
    }

    /// Observes a change since the snapshot before.
    pub(super) fn observe(&mut self, change: &Change, now: Instant) {
        match change {
            Change::Insert(instance) | Change::Update { to: instance, .. } => self.note(instance),
            Change::Remove(instance) if self.draining.remove(instance.id()) => {
                self.counts.announced_removal();
            }
            Change::Remove(instance) => self.lost.insert(instance.id().clone(), now, Arc::clone(instance)),
        }
    }

    /// Observes how many instances the snapshot has, after its changes. Returns whether instances are held that were not
    /// held before.
    pub(super) async fn count(&mut self, count: usize, now: Instant) -> bool {
        self.counts.push(now, count);
        let begins = (count == 0 || count * 2 < self.counts.peak()) && self.lost.first().is_some();
        if begins {
            let until = after(now, self.config.hold);
            while let Some((id, instance)) = self.lost.pop_first() {
                self.held.insert(instance);
                self.releases.insert(id, until, ());
                consume_budget().await;
            }
        }
        begins
    }

    /// Notes an instance that is registered: it is neither lost nor held.
    fn note(&mut self, instance: &Instance) {
        let id = instance.id();
        if self.releases.remove(id).is_some() {
            self.held.remove(id);
        }
        self.lost.remove(id);
        if instance.state() == InstanceState::Draining {
            self.draining.insert(id.clone());
        } else {
            self.draining.remove(id);
        }
    }

    /// The instances that are held now.
    pub(super) fn held(&self) -> &SortedById<Arc<Instance>> {
        &self.held
    }

    /// When the next hold ends.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.releases.first()
    }

    /// Releases the instances whose hold time has ended.
    pub(super) async fn release(&mut self, now: Instant) {
        while self.releases.first().is_some_and(|until| until <= now) {
            if let Some((id, ())) = self.releases.pop_first() {
                self.held.remove(&id);
            }
            consume_budget().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::FutureExt;

    use super::*;
    use crate::Snapshot;

    struct Story {
        hold: HoldState,
        last: Snapshot,
        now: Instant,
    }

    impl Story {
        fn new() -> Self {
            let last = Snapshot::new("svc".parse().unwrap(), []);
            Self { hold: HoldState::new(ProtectionConfig::default()), last, now: Instant::now() }
        }

        fn after(&mut self, seconds: u64, instances: &[&str]) -> Vec<String> {
            self.now += Duration::from_secs(seconds);
            let instances = instances.iter().map(|text| {
                let (address, state) = match text.strip_suffix('*') {
                    Some(address) => (address, InstanceState::Draining),
                    None => (*text, InstanceState::Up),
                };
                Arc::new(Instance::new(format!("{address}:1").parse().unwrap()).with_state(state))
            });
            let snapshot = Snapshot::new("svc".parse().unwrap(), instances);
            self.observe(snapshot);
            self.held()
        }

        fn observe(&mut self, snapshot: Snapshot) {
            self.hold.begin(self.now).now_or_never().unwrap();
            for change in snapshot.diff(&self.last) {
                self.hold.observe(&change, self.now);
            }
            self.hold.count(snapshot.len(), self.now).now_or_never().unwrap();
            self.last = snapshot;
        }

        fn held(&self) -> Vec<String> {
            self.hold.held().iter().map(|held| held.id().as_str().trim_end_matches(":1").to_owned()).collect()
        }
    }

    #[test]
    fn all_instances_are_held_when_the_registry_loses_everything() {
        let mut story = Story::new();
        story.after(0, &["a", "b", "c"]);
        assert_eq!(story.after(1, &[]), ["a", "b", "c"]);
    }

    #[test]
    fn one_crash_of_three_is_not_held() {
        let mut story = Story::new();
        story.after(0, &["a", "b", "c"]);
        assert!(story.after(1, &["a", "b"]).is_empty());
    }

    #[test]
    fn removals_are_counted_together_within_the_window_and_not_beyond() {
        let mut story = Story::new();
        story.after(0, &["a", "b", "c", "d"]);
        assert!(story.after(10, &["b", "c", "d"]).is_empty());
        assert!(story.after(10, &["c", "d"]).is_empty());
        assert_eq!(story.after(5, &["d"]), ["a", "b", "c"], "three of four within 25 s");

        let mut story = Story::new();
        story.after(0, &["a", "b", "c", "d"]);
        assert!(story.after(31, &["b", "c", "d"]).is_empty());
        assert!(story.after(31, &["c", "d"]).is_empty());
        assert!(story.after(31, &["d"]).is_empty(), "one of two: half is left");
    }

    #[test]
    fn announced_removals_are_never_held() {
        let mut story = Story::new();
        story.after(0, &["a", "b", "c"]);
        story.after(1, &["a*", "b*", "c*"]);
        assert!(story.after(1, &[]).is_empty());
    }

    #[test]
    fn announced_removals_do_not_count_towards_the_peak() {
        let mut story = Story::new();
        story.after(0, &["a", "b", "c", "d", "e", "f"]);
        story.after(1, &["a", "b", "c*", "d*", "e*", "f*"]);
        assert!(story.after(1, &["a", "b"]).is_empty());
        assert!(story.after(1, &["a"]).is_empty(), "one of two is half");
    }

    #[test]
    fn an_instance_that_stopped_draining_is_held() {
        let mut story = Story::new();
        story.after(0, &["a*"]);
        story.after(1, &["a"]);
        assert_eq!(story.after(1, &[]), ["a"]);
    }

    #[test]
    fn a_rolling_replacement_holds_no_instance() {
        let mut story = Story::new();
        story.after(0, &["a", "b", "c"]);
        story.after(1, &["a", "b", "c", "x"]);
        story.after(1, &["b", "c", "x"]);
        story.after(1, &["b", "c", "x", "y"]);
        story.after(1, &["c", "x", "y"]);
        story.after(1, &["c", "x", "y", "z"]);
        assert!(story.after(1, &["x", "y", "z"]).is_empty());
    }

    #[test]
    fn an_instance_that_returns_is_released_and_the_others_after_five_minutes() {
        let mut story = Story::new();
        story.after(0, &["a", "b", "c"]);
        story.after(1, &[]);
        assert_eq!(story.after(1, &["b"]), ["a", "c"]);
        assert_eq!(story.after(297, &["b"]), ["a", "c"]);
        story.hold.release(story.now + Duration::from_secs(2)).now_or_never().unwrap();
        assert!(story.held().is_empty());
        assert_eq!(story.hold.next_release(), None);
    }

    /// The rules, without regard to their cost.
    #[derive(Default)]
    struct Rules {
        counts: Vec<(Instant, usize)>,
        draining: BTreeSet<InstanceId>,
        lost: Vec<(Instant, InstanceId)>,
        held: Vec<(Instant, InstanceId)>,
    }

    impl Rules {
        fn observe(&mut self, changes: &[Change], count: usize, now: Instant) {
            let ProtectionConfig { window, hold } = ProtectionConfig::default();
            self.held.retain(|(until, _)| *until > now);
            self.lost.retain(|(at, _)| now.duration_since(*at) <= window);
            while self.counts.get(1).is_some_and(|(at, _)| now.duration_since(*at) > window) {
                self.counts.remove(0);
            }
            for change in changes {
                let (Change::Insert(instance)
                | Change::Update { to: instance, .. }
                | Change::Remove(instance)) = change;
                let id = instance.id();
                self.held.retain(|(_, held)| held != id);
                self.lost.retain(|(_, lost)| lost != id);
                let was_draining = self.draining.remove(id);
                if !matches!(change, Change::Remove(_)) {
                    if instance.state() == InstanceState::Draining {
                        self.draining.insert(id.clone());
                    }
                } else if was_draining {
                    self.counts.iter_mut().for_each(|(_, count)| *count = count.saturating_sub(1));
                } else {
                    self.lost.push((now, id.clone()));
                }
            }
            self.counts.push((now, count));
            let peak = self.counts.iter().map(|(_, count)| *count).max().unwrap();
            if count == 0 || count * 2 < peak {
                self.held.extend(self.lost.drain(..).map(|(_, id)| (now + hold, id)));
            }
        }
    }

    #[test]
    fn random_stories_end_as_the_rules_say() {
        for seed in 0..30 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut story, mut rules) = (Story::new(), Rules::default());
            let mut present: BTreeMap<usize, InstanceState> = BTreeMap::new();
            for step in 0..300 {
                story.now += Duration::from_secs([0, 0, 1, 5, 20, 200][random.usize(..6)]);
                let losses = random.bool();
                for _ in 0..random.usize(..40) {
                    let id = random.usize(..30);
                    match random.u8(..4) {
                        0 => drop(present.insert(id, InstanceState::Draining)),
                        1 if !losses => drop(present.insert(id, InstanceState::Up)),
                        _ => drop(present.remove(&id)),
                    }
                }
                let instances = present.iter().map(|(id, state)| {
                    Arc::new(Instance::new(format!("h{id:02}:1").parse().unwrap()).with_state(*state))
                });
                let snapshot = Snapshot::new("svc".parse().unwrap(), instances);
                rules.observe(&snapshot.diff(&story.last), snapshot.len(), story.now);
                story.observe(snapshot);
                let expected: BTreeMap<_, _> =
                    rules.held.iter().map(|(until, id)| (id.clone(), *until)).collect();
                let held: Vec<_> = story.hold.held().iter().map(|held| held.id().clone()).collect();
                assert_eq!(held, expected.keys().cloned().collect::<Vec<_>>(), "seed {seed}, step {step}");
                assert_eq!(story.hold.next_release(), expected.values().min().copied());
            }
        }
    }
}
