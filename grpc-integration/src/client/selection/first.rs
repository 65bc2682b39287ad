//! Chooses one server at a time: gRPC's `pick_first`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hither_core::Instance;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::choice::{Condition, List};
use super::rank::Rank;
use super::servers::Role;
use super::steps::Selection;
use crate::client::server_key::ServerKey;

/// The time from one attempt to the next one (Happy Eyeballs, RFC 8305).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Walks through the servers until one is ready, and stays with that one. When all have failed, all are attempted, each with
/// its own backoff (gRFC A61). With one of weight 0 or about to shut down, those of a better grade are attempted on, and it is
/// left for the first of them that is ready.
#[derive(Debug)]
pub(super) struct First {
    selection: Selection,
    seed: u64,
    seats: BTreeMap<ServerKey, (Role, Order)>,
    /// How many servers are up.
    up: usize,
    /// Those that are not attempted yet.
    waiting: BTreeSet<Order>,
    attempted: BTreeMap<Order, Condition>,
    /// Those of them that have neither failed nor are ready.
    pending: BTreeSet<Order>,
    /// The latest attempt of the walk; `None` before the first.
    latest: Option<Order>,
    /// When the next attempt is made.
    next: Option<Instant>,
    chosen: Option<Order>,
    /// The servers that may have to be connected to, or not any more.
    changed: Vec<ServerKey>,
}

/// The place of a server in the walk.
type Order = (Grade, List, Rank);

/// Whether a server is stayed with; the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Weighted,
    /// Its weight is 0.
    Weightless,
    /// About to shut down.
    Draining,
}

impl First {
    pub(super) fn new(selection: Selection, seed: u64) -> Self {
        Self {
            selection,
            seed,
            seats: BTreeMap::new(),
            up: 0,
            waiting: BTreeSet::new(),
            attempted: BTreeMap::new(),
            pending: BTreeSet::new(),
            latest: None,
            next: None,
            chosen: None,
            changed: Vec::new(),
        }
    }

    /// Takes in what is known of a server, which has this condition if it was not known yet; `None` if it is gone. Those about
    /// to shut down count as changed with the first that is up and the last, as [`Servers`](super::servers::Servers) has it.
    pub(super) fn place(
        &mut self,
        key: &ServerKey,
        record: Option<(Role, &Arc<Instance>)>,
        condition: Condition,
    ) {
        let (mut was_chosen, mut attempt, mut was_latest) = (false, None, false);
        let before = self.seats.remove(key);
        let is_known = before.is_some();
        if let Some((role, order)) = before {
            self.up -= usize::from(role == Role::Up);
            self.waiting.remove(&order);
            attempt = self.end(&order);
            was_latest = self.latest.take_if(|latest| *latest == order).is_some();
            was_chosen = self.chosen.take_if(|chosen| *chosen == order).is_some();
        }
        let Some((role, instance)) = record else { return };
        let list = match role {
            Role::Draining => List::Draining,
            Role::Up | Role::Held => List::Tier(self.selection.tier(instance)),
        };
        let grade = match role {
            Role::Draining => Grade::Draining,
            Role::Up | Role::Held if instance.weight() == 0 => Grade::Weightless,
            Role::Up | Role::Held => Grade::Weighted,
        };
        let order = (grade, list, Rank::new(self.seed, instance, key));
        self.up += usize::from(role == Role::Up);
        self.seats.insert(Arc::clone(key), (role, order.clone()));
        if was_latest {
            self.latest = Some(order.clone());
        }
        match attempt {
            _ if was_chosen => self.choose(order),
            // With another selection it was connected to already.
            _ if !is_known && condition.is_connected() => self.prefer(order),
            Some(attempt) if self.goes_on_to(grade) => self.attempt(order, attempt),
            _ => self.wait(order),
        }
    }

    /// Takes in the condition of a server.
    pub(super) fn observe(&mut self, key: &ServerKey, condition: Condition) {
        let Some((_, order)) = self.seats.get(key) else { return };
        if self.chosen.as_ref() == Some(order) {
            // That it fails calls is no evidence against it: there are no others to compare it with.
            if !condition.is_connected() {
                self.begin();
            }
        } else if self.attempted.contains_key(order) {
            let order = order.clone();
            if condition.is_connected() {
                self.choose(order);
            } else {
                self.attempt(order, condition);
            }
        }
    }

    /// Makes the attempts that are due; returns the servers for which something may have changed.
    pub(super) fn take_changed(&mut self, now: Instant) -> Vec<ServerKey> {
        while self.is_walking() && self.is_due(now) {
            let Some(order) = self.waiting.pop_first() else { break };
            self.changed.push(Arc::clone(&order.2.key));
            self.attempt(order.clone(), Condition::Pending);
            (self.latest, self.next) = (Some(order), Some(now + ATTEMPT_DELAY));
        }
        std::mem::take(&mut self.changed)
    }

    /// Returns when [`take_changed`](Self::take_changed) is to be called again though nothing has changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next.filter(|_| self.is_walking())
    }

    /// Returns the list that a server is in and whether it is connected to, if it is selected.
    pub(super) fn choice(&self, key: &ServerKey) -> Option<(List, bool)> {
        let (role, order) = self.seats.get(key)?;
        let (is_chosen, is_attempted) =
            (self.chosen.as_ref() == Some(order), self.attempted.contains_key(order));
        let (is_selected, connects) = match role {
            Role::Up => (is_chosen || is_attempted, true),
            Role::Held => (is_chosen || is_attempted, false),
            // It finishes its calls.
            Role::Draining => (true, is_attempted || (is_chosen && self.up == 0)),
        };
        is_selected.then_some((order.1, connects))
    }

    /// Drops it, and yields in between if there is much to drop.
    pub(super) async fn discard(mut self) {
        while let Some((_, (_, order))) = self.seats.pop_first() {
            consume_budget().await;
            self.waiting.remove(&order);
            self.end(&order);
        }
    }

    /// Whether there are servers to be attempted.
    fn is_walking(&self) -> bool {
        self.waiting.first().is_some_and(|(grade, ..)| self.goes_on_to(*grade))
    }

    /// Whether servers of a grade are attempted: beside the one that was chosen only better ones, and while one is being
    /// connected to none that is worse, however long that takes.
    fn goes_on_to(&self, grade: Grade) -> bool {
        self.chosen.as_ref().is_none_or(|(chosen, ..)| grade < *chosen)
            && self.pending.first().is_none_or(|(pending, ..)| grade <= *pending)
    }

    /// An attempt is made as soon as the one before has failed.
    fn is_due(&self, now: Instant) -> bool {
        let latest = self.latest.as_ref().and_then(|latest| self.attempted.get(latest));
        latest != Some(&Condition::Pending) || self.next.is_none_or(|next| next <= now)
    }

    /// Chooses a server, unless an earlier one is.
    fn prefer(&mut self, order: Order) {
        if self.chosen.as_ref().is_some_and(|chosen| *chosen < order) {
            self.wait(order);
        } else {
            self.choose(order);
        }
    }

    fn choose(&mut self, order: Order) {
        self.end(&order);
        let (attempted, mut pending) =
            (std::mem::take(&mut self.attempted), std::mem::take(&mut self.pending));
        // To better ones the walk goes on.
        let (going_on, ended) = attempted.into_iter().partition(|((grade, ..), _)| *grade < order.0);
        pending.retain(|(grade, ..)| *grade < order.0);
        self.attempted = ended;
        self.begin();
        self.changed.push(Arc::clone(&order.2.key));
        (self.attempted, self.pending, self.chosen) = (going_on, pending, Some(order));
    }

    /// Ends all attempts and leaves the one that was chosen: the walk begins anew.
    fn begin(&mut self) {
        self.pending.clear();
        let attempted = std::mem::take(&mut self.attempted).into_keys();
        for order in attempted.chain(self.chosen.take()) {
            self.changed.push(Arc::clone(&order.2.key));
            self.wait(order);
        }
        (self.latest, self.next) = (None, None);
    }

    fn wait(&mut self, order: Order) {
        if !self.is_held(&order) {
            self.waiting.insert(order);
        }
    }

    /// Begins an attempt, or takes in what has become of it.
    fn attempt(&mut self, order: Order, condition: Condition) {
        if condition == Condition::Pending && !self.is_held(&order) {
            self.pending.insert(order.clone());
        } else {
            self.pending.remove(&order);
        }
        self.attempted.insert(order, condition);
    }

    /// Ends an attempt, if one is made.
    fn end(&mut self, order: &Order) -> Option<Condition> {
        self.pending.remove(order);
        self.attempted.remove(order)
    }

    /// What is held is never connected to.
    fn is_held(&self, order: &Order) -> bool {
        self.seats.get(&order.2.key).is_none_or(|(role, _)| *role == Role::Held)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hither_core::InstanceState;

    use super::Condition::{Ejected, Failing, Pending, Ready};
    use super::{First, Order, Role, Selection};
    use crate::client::selection::sim::{Sim, in_zone, instance};

    const HALF: Duration = Duration::from_millis(125);

    async fn ten() -> (Sim, Vec<String>) {
        let mut sim = Sim::new(Selection::default().pick_first());
        sim.put((0..10).map(|id| instance(&format!("i{id}")))).await;
        // The order of the walk.
        let mut order: Vec<String> = Vec::new();
        while order.len() < 10 {
            order.extend(sim.connects().into_iter().filter(|id| !order.contains(id)).collect::<Vec<_>>());
            sim.pass(2 * HALF).await;
        }
        let mut sim = Sim::new(Selection::default().pick_first());
        sim.put((0..10).map(|id| instance(&format!("i{id}")))).await;
        (sim, order)
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_is_made_every_250_ms_or_when_the_one_before_has_failed() {
        let (mut sim, order) = ten().await;
        assert_eq!(sim.connects(), order[..1]);
        sim.pass(HALF).await;
        assert_eq!(sim.connects().len(), 1);
        sim.pass(HALF).await;
        assert_eq!(sim.connects().len(), 2);
        // An earlier one that fails brings nothing forward.
        sim.turn(&[&order[0]], Failing).await;
        assert_eq!(sim.connects().len(), 2);
        sim.turn(&[&order[1]], Failing).await;
        assert_eq!(sim.connects().len(), 3);
        sim.pass(HALF).await;
        assert_eq!(sim.connects().len(), 3, "the delay counts from the latest attempt");
        sim.pass(HALF).await;
        assert_eq!(sim.connects().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_is_ready_is_used_and_the_other_attempts_end() {
        let (mut sim, order) = ten().await;
        sim.pass(4 * HALF).await;
        assert_eq!(sim.connects().len(), 3);
        sim.turn(&[&order[1]], Ready).await;
        assert_eq!(sim.open(), [&*order[1]]);
        sim.pass(60 * HALF).await;
        assert_eq!((sim.open().len(), sim.started), (1, 3));
        // Another one that joins, a description and the end of another one change nothing.
        sim.put([instance("i00"), instance(&order[1]).with_weight(7)]).await;
        sim.remove(&order[0]).await;
        assert_eq!((sim.open(), sim.started), (vec![order[1].clone()], 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_description_does_not_disturb_an_attempt() {
        let (mut sim, order) = ten().await;
        sim.pass(HALF).await;
        sim.put([instance(&order[0]).with_weight(7)]).await;
        assert_eq!((sim.connects(), sim.started), (order[..1].to_vec(), 1));
        sim.pass(HALF).await;
        assert_eq!(sim.connects().len(), 2, "nor the delay");
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_one_that_is_attempted_leaves_the_next_is_attempted_at_once() {
        let (mut sim, order) = ten().await;
        sim.remove(&order[0]).await;
        assert_eq!(sim.connects(), order[1..2]);
    }

    /// That it fails calls is no reason to leave it, or not to use it.
    #[tokio::test(start_paused = true)]
    async fn one_that_is_ejected_is_used() {
        let (mut sim, order) = ten().await;
        sim.turn(&[&order[0]], Ejected).await;
        sim.pass(60 * HALF).await;
        assert_eq!((sim.open(), sim.started), (order[..1].to_vec(), 1));
        sim.turn(&[&order[0]], Ready).await;
        sim.turn(&[&order[0]], Ejected).await;
        assert_eq!((sim.open(), sim.started), (order[..1].to_vec(), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_about_to_shut_down_they_are_attempted() {
        let mut sim = Sim::new(Selection::default().pick_first());
        sim.put([instance("a").with_state(InstanceState::Draining)]).await;
        assert_eq!(sim.connects(), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_walk_begins_anew_when_the_connection_is_lost() {
        let (mut sim, order) = ten().await;
        sim.pass(2 * HALF).await;
        sim.turn(&[&order[1]], Ready).await;
        sim.turn(&[&order[1]], Pending).await;
        assert_eq!(sim.open(), order[..1]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_walk_begins_anew_when_the_instance_leaves() {
        let (mut sim, order) = ten().await;
        sim.turn(&[&order[0]], Ready).await;
        sim.remove(&order[0]).await;
        assert_eq!(sim.open(), order[1..2]);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_have_failed_all_are_attempted() {
        let (mut sim, order) = ten().await;
        for id in &order {
            assert!(sim.connects().contains(id));
            sim.turn(&[id], Failing).await;
        }
        assert_eq!((sim.connects().len(), sim.selector.due()), (10, None));
        // Attempts with backoff, of which none hides the failure, until one is ready.
        sim.turn(&[&order[7]], Ready).await;
        assert_eq!(sim.open(), [&*order[7]]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_about_to_shut_down_is_left_and_finishes_its_calls() {
        let (mut sim, order) = ten().await;
        sim.turn(&[&order[0]], Ready).await;
        sim.drain(&[&order[0]]).await;
        assert_eq!(sim.connects(), order[1..2]);
        assert_eq!(sim.open().len(), 2);
        // It is the last to be connected to, and is left when there is another one.
        for id in &order[1..] {
            sim.remove(id).await;
        }
        assert_eq!(sim.connects(), order[..1]);
        sim.turn(&[&order[0]], Ready).await;
        sim.put([instance(&order[1])]).await;
        assert_eq!((sim.connects(), sim.open().len()), (order[1..2].to_vec(), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_others_have_failed_one_about_to_shut_down_is_used_until_one_of_them_is_ready() {
        let (mut sim, order) = ten().await;
        sim.drain(&[&order[0]]).await;
        for id in &order[1..] {
            sim.pass(2 * HALF).await;
            sim.turn(&[id], Failing).await;
        }
        sim.turn(&[&order[0]], Ready).await;
        let mut others = order[1..].to_vec();
        others.sort();
        assert_eq!((sim.connects(), sim.open().len()), (others.clone(), 10));
        // Nothing begins anew, whatever changes in the registry.
        let started = sim.started;
        sim.put([instance(&order[2]).with_weight(7)]).await;
        sim.pass(600 * HALF).await;
        assert_eq!((sim.connects(), sim.started), (others, started));
        sim.put([instance("i00")]).await;
        assert_eq!((sim.connects().len(), sim.started), (10, started + 1));
        sim.turn(&[&order[5]], Ready).await;
        assert_eq!((sim.connects(), sim.open().len()), (order[5..6].to_vec(), 2));
        // The walk goes on from one that is about to shut down, and ends if it stays.
        sim.drain(&[&order[5]]).await;
        sim.pass(2 * HALF).await;
        assert_eq!(sim.connects().len(), 2);
        sim.put([instance(&order[5])]).await;
        assert_eq!(sim.connects(), order[5..6]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_weight_becomes_zero_is_used_until_one_that_has_a_weight_is_ready() {
        let (mut sim, order) = ten().await;
        sim.turn(&[&order[0]], Ready).await;
        sim.put([instance(&order[0]).with_weight(0), instance(&order[1]).with_weight(0)]).await;
        // With the connection that it has.
        let mut both = [order[0].clone(), order[2].clone()];
        both.sort();
        assert_eq!((sim.open(), sim.started), (both.to_vec(), 2));
        sim.turn(&[&order[2]], Ready).await;
        assert_eq!(sim.open(), order[2..3]);
        // Where it is the weight of all others too, it stays.
        sim.put(order.iter().map(|id| instance(id).with_weight(0))).await;
        sim.pass(600 * HALF).await;
        assert_eq!((sim.open(), sim.started), (order[2..3].to_vec(), 2));
        sim.put([instance(&order[2])]).await;
        assert_eq!((sim.open(), sim.started), (order[2..3].to_vec(), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_weight_zero_comes_after_the_later_tiers_and_before_those_about_to_shut_down() {
        let mut sim = Sim::new(Selection::default().prefer_zone("a").pick_first());
        let draining = in_zone("i2", "a").with_state(InstanceState::Draining);
        sim.put([in_zone("i0", "a").with_weight(0), in_zone("i1", "b"), draining]).await;
        assert_eq!(sim.connects(), ["i1"]);
        sim.turn(&["i1"], Failing).await;
        assert_eq!(sim.connects(), ["i0", "i1"]);
        sim.turn(&["i0"], Failing).await;
        sim.turn(&["i2"], Ready).await;
        assert_eq!(sim.connects(), ["i0", "i1"], "both are better");
        sim.turn(&["i0"], Ready).await;
        assert_eq!(sim.connects(), ["i0", "i1"], "i1 is better");
        sim.turn(&["i1"], Ready).await;
        assert_eq!(sim.connects(), ["i1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_weight_zero_is_not_attempted_while_one_that_has_a_weight_connects() {
        let draining = instance("i3").with_state(InstanceState::Draining);
        let mut sim = Sim::new(Selection::default().pick_first());
        sim.put([instance("i0"), instance("i1"), instance("i2").with_weight(0), draining]).await;
        sim.pass(80 * HALF).await;
        assert_eq!((sim.connects(), sim.selector.due()), (vec!["i0".to_owned(), "i1".to_owned()], None));
        for (fails, attempted) in [("i1", 2), ("i0", 3)] {
            sim.turn(&[fails], Failing).await;
            assert_eq!(sim.connects().len(), attempted, "whichever is the latest attempt");
        }
        sim.pass(80 * HALF).await;
        assert_eq!(sim.connects(), ["i0", "i1", "i2"], "nor the last while one of weight zero connects");
        sim.turn(&["i2"], Failing).await;
        assert_eq!(sim.connects().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_ends_when_the_weight_becomes_zero_while_another_one_connects() {
        let (mut sim, order) = ten().await;
        sim.pass(2 * HALF).await;
        assert_eq!(sim.connects().len(), 2);
        sim.put([instance(&order[1]).with_weight(0)]).await;
        assert!(!sim.connects().contains(&order[1]), "{:?}", sim.connects());
    }

    /// It is never connected to.
    #[tokio::test(start_paused = true)]
    async fn one_that_is_held_while_it_connects_keeps_none_waiting() {
        let mut sim = Sim::new(Selection::default().pick_first());
        sim.put([instance("i0"), instance("i1").with_weight(0)]).await;
        sim.pass(2 * HALF).await;
        assert_eq!(sim.connects(), ["i0"]);
        sim.hold(&["i0"]).await;
        assert_eq!(sim.connects(), ["i1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_held_is_used_until_its_connection_is_lost() {
        let (mut sim, order) = ten().await;
        sim.turn(&[&order[0]], Ready).await;
        let all: Vec<_> = order.iter().map(String::as_str).collect();
        sim.hold(&all[..9]).await;
        assert_eq!((sim.open(), sim.connects()), (order[..1].to_vec(), vec![]));
        sim.turn(&[&order[0]], Pending).await;
        assert_eq!(sim.open(), order[9..]);
    }

    #[tokio::test(start_paused = true)]
    async fn instances_of_earlier_tiers_are_attempted_first() {
        let mut sim = Sim::new(Selection::default().prefer_zone("b").pick_first());
        sim.put((0..10).map(|id| in_zone(&format!("i{id}"), if id == 7 { "b" } else { "a" }))).await;
        assert_eq!(sim.connects(), ["i7"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_selection_keeps_one_that_is_ready() {
        let mut sim = Sim::new(Selection::default());
        sim.put((0..10).map(|id| instance(&format!("i{id}")))).await;
        sim.all_ready().await;
        sim.select(Selection::default().pick_first()).await;
        assert_eq!((sim.open().len(), sim.started), (1, 10));
        sim.select(Selection::default().filter(|_| false).pick_first()).await;
        assert_eq!(sim.open(), [] as [&str; 0]);
        // It is not the first of the order, and may be ejected.
        for (id, condition) in (0..10).flat_map(|id| [(id, Ready), (id, Ejected)]) {
            let mut sim = Sim::new(Selection::default());
            sim.put((0..10).map(|id| instance(&format!("i{id}")))).await;
            let id = format!("i{id}");
            sim.turn(&[&id], condition).await;
            sim.select(Selection::default().pick_first()).await;
            assert_eq!((sim.open(), sim.started), (vec![id], 10));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_selection_keeps_the_best_that_is_ready() {
        for best in [0, 5, 9] {
            let mut sim = Sim::new(Selection::default());
            sim.put((0..10).map(|id| in_zone(&format!("i{id}"), if id == best { "b" } else { "a" }))).await;
            sim.all_ready().await;
            sim.select(Selection::default().prefer_zone("b").pick_first()).await;
            assert_eq!((sim.open(), sim.started), (vec![format!("i{best}")], 10));
        }
    }

    /// What is pending, computed from nothing but the attempts.
    fn is_as_counted_anew(first: &First) {
        let is_held = |order: &Order| first.seats[&order.2.key].0 == Role::Held;
        let pending =
            first.attempted.iter().filter(|(order, attempt)| **attempt == Pending && !is_held(order));
        assert!(pending.map(|(order, _)| order).eq(&first.pending), "{first:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_random_changes_one_is_chosen_or_all_are_attempted() {
        for seed in 0..30 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut sim = Sim::new(Selection::default().prefer_zone("b").pick_first());
            for _ in 0..300 {
                let id = format!("i{}", random.u8(..10));
                match random.u8(..8) {
                    0 => sim.remove(&id).await,
                    1 if sim.is_registered(&id) => sim.hold(&[&id]).await,
                    2 if sim.is_registered(&id) => sim.drain(&[&id]).await,
                    3 => sim.pass(Duration::from_millis(random.u64(..300))).await,
                    4..6 => sim.turn(&[&id], [Ready, Pending, Failing][random.usize(..3)]).await,
                    _ => {
                        let instance = if random.bool() { instance(&id) } else { in_zone(&id, "b") };
                        sim.put([instance.with_weight(random.u32(..3).min(1))]).await;
                    }
                }
                sim.agrees();
                is_as_counted_anew(sim.first());
            }
            sim.pass(Duration::from_secs(10)).await;
            let connects = sim.connects().len();
            let all = (0..10).filter(|id| sim.is_registered(&format!("i{id}"))).count();
            // While one about to shut down is used, those that are up; while one of weight 0 is, those that have a weight,
            // and itself if it is not held.
            let up = (0..10).filter(|id| sim.is_up(&format!("i{id}"), 0)).count();
            let weighted = (0..10).filter(|id| sim.is_up(&format!("i{id}"), 1)).count();
            let expected = [0, 1, all, up, weighted, weighted + 1];
            assert!(expected.contains(&connects), "{connects}, not {expected:?}");
            sim.all_ready().await;
            assert!(sim.connects().len() <= 1);
        }
    }
}
