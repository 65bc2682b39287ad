//! Telling servers that left from servers that the registry lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Change, Instance, InstanceId, InstanceState, Snapshot};

/// When instances that vanished from the registry are held instead of dropped.
///
/// A removal is *announced* if the instance was seen [`Draining`](InstanceState::Draining) before. If within a
/// window unannounced removals leave fewer than half of the instances that there were at most, or none, those
/// removed are *held* until they return or the hold time is over. A held instance is to be called only over a
/// connection that is already open, so a false hold (a crash, a peer that leaves without announcing it, a
/// service scaled to zero) costs nothing, and a registry that lost everything takes no traffic down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    window: Duration,
    hold: Duration,
}

impl Protection {
    /// Sets the window within which removals are added up. Default 30 s.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets how long a vanished instance is held at most. Default 5 min.
    #[must_use]
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }
}

impl Default for Protection {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), hold: Duration::from_secs(300) }
    }
}

/// The state behind [`Protection`]: fed with every snapshot before any is coalesced away.
#[derive(Debug)]
pub(crate) struct Guard {
    protection: Protection,
    last: Option<Snapshot>,
    /// How many there were from each moment on, oldest first; announced removals are taken out as if they had
    /// never been there.
    counts: VecDeque<(Instant, usize)>,
    draining: BTreeSet<InstanceId>,
    /// Removed without a word, within the window.
    lost: VecDeque<(Instant, Arc<Instance>)>,
    held: BTreeMap<InstanceId, (Instant, Arc<Instance>)>,
}

impl Guard {
    pub(crate) fn new(protection: Protection) -> Self {
        Self {
            protection,
            last: None,
            counts: VecDeque::new(),
            draining: BTreeSet::new(),
            lost: VecDeque::new(),
            held: BTreeMap::new(),
        }
    }

    /// Looks at a snapshot that the registry sent.
    pub(crate) fn observe(&mut self, snapshot: &Snapshot, now: Instant) {
        self.forget(now);
        let changes = match &self.last {
            Some(last) => snapshot.diff(last),
            None => snapshot.instances().iter().cloned().map(Change::Insert).collect(),
        };
        for change in changes {
            match change {
                Change::Insert(instance) | Change::Update { to: instance, .. } => self.note(&instance),
                Change::Remove(instance) => {
                    if self.draining.remove(instance.id()) {
                        for (_, count) in &mut self.counts {
                            *count = count.saturating_sub(1);
                        }
                    } else {
                        self.lost.push_back((now, instance));
                    }
                }
            }
        }
        self.counts.push_back((now, snapshot.len()));
        self.last = Some(snapshot.clone());
        let peak = self.counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
        if snapshot.is_empty() || snapshot.len() * 2 < peak {
            let until = now + self.protection.hold;
            for (_, instance) in self.lost.drain(..) {
                self.held.insert(instance.id().clone(), (until, instance));
            }
        }
    }

    /// What is held now, sorted by id.
    pub(crate) fn held(&self) -> Arc<[Arc<Instance>]> {
        self.held.values().map(|(_, instance)| Arc::clone(instance)).collect()
    }

    /// When the next hold ends.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        self.held.values().map(|(until, _)| *until).min()
    }

    /// Lets go of what was held long enough.
    pub(crate) fn release(&mut self, now: Instant) {
        self.held.retain(|_, (until, _)| *until > now);
    }

    /// An instance is there, whatever was thought of it.
    fn note(&mut self, instance: &Instance) {
        self.held.remove(instance.id());
        self.lost.retain(|(_, lost)| lost.id() != instance.id());
        if instance.state() == InstanceState::Draining {
            self.draining.insert(instance.id().clone());
        } else {
            self.draining.remove(instance.id());
        }
    }

    fn forget(&mut self, now: Instant) {
        self.release(now);
        let window = self.protection.window;
        while self.lost.front().is_some_and(|(at, _)| now.duration_since(*at) > window) {
            self.lost.pop_front();
        }
        // A count holds until the next one, so the one in force when the window began stays.
        while self.counts.get(1).is_some_and(|(at, _)| now.duration_since(*at) > window) {
            self.counts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Story {
        guard: Guard,
        now: Instant,
    }

    impl Story {
        fn new() -> Self {
            Self { guard: Guard::new(Protection::default()), now: Instant::now() }
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
            self.guard.observe(&snapshot, self.now);
            self.held()
        }

        fn held(&self) -> Vec<String> {
            self.guard
                .held()
                .iter()
                .map(|held| held.id().as_str().trim_end_matches(":1").to_owned())
                .collect()
        }
    }

    #[test]
    fn a_registry_that_loses_everything_at_once_leaves_everything_held() {
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
    fn removals_add_up_within_the_window_and_not_beyond() {
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
    fn announced_removals_do_not_count_as_instances_that_there_were() {
        let mut story = Story::new();
        story.after(0, &["a", "b", "c", "d", "e", "f"]);
        story.after(1, &["a", "b", "c*", "d*", "e*", "f*"]);
        assert!(story.after(1, &["a", "b"]).is_empty());
        assert!(story.after(1, &["a"]).is_empty(), "one of two is half");
    }

    #[test]
    fn an_announcement_that_was_taken_back_does_not_count() {
        let mut story = Story::new();
        story.after(0, &["a*"]);
        story.after(1, &["a"]);
        assert_eq!(story.after(1, &[]), ["a"]);
    }

    #[test]
    fn newcomers_count_so_a_rolling_replacement_holds_nobody() {
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
    fn who_returns_is_not_held_any_longer_and_the_rest_ends_after_five_minutes() {
        let mut story = Story::new();
        story.after(0, &["a", "b", "c"]);
        story.after(1, &[]);
        assert_eq!(story.after(1, &["b"]), ["a", "c"]);
        assert_eq!(story.after(297, &["b"]), ["a", "c"]);
        story.guard.release(story.now + Duration::from_secs(2));
        assert!(story.held().is_empty());
        assert_eq!(story.guard.next_release(), None);
    }
}
