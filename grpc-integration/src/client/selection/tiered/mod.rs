//! Chooses among all servers of some tiers, of each at most so many.

use std::collections::BTreeMap;
use std::sync::Arc;

use hither_core::Instance;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::choice::{Condition, List, Share};
use super::rank::Rank;
use super::servers::Role;
use super::steps::Selection;
use super::tier::Tier;
use crate::client::server_key::ServerKey;

/// What the tiers above may lack because of rounding.
const ENOUGH: f64 = 1.0 - 1e-9;

/// Keeps up with each change of a server which servers are connected to. The work for one does not depend on how many there
/// are; it grows with the number of tiers.
#[derive(Debug)]
pub(super) struct Tiered {
    selection: Selection,
    seed: u64,
    seats: BTreeMap<ServerKey, Seat>,
    tiers: BTreeMap<List, Tier>,
    /// How many servers are up.
    up: usize,
    /// The servers that may have to be connected to, or not any more.
    changed: Vec<ServerKey>,
    due: Option<Instant>,
}

/// A server, and what it counts as.
#[derive(Debug)]
struct Seat {
    role: Role,
    list: List,
    rank: Rank,
    weight: u32,
    condition: Condition,
    counted: Option<Condition>,
    /// Whether it was connected when the selection was set.
    is_kept: bool,
}

impl Seat {
    /// Whether another one is taken in its place.
    fn fails(&self) -> bool {
        matches!(self.condition, Condition::Failing | Condition::Ejected)
    }

    /// Whether it is a member of its tier. One that is held is one while it is connected: it is never connected to.
    fn is_member(&self) -> bool {
        self.role != Role::Held || self.condition.is_connected()
    }
}

impl Tiered {
    pub(super) fn new(selection: Selection, seed: u64) -> Self {
        Self {
            selection,
            seed,
            seats: BTreeMap::new(),
            tiers: BTreeMap::new(),
            up: 0,
            changed: Vec::new(),
            due: None,
        }
    }

    /// Takes in what is known of a server, which has this condition if it was not known yet; `None` if it is gone.
    pub(super) fn place(
        &mut self,
        key: &ServerKey,
        record: Option<(Role, &Arc<Instance>)>,
        condition: Condition,
    ) {
        let before = self.seats.remove(key).inspect(|seat| self.leave(seat));
        let left = before.as_ref().map(|seat| seat.list);
        let mut entered = None;
        if let Some((role, instance)) = record {
            let list = match role {
                Role::Draining => List::Draining,
                Role::Up | Role::Held => List::Tier(self.selection.tier(instance)),
            };
            let seat = Seat {
                role,
                list,
                rank: Rank::new(self.seed, instance, key),
                weight: instance.weight(),
                condition: before.as_ref().map_or(condition, |before| before.condition),
                counted: None,
                is_kept: before.is_some_and(|before| before.is_kept),
            };
            entered = Some(list);
            self.enter(key, seat);
        }
        self.settle(left);
        self.settle(entered);
    }

    /// Keeps the connections that there are by an earlier selection, as after a failover: also those of tiers that are not
    /// needed if those before them become ready.
    pub(super) async fn keep_connected(&mut self) {
        for seat in self.seats.values_mut() {
            consume_budget().await;
            let tier = self.tiers.get_mut(&seat.list).filter(|tier| tier.cut.is_taken(&seat.rank));
            if let Some(tier) = tier.filter(|_| seat.condition.is_connected()) {
                tier.keep();
                seat.is_kept = true;
            }
        }
    }

    /// Takes in the condition of a server.
    pub(super) fn observe(&mut self, key: &ServerKey, condition: Condition) {
        let Some(seat) = self.seats.get(key) else { return };
        // The connection that one about to shut down may still have tells nothing of whether it is to be taken.
        let is_given_back = seat.is_member() && !self.is_taken(seat);
        if seat.condition == condition || is_given_back {
            return;
        }
        let Some(seat) = self.seats.remove(key) else { return };
        self.leave(&seat);
        if seat.role == Role::Held {
            // Without its connection it is of no use.
            self.changed.push(Arc::clone(key));
        }
        let list = seat.list;
        self.enter(key, Seat { condition, counted: None, ..seat });
        self.settle(Some(list));
    }

    /// Decides which tiers are connected to; returns the servers for which that may have changed.
    pub(super) async fn take_changed(&mut self, now: Instant) -> Vec<ServerKey> {
        let mut expected = 0.0;
        self.due = None;
        let mut toggled = Vec::new();
        for (list, tier) in &mut self.tiers {
            let (is_needed, lingers) = match list {
                List::Tier(_) => (expected < ENOUGH, true),
                List::Draining => (self.up == 0, false),
            };
            if tier.set_needed(is_needed, lingers, now) {
                toggled.push(*list);
            }
            if tier.is_active() {
                let available = tier.expected(now);
                let suffices = self.selection.is_strict() && available > 0.0;
                expected += if suffices { 1.0 } else { available };
                self.due = self.due.into_iter().chain(tier.due(now)).min();
            }
        }
        for tier in toggled.iter().filter_map(|list| self.tiers.get(list)) {
            for key in tier.cut.taken() {
                consume_budget().await;
                self.changed.push(Arc::clone(key));
            }
        }
        std::mem::take(&mut self.changed)
    }

    /// Returns when [`take_changed`](Self::take_changed) is to be called again though nothing has changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns the list that a server is in and whether it is connected to, if it is selected.
    pub(super) fn choice(&self, key: &ServerKey) -> Option<(List, bool)> {
        let seat = self.seats.get(key)?;
        let is_included = self.tiers.get(&seat.list).is_some_and(|tier| tier.includes(seat.is_kept));
        let is_selected = is_included && self.is_taken(seat);
        match seat.role {
            Role::Up => is_selected.then_some((seat.list, true)),
            Role::Held => is_selected.then_some((seat.list, false)),
            Role::Draining => Some((seat.list, is_selected)),
        }
    }

    /// Returns the tiers that take calls, with their shares (Envoy's priority load). Empty if no instance with a weight is
    /// ready.
    pub(super) fn shares(&self) -> Vec<Share> {
        let tiers = self.tiers.iter().filter(|(list, tier)| **list != List::Draining && tier.is_active());
        let available = tiers.map(|(list, tier)| {
            let (part, weight) = (tier.availability(), tier.weight());
            Share { list: *list, part, weight }
        });
        let available = available.filter(|share| share.part > 0.0);
        if self.selection.is_strict() {
            return available.take(1).map(|share| Share { part: 1.0, ..share }).collect();
        }
        let mut shares: Vec<_> = available.collect();
        let total = shares.iter().map(|share| share.part).sum::<f64>().min(1.0);
        let mut rest = 1.0;
        for share in &mut shares {
            share.part = (share.part / total).min(rest);
            rest -= share.part;
        }
        shares.retain(|share| share.part > 1.0 - ENOUGH);
        shares
    }

    /// Drops it, and yields in between if there is much to drop.
    pub(super) async fn discard(mut self) {
        while let Some((_, seat)) = self.seats.pop_first() {
            consume_budget().await;
            self.leave(&seat);
        }
    }

    fn is_taken(&self, seat: &Seat) -> bool {
        self.tiers.get(&seat.list).is_some_and(|tier| tier.cut.is_taken(&seat.rank))
    }

    /// Leaves the place of a server, which is not in the map any more.
    fn leave(&mut self, seat: &Seat) {
        self.up -= usize::from(seat.role == Role::Up);
        if let Some(tier) = self.tiers.get_mut(&seat.list)
            && seat.is_member()
        {
            tier.cut.remove(&seat.rank);
            tier.members -= usize::from(seat.weight > 0);
            tier.recount(seat.weight, seat.counted, None);
        }
    }

    fn enter(&mut self, key: &ServerKey, seat: Seat) {
        self.up += usize::from(seat.role == Role::Up);
        if seat.is_member() {
            let most = self.selection.most();
            let tier = self.tiers.entry(seat.list).or_insert_with(|| Tier::new(most));
            tier.cut.insert(seat.rank.clone(), seat.fails());
            tier.members += usize::from(seat.weight > 0);
        }
        self.seats.insert(Arc::clone(key), seat);
        self.count(key);
    }

    /// Takes as many servers of a list as there should be.
    fn settle(&mut self, list: Option<List>) {
        let Some(list) = list else { return };
        while let Some(key) = self.tiers.get_mut(&list).and_then(|tier| tier.cut.settle()) {
            self.count(&key);
            self.changed.push(key);
        }
        if self.tiers.get(&list).is_some_and(|tier| tier.cut.is_empty()) {
            self.tiers.remove(&list);
        }
    }

    /// Counts a server as what it is now.
    fn count(&mut self, key: &ServerKey) {
        let Some(seat) = self.seats.get_mut(key) else { return };
        let Some(tier) = self.tiers.get_mut(&seat.list) else { return };
        let is_taken = tier.cut.is_taken(&seat.rank);
        let now = (is_taken && seat.weight > 0).then_some(seat.condition);
        tier.recount(seat.weight, std::mem::replace(&mut seat.counted, now), now);
        if !is_taken && seat.role == Role::Held && seat.is_member() {
            // Its connection is closed, and it is never connected to again.
            tier.cut.remove(&seat.rank);
            tier.members -= usize::from(seat.weight > 0);
        }
        if !is_taken {
            seat.condition = Condition::Pending;
        }
    }
}

#[cfg(test)]
mod tests;
