//! The selection at work: from the registered instances to what becomes of each server.

use std::sync::Arc;

use hither_core::{Instance, SortedById};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::choice::{Condition, List, Placed, Share};
use super::first::First;
use super::servers::{Role, Servers};
use super::steps::Selection;
use super::tiered::Tiered;
use crate::client::server_key::{ServerKey, ServerKeys};

/// Keeps up which servers are selected. It works from what has changed.
#[derive(Debug)]
pub(crate) struct Selector {
    servers: Servers,
    /// `None` if all servers are selected.
    chooser: Option<Chooser>,
    /// Of the channel, for selections without one.
    seed: u64,
}

#[derive(Debug)]
enum Chooser {
    Tiered(Tiered),
    First(First),
}

impl Selector {
    pub(crate) fn new(selection: Selection, keys: ServerKeys) -> Self {
        let seed = fastrand::u64(..);
        let chooser = Chooser::of(&selection, seed);
        Self { servers: Servers::new(selection, keys), chooser, seed }
    }

    /// Takes in the instances of an update. Returns the servers for which something may have changed: each is to be
    /// [placed](Self::place). It yields, because much may have changed.
    pub(crate) async fn update(
        &mut self,
        registered: SortedById<Arc<Instance>>,
        held: SortedById<Arc<Instance>>,
    ) -> Vec<ServerKey> {
        let mut changed = self.servers.update(registered, held).await;
        if let Some(chooser) = &mut self.chooser {
            // One that was removed and added again is there twice.
            changed.dedup();
            for key in &changed {
                consume_budget().await;
                chooser.place(key, self.servers.get(key), Condition::Pending);
            }
            changed.extend(chooser.take_changed(Instant::now()).await);
        }
        changed
    }

    /// Replaces the selection; `condition` returns that of a server now. Returns the servers for which something may have
    /// changed, as [`update`](Self::update) does.
    pub(crate) async fn set(
        &mut self,
        selection: Selection,
        condition: impl Fn(&ServerKey) -> Condition,
    ) -> Vec<ServerKey> {
        let chooser = Chooser::of(&selection, self.seed);
        let mut changed = self.servers.set_selection(selection).await;
        let before = std::mem::replace(&mut self.chooser, chooser);
        if before.is_none() && self.chooser.is_none() {
            return changed;
        }
        match before {
            Some(Chooser::Tiered(tiered)) => tiered.discard().await,
            Some(Chooser::First(first)) => first.discard().await,
            None => {}
        }
        for key in self.servers.keys() {
            consume_budget().await;
            changed.push(Arc::clone(key));
            if let Some(chooser) = &mut self.chooser {
                chooser.place(key, self.servers.get(key), condition(key));
            }
        }
        if let Some(Chooser::Tiered(tiered)) = &mut self.chooser {
            tiered.keep_connected().await;
        }
        changed.extend(self.take_changed().await);
        changed
    }

    /// Takes in the condition of a server.
    pub(crate) fn observe(&mut self, key: &ServerKey, condition: impl FnOnce() -> Condition) {
        match &mut self.chooser {
            Some(Chooser::Tiered(tiered)) => tiered.observe(key, condition()),
            Some(Chooser::First(first)) => first.observe(key, condition().of_walk()),
            None => {}
        }
    }

    /// Returns the servers for which something may have changed by what was [observed](Self::observe), or by time.
    pub(crate) async fn take_changed(&mut self) -> Vec<ServerKey> {
        match &mut self.chooser {
            Some(chooser) => chooser.take_changed(Instant::now()).await,
            None => Vec::new(),
        }
    }

    /// Returns when [`take_changed`](Self::take_changed) is to be called again though nothing was observed.
    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.chooser {
            Some(Chooser::Tiered(tiered)) => tiered.due(),
            Some(Chooser::First(first)) => first.due(),
            None => None,
        }
    }

    /// Returns what becomes of a server; `None` if it is not selected, or gone.
    pub(crate) fn place(&mut self, key: &ServerKey) -> Option<Placed> {
        let (role, instance) = self.servers.follow(key)?;
        let instance = Arc::clone(instance);
        let (list, connect) = match &self.chooser {
            Some(Chooser::Tiered(tiered)) => tiered.choice(key)?,
            Some(Chooser::First(first)) => first.choice(key)?,
            None if role == Role::Draining => (List::Draining, self.servers.connects(role)),
            None => (List::UP, self.servers.connects(role)),
        };
        Some(Placed { instance, list, connect })
    }

    /// Returns the tiers that take calls, with their shares. Empty: the first that has a ready instance.
    pub(crate) fn shares(&self) -> Vec<Share> {
        match &self.chooser {
            Some(Chooser::Tiered(tiered)) => tiered.shares(),
            Some(Chooser::First(_)) | None => Vec::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn tiered(&self) -> Option<&Tiered> {
        match &self.chooser {
            Some(Chooser::Tiered(tiered)) => Some(tiered),
            _ => None,
        }
    }

    #[cfg(test)]
    pub(super) fn first(&self) -> Option<&First> {
        match &self.chooser {
            Some(Chooser::First(first)) => Some(first),
            _ => None,
        }
    }

    /// Whether the server is there to be selected, now or later.
    pub(crate) fn has(&self, key: &ServerKey) -> bool {
        self.servers.get(key).is_some()
    }

    /// Whether no instance is selected.
    pub(crate) fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }
}

impl Chooser {
    fn of(selection: &Selection, seed: u64) -> Option<Self> {
        let seed = selection.seed().unwrap_or(seed);
        if selection.is_first() {
            return Some(Self::First(First::new(selection.clone(), seed)));
        }
        (!selection.is_all()).then(|| Self::Tiered(Tiered::new(selection.clone(), seed)))
    }

    fn place(&mut self, key: &ServerKey, record: Option<(Role, &Arc<Instance>)>, condition: Condition) {
        match self {
            Self::Tiered(tiered) => tiered.place(key, record, condition),
            Self::First(first) => first.place(key, record, condition.of_walk()),
        }
    }

    async fn take_changed(&mut self, now: Instant) -> Vec<ServerKey> {
        match self {
            Self::Tiered(tiered) => tiered.take_changed(now).await,
            Self::First(first) => first.take_changed(now),
        }
    }
}
