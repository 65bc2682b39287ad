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
                condition: before.map_or(condition, |before| before.condition),
                counted: None,
            };
            entered = Some(list);
            self.enter(key, seat);
        }
        self.settle(left);
        self.settle(entered.filter(|list| Some(*list) != left));
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
        let is_active = self.tiers.get(&seat.list).is_some_and(Tier::is_active);
        let is_taken = self.is_taken(seat);
        match seat.role {
            Role::Up => (is_active && is_taken).then_some((seat.list, true)),
            Role::Held => (is_active && is_taken).then_some((seat.list, false)),
            Role::Draining => Some((seat.list, is_active && is_taken)),
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
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::Condition::{Ejected, Failing, Pending, Ready};
    use super::{BTreeMap, List, Role, Selection, Tiered};
    use crate::client::selection::sim::{Sim, in_zone, instance};

    const A: [&str; 10] = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"];
    const B: [&str; 4] = ["b0", "b1", "b2", "b3"];

    /// Ten instances in zone a and four in zone b, of which a is preferred and ready.
    async fn two_zones(selection: Selection) -> Sim {
        let mut sim = Sim::new(selection.prefer_zone("a"));
        sim.put(A.iter().chain(&B).map(|id| in_zone(id, &id[..1]))).await;
        sim.all_ready().await;
        sim
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_tier_is_alone_while_71_percent_of_it_are_ready() {
        let mut sim = two_zones(Selection::default()).await;
        assert_eq!((sim.connects(), sim.shares()), (A.map(str::to_owned).to_vec(), vec![100.0]));
        // 8 of 10 can take 1.4 * 80 %.
        sim.turn(&A[..2], Failing).await;
        assert_eq!((sim.connects().len(), sim.shares()), (10, vec![100.0]));
        // 7 of 10 can take 98 %.
        sim.turn(&A[2..3], Failing).await;
        sim.all_ready().await;
        assert_eq!((sim.connects().len(), sim.shares()), (14, vec![98.0, 2.0]));
    }

    /// The published table: per cent of tier 0 and of tier 1 that are ready, and the shares (Envoy's documentation on
    /// priority levels).
    #[tokio::test(start_paused = true)]
    async fn shares_are_those_that_envoy_publishes() {
        for (first, second, shares) in [
            (100, 100, &[100.0][..]),
            (72, 100, &[100.0]),
            (71, 100, &[99.4, 0.6]),
            (50, 100, &[70.0, 30.0]),
            (25, 100, &[35.0, 65.0]),
            (25, 25, &[50.0, 50.0]),
            (25, 20, &[55.6, 44.4]),
            (0, 100, &[100.0]),
        ] {
            let mut sim = Sim::new(Selection::default().tiers(|instance| instance.zone().map_or(0, |_| 1)));
            let (a, b): (Vec<_>, Vec<_>) = (0..100).map(|id| (format!("a{id}"), format!("b{id}"))).unzip();
            sim.put(a.iter().map(|id| instance(id)).chain(b.iter().map(|id| in_zone(id, "b")))).await;
            for (ids, ready) in [(&a, first), (&b, second)] {
                let ids: Vec<_> = ids.iter().map(String::as_str).collect();
                sim.turn(&ids[ready..], Failing).await;
                sim.turn(&ids[..ready], Ready).await;
            }
            assert_eq!(sim.shares(), shares, "{first} {second}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_tier_is_connected_to_when_the_first_fails_or_takes_ten_seconds() {
        for (fails, waits) in [(true, 0), (false, 10)] {
            let mut sim = Sim::new(Selection::default().prefer_zone("a"));
            sim.put(A.iter().chain(&B).map(|id| in_zone(id, &id[..1]))).await;
            if fails {
                sim.turn(&A, Failing).await;
            } else {
                sim.pass(Duration::from_secs(waits) - Duration::from_millis(1)).await;
                assert_eq!(sim.connects().len(), 10);
                sim.pass(Duration::from_millis(1)).await;
            }
            assert_eq!(sim.connects().len(), 14, "fails: {fails}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_lost_has_ten_seconds_again() {
        let mut sim = two_zones(Selection::default()).await;
        sim.turn(&A, Pending).await;
        sim.pass(Duration::from_secs(9)).await;
        assert_eq!(sim.connects().len(), 10);
        sim.pass(Duration::from_secs(1)).await;
        assert_eq!(sim.connects().len(), 14);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tier_that_is_not_needed_any_more_stays_connected_for_15_minutes() {
        let mut sim = two_zones(Selection::default()).await;
        sim.turn(&A, Failing).await;
        sim.all_ready().await;
        assert_eq!((sim.shares(), sim.connects().len()), (vec![100.0], 14));
        sim.turn(&A, Ready).await;
        assert_eq!((sim.shares(), sim.connects().len()), (vec![100.0], 14));
        sim.pass(Duration::from_secs(15 * 60 - 1)).await;
        assert_eq!(sim.connects().len(), 14);
        // Needed in between: it stays longer.
        sim.turn(&A, Failing).await;
        sim.turn(&A, Ready).await;
        sim.pass(Duration::from_secs(15 * 60 - 1)).await;
        assert_eq!(sim.connects().len(), 14);
        sim.pass(Duration::from_secs(1)).await;
        assert_eq!((sim.connects().len(), sim.open().len()), (10, 10));
        // What was ready before counts for nothing now.
        sim.turn(&A, Failing).await;
        assert_eq!((sim.shares(), sim.connects().len()), (vec![], 14));
    }

    /// Another server that begins to connect gives the tier no more time (grpc/grpc-go#8516).
    #[tokio::test(start_paused = true)]
    async fn a_server_that_joins_does_not_start_the_ten_seconds_again() {
        let mut sim = Sim::new(Selection::default().prefer_zone("a"));
        sim.put([in_zone("a0", "a"), in_zone("b0", "b")]).await;
        sim.pass(Duration::from_secs(9)).await;
        sim.put([in_zone("a1", "a")]).await;
        sim.pass(Duration::from_secs(1)).await;
        assert_eq!(sim.connects(), ["a0", "a1", "b0"]);
    }

    /// A failing health check or an ejection changes no membership (envoyproxy/envoy#2779).
    #[tokio::test(start_paused = true)]
    async fn those_that_are_ejected_are_made_up_for_and_stay_connected() {
        let mut sim = two_zones(Selection::default()).await;
        sim.turn(&A[..5], Ejected).await;
        sim.all_ready().await;
        assert_eq!((sim.connects().len(), sim.shares()), (14, vec![70.0, 30.0]));
        let weights: Vec<_> = sim.selector.shares().iter().map(|share| share.weight).collect();
        assert_eq!(weights, [5.0, 4.0].map(|number| number * f64::from(instance("a").weight())));
        sim.turn(&A, Ejected).await;
        assert_eq!(sim.shares(), [100.0]);
        sim.turn(&A, Ready).await;
        assert_eq!((sim.shares(), sim.started), (vec![100.0], 14));
    }

    #[tokio::test(start_paused = true)]
    async fn with_100_000_instances_one_change_is_one_call_of_each_closure() {
        let asked = Arc::<AtomicUsize>::default();
        let count = || {
            let asked = Arc::clone(&asked);
            move || asked.fetch_add(1, Ordering::Relaxed)
        };
        let (filters, tiers) = (count(), count());
        let selection =
            Selection::default().filter(move |_| filters() < usize::MAX).subset(20).tiers(move |instance| {
                tiers();
                u32::from(instance.zone() != Some("a"))
            });
        let mut sim = Sim::new(selection);
        sim.put((0..100_000).map(|id| in_zone(&format!("i{id}"), ["a", "b"][id % 2]))).await;
        assert_eq!((sim.connects().len(), asked.swap(0, Ordering::Relaxed)), (20, 200_000));
        let looked_at = sim.looked_at;
        for id in 0..100 {
            sim.put([in_zone(&format!("i{id}"), "a").with_weight(7)]).await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 200);
        assert!(sim.looked_at - looked_at <= 400, "{}", sim.looked_at - looked_at);
    }

    #[tokio::test(start_paused = true)]
    async fn strict_failover_needs_the_last_of_a_tier_to_fail() {
        let mut sim = two_zones(Selection::default().strict_failover()).await;
        sim.turn(&A[1..], Failing).await;
        assert_eq!((sim.shares(), sim.connects().len()), (vec![100.0], 10));
        sim.turn(&A[..1], Failing).await;
        sim.all_ready().await;
        assert_eq!((sim.shares(), sim.connects().len()), (vec![100.0], 14));
        sim.turn(&A[..1], Ready).await;
        assert_eq!(sim.selector.shares()[0].list, List::Tier(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tier_that_drains_hands_over_and_keeps_what_it_has_until_then() {
        let mut sim = two_zones(Selection::default()).await;
        sim.drain(&A).await;
        // Zone b alone is connected to; a finishes its calls.
        assert_eq!((sim.connects(), sim.open().len()), (B.map(str::to_owned).to_vec(), 14));
        assert_eq!(sim.shares(), [] as [f64; 0], "until then those about to shut down are called");
        sim.all_ready().await;
        assert_eq!(sim.shares(), [100.0]);
        // With nothing else those about to shut down are connected to.
        for id in B {
            sim.remove(id).await;
        }
        assert_eq!(sim.connects(), A);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_keeps_its_connection_and_its_place() {
        let mut sim = two_zones(Selection::default().subset(3)).await;
        let connected = sim.connects();
        let connected: Vec<_> = connected.iter().map(String::as_str).collect();
        assert_eq!(connected.len(), 3);
        sim.hold(&A).await;
        assert_eq!((sim.connects(), sim.open(), sim.shares()), (vec![], sim.open(), vec![100.0]));
        assert_eq!(sim.open(), connected);
        // One that loses its connection is not connected to again, and the others do not suffice: 2 of 2 can take everything.
        sim.turn(&connected[..1], Pending).await;
        assert_eq!((sim.connects(), sim.shares()), (vec![], vec![100.0]));
        sim.turn(&connected[1..], Pending).await;
        assert_eq!(sim.connects().len(), 3, "three of zone b");
        sim.put(A.map(|id| in_zone(id, "a"))).await;
        assert_eq!(sim.connects()[..3], *connected, "they return");
    }

    #[tokio::test(start_paused = true)]
    async fn instances_without_weight_count_for_nothing() {
        let mut sim = Sim::new(Selection::default().prefer_zone("a"));
        sim.put(A.map(|id| in_zone(id, "a").with_weight(0))).await;
        sim.put(B.map(|id| in_zone(id, "b"))).await;
        sim.all_ready().await;
        assert_eq!((sim.connects().len(), sim.shares()), (14, vec![100.0]));
        assert_eq!(sim.selector.shares()[0].list, List::Tier(1));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_instances_only_the_subset_is_connected_to() {
        let mut sim = Sim::new(Selection::default().subset(20));
        sim.put((0..10_000).map(|id| instance(&format!("i{id}")))).await;
        assert_eq!((sim.connects().len(), sim.started), (20, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn one_change_moves_at_most_one_connection() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut sim = Sim::new(Selection::default().subset(20));
        sim.put((0..200).map(|id| instance(&format!("i{id}")))).await;
        sim.all_ready().await;
        for _ in 0..500 {
            let id = format!("i{}", random.u32(..250));
            let before = sim.connects();
            if random.bool() {
                sim.put([instance(&id)]).await;
            } else {
                sim.remove(&id).await;
            }
            sim.all_ready().await;
            let after = sim.connects();
            let (left, joined) = (
                before.iter().filter(|id| !after.contains(id)).count(),
                after.iter().filter(|id| !before.contains(id)).count(),
            );
            assert!(after.len() == 20 && left <= 1 && joined <= 1, "{before:?} {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_larger_subset_includes_the_smaller_one() {
        let mut sim = Sim::new(Selection::default().subset(5));
        sim.put((0..100).map(|id| instance(&format!("i{id}")))).await;
        sim.all_ready().await;
        let before = sim.connects();
        sim.select(Selection::default().subset(8)).await;
        assert!(before.iter().all(|id| sim.connects().contains(id)));
        assert_eq!((sim.connects().len(), sim.started), (8, 8), "nothing is connected to again");
    }

    #[tokio::test(start_paused = true)]
    async fn weight_zero_takes_no_place_of_a_subset_while_there_are_others() {
        for selection in [Selection::default().subset(3), Selection::default().pick_first()] {
            let selection = selection.with_seed(1);
            let (mut sim, mut anew) = (Sim::new(selection.clone()), Sim::new(selection));
            let all = (0..10).map(|id| instance(&format!("i{id}")));
            sim.put(all.clone()).await;
            let chosen = sim.connects();
            let weight = |id: &str| u32::from(!chosen.iter().any(|chosen| chosen == id));
            anew.put(all.map(|one| {
                let weight = weight(one.id().as_str());
                one.with_weight(weight)
            }))
            .await;
            assert!(anew.connects().iter().all(|id| weight(id) > 0), "{:?}", anew.connects());
        }
        let mut sim = Sim::new(Selection::default().subset(3));
        sim.put((0..2).map(|id| instance(&format!("i{id}")).with_weight(0))).await;
        assert_eq!(sim.connects().len(), 2, "there are no others");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_cannot_be_reached_is_replaced_until_it_is_back() {
        let mut sim = Sim::new(Selection::default().subset(5));
        sim.put((0..100).map(|id| instance(&format!("i{id}")))).await;
        sim.all_ready().await;
        let chosen = sim.connects();
        let lost: Vec<_> = chosen[..2].iter().map(String::as_str).collect();
        sim.turn(&lost, Failing).await;
        assert_eq!(sim.connects().len(), 7);
        sim.all_ready().await;
        sim.turn(&lost, Ready).await;
        assert_eq!(sim.connects(), chosen);
        // All fail, and all in their place: there is a bound.
        for _ in 0..100 {
            let all = sim.connects();
            sim.turn(&all.iter().map(String::as_str).collect::<Vec<_>>(), Failing).await;
        }
        assert_eq!(sim.connects().len(), 25);
    }

    /// The counts of each tier, computed from nothing but the servers: members, ready ones, pending ones, and the weight.
    fn is_as_counted_anew(tiered: &Tiered) {
        let mut counts = BTreeMap::<List, [u64; 4]>::new();
        for seat in tiered.seats.values().filter(|seat| seat.is_member()) {
            let is_taken = tiered.tiers[&seat.list].cut.is_taken(&seat.rank);
            let counts = counts.entry(seat.list).or_default();
            if seat.weight > 0 {
                counts[0] += 1;
                counts[1] += u64::from(is_taken && seat.condition == Ready);
                counts[2] += u64::from(is_taken && seat.condition == Pending);
                counts[3] += u64::from(is_taken && seat.condition == Ready) * u64::from(seat.weight);
            }
        }
        let known = tiered.tiers.iter().map(|(list, tier)| (*list, tier.counts()));
        assert_eq!(known.collect::<BTreeMap<_, _>>(), counts);
        assert_eq!(tiered.up, tiered.seats.values().filter(|seat| seat.role == Role::Up).count());
    }

    #[tokio::test(start_paused = true)]
    async fn random_changes_end_as_if_all_were_counted_anew() {
        for seed in 0..30 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut selection = Selection::default().tiers(|instance| instance.zone().map_or(0, |_| 1));
            if random.bool() {
                selection = selection.subset(random.usize(1..8));
            }
            let mut sim = Sim::new(selection);
            for _ in 0..300 {
                let id = format!("i{}", random.u8(..30));
                match random.u8(..8) {
                    0 => sim.remove(&id).await,
                    1 if sim.is_registered(&id) => sim.hold(&[&id]).await,
                    2 if sim.is_registered(&id) => sim.drain(&[&id]).await,
                    3 => sim.pass(Duration::from_secs(random.u64(..300))).await,
                    4..6 => sim.turn(&[&id], [Ready, Pending, Failing, Ejected][random.usize(..4)]).await,
                    _ => {
                        let instance = if random.bool() { instance(&id) } else { in_zone(&id, "b") };
                        sim.put([instance.with_weight(random.u32(..3))]).await;
                    }
                }
                is_as_counted_anew(sim.tiered());
                sim.agrees();
            }
        }
    }
}
