//! The servers behind the records of a service, and how each is to be treated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hither_core::{Instance, InstanceState, SortedById};
use tokio::task::coop::consume_budget;

use super::steps::Selection;
use crate::client::server_key::{ServerKey, ServerKeys};

/// How an instance is to be treated; the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Takes calls.
    Up,
    /// About to shut down: takes calls only if no instance is up.
    Draining,
    /// Removed from the registry in bulk, and held: takes calls over a connection that is open, and is never
    /// connected to.
    Held,
}

/// The servers of the last update, by the records that pass the filters. Of several records of one server the best role
/// counts, and of equal ones the first by id.
#[derive(Debug, Default)]
pub(super) struct Servers {
    keys: ServerKeys,
    selection: Selection,
    registered: SortedById<Arc<Instance>>,
    held: SortedById<Arc<Instance>>,
    records: BTreeMap<ServerKey, Records>,
    /// How many servers are up.
    up: usize,
    draining: BTreeSet<ServerKey>,
}

/// The records of one server, the one that counts first. Nearly always there is one.
#[derive(Debug, Default)]
struct Records {
    sorted: Vec<(Role, Arc<Instance>)>,
    /// Whether the server is among those that have changed already.
    is_listed: bool,
}

impl Records {
    fn best(&self) -> Option<Role> {
        self.sorted.first().map(|(role, _)| *role)
    }
}

impl Servers {
    pub(super) fn new(selection: Selection, keys: ServerKeys) -> Self {
        Self { selection, keys, ..Self::default() }
    }

    /// Takes in the instances of an update: those that are registered and those that are held. Returns the servers for which
    /// something may have changed; each is to be [followed](Self::follow).
    ///
    /// It yields, because much may have changed. The result is good only at the end: an instance that is held now was
    /// removed before.
    pub(super) async fn update(
        &mut self,
        registered: SortedById<Arc<Instance>>,
        held: SortedById<Arc<Instance>>,
    ) -> Vec<ServerKey> {
        let any_up = self.any_up();
        let mut changed = Vec::new();
        for (now, all_before, is_held) in [
            (&registered, std::mem::take(&mut self.registered), false),
            (&held, std::mem::take(&mut self.held), true),
        ] {
            for (before, now) in now.merge(&all_before) {
                consume_budget().await;
                if before == now {
                    continue;
                }
                changed.extend(before.and_then(|before| self.remove(before, is_held)));
                let passes = now.filter(|now| self.selection.passes(now));
                changed.extend(passes.and_then(|now| self.add(now, is_held)));
            }
            all_before.discard().await;
        }
        (self.registered, self.held) = (registered, held);
        if self.any_up() != any_up {
            changed.extend(self.draining.iter().cloned());
        }
        changed
    }

    /// Applies other filters to all instances. Returns the servers for which something may have changed, as
    /// [`update`](Self::update) does, and yields as well.
    pub(super) async fn set_selection(&mut self, selection: Selection) -> Vec<ServerKey> {
        let (registered, held) = (self.registered.clone(), self.held.clone());
        let mut changed = self.update(SortedById::new(), SortedById::new()).await;
        self.selection = selection;
        changed.extend(self.update(registered, held).await);
        changed
    }

    /// Returns the servers.
    pub(super) fn keys(&self) -> impl Iterator<Item = &ServerKey> {
        self.records.keys()
    }

    /// Whether no record has passed.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the record that counts of a server, if it has any.
    pub(super) fn get(&self, key: &ServerKey) -> Option<(Role, &Arc<Instance>)> {
        self.records.get(key)?.sorted.first().map(|(role, instance)| (*role, instance))
    }

    /// Returns the same, and its change counts as known.
    pub(super) fn follow(&mut self, key: &ServerKey) -> Option<(Role, &Arc<Instance>)> {
        let records = self.records.get_mut(key)?;
        records.is_listed = false;
        records.sorted.first().map(|(role, instance)| (*role, instance))
    }

    /// Whether a server in this role is to be connected to.
    pub(super) fn connects(&self, role: Role) -> bool {
        match role {
            Role::Up => true,
            Role::Draining => !self.any_up(),
            Role::Held => false,
        }
    }

    fn any_up(&self) -> bool {
        self.up > 0
    }

    fn add(&mut self, instance: &Arc<Instance>, is_held: bool) -> Option<ServerKey> {
        self.change(self.keys.of(instance), |records| {
            records.push((role(instance, is_held), Arc::clone(instance)));
            records.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.id().cmp(other.id())));
        })
    }

    fn remove(&mut self, instance: &Arc<Instance>, is_held: bool) -> Option<ServerKey> {
        self.change(self.keys.of(instance), |records| {
            // An instance that returns is registered before it is no longer held.
            records.retain(|(role, known)| (*role == Role::Held) != is_held || known.id() != instance.id());
        })
    }

    /// Returns the server unless it is listed already.
    fn change(
        &mut self,
        key: ServerKey,
        change: impl FnOnce(&mut Vec<(Role, Arc<Instance>)>),
    ) -> Option<ServerKey> {
        let records = self.records.entry(Arc::clone(&key)).or_default();
        let was_listed = std::mem::replace(&mut records.is_listed, true);
        let before = records.best();
        change(&mut records.sorted);
        let now = records.best();
        if now.is_none() {
            self.records.remove(&key);
        }
        if before != now {
            self.up -= usize::from(before == Some(Role::Up));
            self.up += usize::from(now == Some(Role::Up));
            if now == Some(Role::Draining) {
                self.draining.insert(Arc::clone(&key));
            } else {
                self.draining.remove(&key);
            }
        }
        (!was_listed).then_some(key)
    }
}

fn role(instance: &Instance, is_held: bool) -> Role {
    match instance.state() {
        _ if is_held => Role::Held,
        InstanceState::Draining => Role::Draining,
        _ => Role::Up,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    type Wanted = BTreeMap<ServerKey, (Role, Arc<Instance>)>;

    /// The servers, computed from nothing but the lists.
    fn rebuilt(registered: &SortedById<Arc<Instance>>, held: &SortedById<Arc<Instance>>) -> Wanted {
        let mut servers = Wanted::new();
        let registered = registered.iter().map(|instance| (role(instance, false), instance));
        for (role, instance) in registered.chain(held.iter().map(|instance| (Role::Held, instance))) {
            let known = servers
                .entry(ServerKeys::default().of(instance))
                .or_insert_with(|| (role, Arc::clone(instance)));
            if role < known.0 {
                *known = (role, Arc::clone(instance));
            }
        }
        servers
    }

    fn random_instance(random: &mut fastrand::Rng) -> Arc<Instance> {
        let address = |random: &mut fastrand::Rng| format!("h{}:1", random.u8(..9)).parse().unwrap();
        let mut instance =
            Instance::new(address(random)).with_id(format!("i{:02}", random.u8(..16)).parse().unwrap());
        if random.u8(..5) == 0 {
            instance = instance.with_address(address(random));
        }
        if random.u8(..3) == 0 {
            instance = instance.with_state(InstanceState::Draining);
        }
        Arc::new(instance.with_weight(random.u32(1..3)))
    }

    #[test]
    fn random_updates_end_as_if_the_servers_were_computed_anew() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut servers = Servers::default();
            let (mut registered, mut held) = (SortedById::new(), SortedById::new());
            let mut known = Wanted::new();
            let mut connected = BTreeMap::new();
            for step in 0..200 {
                for _ in 0..random.usize(..6) {
                    let instance = random_instance(&mut random);
                    match random.u8(..4) {
                        // It is one or the other.
                        0 => {
                            if let Some(lost) = registered.remove(instance.id()) {
                                held.insert(lost);
                            }
                        }
                        1 => drop((registered.remove(instance.id()), held.remove(instance.id()))),
                        _ => drop((held.remove(instance.id()), registered.insert(instance))),
                    }
                }
                let changed = servers.update(registered.clone(), held.clone()).now_or_never().unwrap();
                let wanted = rebuilt(&registered, &held);
                let any_up = wanted.values().any(|(role, _)| *role == Role::Up);
                for key in known.keys().chain(wanted.keys()) {
                    let expected = wanted.get(key);
                    let found = servers.follow(key).map(|(role, instance)| (role, Arc::clone(instance)));
                    assert_eq!(found.as_ref(), expected, "seed {seed}, step {step}");
                    let connects = expected.map(|(role, _)| match role {
                        Role::Up => true,
                        Role::Draining => !any_up,
                        Role::Held => false,
                    });
                    assert_eq!(found.map(|(role, _)| servers.connects(role)), connects);
                    let before = connected.insert(Arc::clone(key), connects).flatten();
                    let is_same = before == connects && known.get(key) == expected;
                    assert!(
                        is_same || changed.contains(key),
                        "seed {seed}, step {step}: {key:?} was left out"
                    );
                }
                known = wanted;
            }
        }
    }

    #[test]
    fn filters_that_change_end_as_if_there_had_been_no_others() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut servers = Servers::default();
            let (mut registered, mut held) = (SortedById::new(), SortedById::new());
            for step in 0..100 {
                let instance = random_instance(&mut random);
                match random.u8(..4) {
                    0 => {
                        if let Some(lost) = registered.remove(instance.id()) {
                            held.insert(lost);
                        }
                    }
                    _ => drop((held.remove(instance.id()), registered.insert(instance))),
                }
                let weight = random.u32(..3);
                let passes = move |instance: &Instance| weight == 0 || instance.weight() == weight;
                let before: BTreeSet<_> = servers.keys().cloned().collect();
                let mut changed = servers.update(registered.clone(), held.clone()).now_or_never().unwrap();
                changed.extend(
                    servers.set_selection(Selection::default().filter(passes)).now_or_never().unwrap(),
                );
                let mut expected = [registered.clone(), held.clone()];
                for list in &mut expected {
                    *list = list.iter().filter(|instance| passes(instance)).cloned().collect();
                }
                let wanted = rebuilt(&expected[0], &expected[1]);
                assert_eq!(servers.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
                for key in before.iter().chain(wanted.keys()) {
                    assert!(changed.contains(key), "seed {seed}, step {step}");
                    let found = servers.follow(key).map(|(role, instance)| (role, Arc::clone(instance)));
                    assert_eq!(found.as_ref(), wanted.get(key), "seed {seed}, step {step}");
                }
            }
        }
    }
}
