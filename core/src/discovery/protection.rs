//! Telling instances that left from instances that the registry lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::time::after;
use crate::{Change, Instance, InstanceId, InstanceState};

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
#[derive(Debug)]
pub(super) struct HoldState {
    config: ProtectionConfig,
    /// The number of instances from each moment on, oldest first. An announced removal is subtracted from all of them, as
    /// if the instance had never been there.
    counts: VecDeque<(Instant, usize)>,
    draining: BTreeSet<InstanceId>,
    /// Removed without an announcement, within the window.
    lost: VecDeque<(Instant, Arc<Instance>)>,
    held: BTreeMap<InstanceId, (Instant, Arc<Instance>)>,
}

impl HoldState {
    pub(super) fn new(config: ProtectionConfig) -> Self {
        Self {
            config,
            counts: VecDeque::new(),
            draining: BTreeSet::new(),
            lost: VecDeque::new(),
            held: BTreeMap::new(),
        }
    }

    /// Observes a snapshot: what has changed since the one before, and how many instances it has. Returns whether instances
    /// are held that were not held before.
    pub(super) fn observe(&mut self, changes: &[Change], count: usize, now: Instant) -> bool {
        self.forget(now);
        for change in changes {
            match change {
                Change::Insert(instance) | Change::Update { to: instance, .. } => self.note(instance),
                Change::Remove(instance) => {
                    if self.draining.remove(instance.id()) {
                        for (_, count) in &mut self.counts {
                            *count = count.saturating_sub(1);
                        }
                    } else {
                        self.lost.push_back((now, Arc::clone(instance)));
                    }
                }
            }
        }
        // A count holds until the next one, so one that is the same adds nothing.
        if self.counts.back().is_none_or(|(_, last)| *last != count) {
            self.counts.push_back((now, count));
        }
        let peak = self.counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let begins = (count == 0 || count * 2 < peak) && !self.lost.is_empty();
        if begins {
            let until = after(now, self.config.hold);
            for (_, instance) in self.lost.drain(..) {
                self.held.insert(instance.id().clone(), (until, instance));
            }
        }
        begins
    }

    /// The instances that are held now, sorted by id.
    pub(super) fn held(&self) -> Arc<[Arc<Instance>]> {
        self.held.values().map(|(_, instance)| Arc::clone(instance)).collect()
    }

    /// When the next hold ends.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.held.values().map(|(until, _)| *until).min()
    }

    /// Releases the instances whose hold time has ended.
    pub(super) fn release(&mut self, now: Instant) {
        self.held.retain(|_, (until, _)| *until > now);
    }

    /// Notes an instance that is registered: it is neither lost nor held.
    fn note(&mut self, instance: &Instance) {
        self.held.remove(instance.id());
        self.lost.retain(|(_, lost)| lost.id() != instance.id());
        if instance.state() == InstanceState::Draining {
            self.draining.insert(instance.id().clone());
        } else {
            self.draining.remove(instance.id());
        }
    }

    /// Forgets what happened before the window.
    fn forget(&mut self, now: Instant) {
        self.release(now);
        let window = self.config.window;
        while self.lost.front().is_some_and(|(at, _)| now.duration_since(*at) > window) {
            self.lost.pop_front();
        }
        // The count that was in force when the window began stays.
        while self.counts.get(1).is_some_and(|(at, _)| now.duration_since(*at) > window) {
            self.counts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
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
            self.hold.observe(&snapshot.diff(&self.last), snapshot.len(), self.now);
            self.last = snapshot;
            self.held()
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
        story.hold.release(story.now + Duration::from_secs(2));
        assert!(story.held().is_empty());
        assert_eq!(story.hold.next_release(), None);
    }
}
