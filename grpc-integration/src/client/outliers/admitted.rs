//! The list of ready instances without those that are ejected, kept up with each change. Ready are here those of the tiers
//! that have a share of the calls.

use hither_core::{HasId, SortedById};
use tokio::task::coop::consume_budget;

use crate::client::outcomes::Standing;
use crate::client::ready_instance::ReadyInstance;

/// The ready instances, and which of them are called.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    ready: SortedById<ReadyInstance>,
    /// Those that are not ejected. The same list as long as none is.
    left: SortedById<ReadyInstance>,
    /// How many of these are being tried.
    probing: usize,
}

impl Admitted {
    /// Follows the list of ready instances. What it does depends on what has changed. `any_out`: whether any instance is
    /// ejected or being tried, ready or not. Returns whether the list has changed.
    pub(super) async fn follow(&mut self, ready: &SortedById<ReadyInstance>, any_out: bool) -> bool {
        if self.ready.is_same(ready) {
            return false;
        }
        let before = std::mem::replace(&mut self.ready, ready.clone());
        if any_out {
            for (old, new) in ready.merge(&before) {
                // Of a chunk of the list that has changed, most have not.
                if let (Some(old), Some(new)) = (old, new)
                    && old.is_same(new)
                {
                    continue;
                }
                consume_budget().await;
                if let Some(old) = old {
                    self.probing -= usize::from(standing(old) == Standing::Probing);
                    self.left.remove(old.id());
                }
                if let Some(new) = new {
                    self.enter(new.clone());
                }
            }
        } else {
            self.probing = 0;
            std::mem::replace(&mut self.left, ready.clone()).discard().await;
        }
        before.discard().await;
        true
    }

    /// The standing of an instance changes, from one to another.
    pub(super) fn restand(&mut self, instance: &ReadyInstance, from: Standing) {
        let Some(listed) = self.listed(instance).cloned() else { return };
        self.probing -= usize::from(from == Standing::Probing);
        self.left.remove(listed.id());
        self.enter(listed);
        if self.left.len() == self.ready.len() {
            self.left = self.ready.clone();
        }
    }

    /// Returns how many are called without a limit, and how many are ready.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.left.len() - self.probing, self.ready.len())
    }

    /// Whether it is one of those that are ready.
    pub(super) fn has(&self, instance: &ReadyInstance) -> bool {
        self.listed(instance).is_some()
    }

    /// Returns all that are ready.
    pub(super) fn ready(&self) -> &SortedById<ReadyInstance> {
        &self.ready
    }

    /// Returns those that are not ejected.
    pub(super) fn left(&self) -> &SortedById<ReadyInstance> {
        &self.left
    }

    fn listed(&self, instance: &ReadyInstance) -> Option<&ReadyInstance> {
        let id = instance.capacity().id()?;
        // The id may be that of another server since.
        self.ready.get(&id).filter(|listed| *listed == instance)
    }

    fn enter(&mut self, instance: ReadyInstance) {
        match standing(&instance) {
            Standing::Ejected => {}
            Standing::In => drop(self.left.insert(instance)),
            Standing::Probing => {
                self.probing += 1;
                self.left.insert(instance);
            }
        }
    }
}

fn standing(instance: &ReadyInstance) -> Standing {
    instance.outcomes().map_or(Standing::In, |outcomes| outcomes.probation().standing())
}
