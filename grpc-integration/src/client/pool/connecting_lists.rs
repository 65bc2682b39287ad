//! The instances that are being connected to, in a list for each tier.

use std::collections::BTreeMap;
use std::sync::Arc;

use hither_core::{HasId, Instance, SortedById};

use crate::client::ready_instance::ReadyInstance;
use crate::client::selection::{List, Share};

/// Of those with the same id in one list there is the last.
#[derive(Debug, Default)]
pub(super) struct ConnectingLists {
    /// None is empty.
    lists: BTreeMap<List, SortedById<Arc<Instance>>>,
    /// What was asked for last, and of which lists it is made.
    last: SortedById<Arc<Instance>>,
    parts: Vec<SortedById<Arc<Instance>>>,
}

impl ConnectingLists {
    /// One that is ejected takes no calls when it is connected, either.
    pub(super) fn insert(&mut self, list: List, instance: &ReadyInstance) {
        if instance.is_in() {
            self.lists.entry(list).or_default().insert(Arc::clone(instance.instance()));
        }
    }

    pub(super) fn remove(&mut self, list: List, instance: &Arc<Instance>) {
        // The id may be that of another server since.
        if let Some(connecting) = self.lists.get_mut(&list)
            && connecting.get(instance.id()).is_some_and(|known| Arc::ptr_eq(known, instance))
        {
            connecting.remove(instance.id());
            if connecting.is_empty() {
                self.lists.remove(&list);
            }
        }
    }

    /// Whether any of them has a weight, in whatever tier.
    pub(super) fn any_weight(&self) -> bool {
        let tiers = self.lists.iter().filter(|(list, _)| **list != List::Draining);
        tiers.flat_map(|(_, instances)| instances).any(|instance| instance.weight() > 0)
    }

    /// Returns those of the tiers that take calls; of the first one that has any while none does. It stays the same list
    /// while nothing has changed.
    pub(super) fn of(&mut self, shares: &[Share]) -> &SortedById<Arc<Instance>> {
        let tiers = self.lists.iter().filter(|(list, _)| **list != List::Draining);
        let parts: Vec<_> = if shares.is_empty() {
            tiers.take(1).map(|(_, instances)| instances.clone()).collect()
        } else {
            let takes_calls = |list: &List| shares.iter().any(|share| share.list == *list);
            tiers.filter(|(list, _)| takes_calls(list)).map(|(_, instances)| instances.clone()).collect()
        };
        let is_same = parts.len() == self.parts.len()
            && parts.iter().zip(&self.parts).all(|(part, known)| part.is_same(known));
        if !is_same {
            self.last = match &parts[..] {
                [only] => only.clone(),
                _ => parts.iter().flatten().cloned().collect(),
            };
            self.parts = parts;
        }
        &self.last
    }
}
