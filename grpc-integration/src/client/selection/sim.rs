//! A pool without connections, for tests of the selection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hither_core::{Instance, InstanceState, SortedById};
use tokio::time::Instant;

use super::choice::{Condition, Placed};
use super::first::First;
use super::selector::Selector;
use super::steps::Selection;
use super::tiered::Tiered;
use crate::client::server_key::{ServerKey, ServerKeys};

pub(super) struct Sim {
    pub(super) selector: Selector,
    registered: SortedById<Arc<Instance>>,
    held: SortedById<Arc<Instance>>,
    /// The subchannels.
    open: BTreeMap<ServerKey, (Placed, Condition)>,
    /// How many subchannels were started.
    pub(super) started: usize,
    /// How often a server was looked at.
    pub(super) looked_at: usize,
}

/// An instance whose id and address are this.
pub(super) fn instance(id: &str) -> Instance {
    Instance::new(format!("{id}:1").parse().unwrap()).with_id(id.parse().unwrap())
}

pub(super) fn in_zone(id: &str, zone: &str) -> Instance {
    instance(id).with_zone(zone)
}

impl Sim {
    pub(super) fn new(selection: Selection) -> Self {
        Self {
            selector: Selector::new(selection.with_seed(1), ServerKeys::default()),
            registered: SortedById::new(),
            held: SortedById::new(),
            open: BTreeMap::new(),
            started: 0,
            looked_at: 0,
        }
    }

    pub(super) async fn put(&mut self, instances: impl IntoIterator<Item = Instance>) {
        for instance in instances {
            self.held.remove(instance.id());
            self.registered.insert(Arc::new(instance));
        }
        self.update().await;
    }

    pub(super) async fn remove(&mut self, id: &str) {
        let id = id.parse().unwrap();
        drop((self.registered.remove(&id), self.held.remove(&id)));
        self.update().await;
    }

    pub(super) async fn drain(&mut self, ids: &[&str]) {
        let found = ids.iter().map(|id| self.registered.get(&id.parse().unwrap()).unwrap().as_ref().clone());
        let draining: Vec<_> = found.map(|instance| instance.with_state(InstanceState::Draining)).collect();
        self.put(draining).await;
    }

    /// What is removed in bulk is held.
    pub(super) async fn hold(&mut self, ids: &[&str]) {
        for id in ids {
            self.held.insert(self.registered.remove(&id.parse().unwrap()).unwrap());
        }
        self.update().await;
    }

    async fn update(&mut self) {
        let changed = self.selector.update(self.registered.clone(), self.held.clone()).await;
        self.follow(changed).await;
    }

    pub(super) async fn select(&mut self, selection: Selection) {
        let condition =
            |key: &ServerKey| self.open.get(key).map_or(Condition::Pending, |(_, condition)| *condition);
        let changed = self.selector.set(selection.with_seed(1), condition).await;
        self.follow(changed).await;
    }

    /// The connectivity of an instance becomes this, if it is connected to.
    pub(super) async fn turn(&mut self, ids: &[&str], condition: Condition) {
        for (key, (placed, known)) in &mut self.open {
            if ids.contains(&placed.instance.id().as_str()) {
                *known = condition;
                self.selector.observe(key, || condition);
            }
        }
        self.follow(Vec::new()).await;
    }

    /// All that is connected to becomes ready, until nothing else is.
    pub(super) async fn all_ready(&mut self) {
        loop {
            let pending =
                self.open.values().filter(|(placed, known)| placed.connect && *known == Condition::Pending);
            let ids: Vec<_> = pending.map(|(placed, _)| placed.instance.id().to_string()).collect();
            if ids.is_empty() {
                return;
            }
            self.turn(&ids.iter().map(String::as_str).collect::<Vec<_>>(), Condition::Ready).await;
        }
    }

    /// Time passes.
    pub(super) async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let mut rounds = 0;
        while let Some(due) = self.selector.due().filter(|due| *due <= end) {
            rounds += 1;
            assert!(rounds < 1000, "{due:?} {:?} {:?}", Instant::now(), self.selector);
            tokio::time::sleep_until(due).await;
            self.follow(Vec::new()).await;
        }
        tokio::time::sleep_until(end).await;
    }

    async fn follow(&mut self, mut changed: Vec<ServerKey>) {
        for round in 0.. {
            assert!(round < 1000, "the selection does not settle: {changed:?}");
            for key in changed {
                self.looked_at += 1;
                let Some(placed) = self.selector.place(&key) else {
                    self.open.remove(&key);
                    self.selector.observe(&key, || Condition::Pending);
                    continue;
                };
                if placed.connect && !self.open.contains_key(&key) {
                    self.started += 1;
                    self.open.insert(Arc::clone(&key), (placed.clone(), Condition::Pending));
                }
                if let Some(open) = self.open.get_mut(&key) {
                    open.0 = placed;
                    self.selector.observe(&key, || open.1);
                }
            }
            changed = self.selector.take_changed().await;
            if changed.is_empty() {
                return;
            }
        }
    }

    pub(super) fn is_registered(&self, id: &str) -> bool {
        self.registered.get(&id.parse().unwrap()).is_some()
    }

    /// Whether it is up and has this weight at least.
    pub(super) fn is_up(&self, id: &str, weight: u32) -> bool {
        let registered = self.registered.get(&id.parse().unwrap());
        registered.is_some_and(|known| known.state() == InstanceState::Up && known.weight() >= weight)
    }

    pub(super) fn tiered(&self) -> &Tiered {
        self.selector.tiered().unwrap()
    }

    pub(super) fn first(&self) -> &First {
        self.selector.first().unwrap()
    }

    /// Every subchannel is as the selection has it, and no other one should be there.
    pub(super) fn agrees(&mut self) {
        for instance in self.registered.iter().chain(self.held.iter()) {
            let key = ServerKeys::default().of(instance);
            let (placed, open) = (self.selector.place(&key), self.open.get(&key));
            let [wanted, found] = [placed.as_ref(), open.map(|(placed, _)| placed)];
            let [connect, is_open] = [wanted.is_some_and(|placed| placed.connect), found.is_some()];
            assert!(is_open || !connect, "{instance:?} is not connected to");
            if let Some(found) = found {
                let wanted = wanted.unwrap();
                assert_eq!((found.list, found.connect), (wanted.list, wanted.connect), "{instance:?}");
            }
        }
        let known =
            self.registered.iter().chain(self.held.iter()).map(|instance| ServerKeys::default().of(instance));
        let known: BTreeSet<_> = known.collect();
        assert!(self.open.keys().all(|key| known.contains(key)));
    }

    /// The ids of what is connected to, sorted.
    pub(super) fn connects(&self) -> Vec<String> {
        self.ids(|placed| placed.connect)
    }

    /// The ids of all subchannels, sorted.
    pub(super) fn open(&self) -> Vec<String> {
        self.ids(|_| true)
    }

    /// The shares of the tiers that take calls, in percent.
    pub(super) fn shares(&self) -> Vec<f64> {
        self.selector.shares().iter().map(|share| (share.part * 1000.0).round() / 10.0).collect()
    }

    fn ids(&self, which: impl Fn(&Placed) -> bool) -> Vec<String> {
        let open = self.open.values().filter(|(placed, _)| which(placed));
        let mut ids: Vec<_> = open.map(|(placed, _)| placed.instance.id().to_string()).collect();
        ids.sort();
        ids
    }
}
