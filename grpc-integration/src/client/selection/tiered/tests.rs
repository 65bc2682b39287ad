//! Tests of the tiers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hither_core::{InstanceState, SortedById};

use super::Condition::{Ejected, Failing, Pending, Ready};
use super::{BTreeMap, List, Role, Selection, Tiered};
use crate::client::selection::Selector;
use crate::client::selection::sim::{Sim, in_zone, instance};
use crate::client::server_key::ServerKeys;

const A: [&str; 10] = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"];
const B: [&str; 4] = ["b0", "b1", "b2", "b3"];

/// Ten instances in zone a and four in zone b, of which a is preferred and ready.
async fn two_zones(selection: Selection) -> Sim {
    let mut sim = Sim::new(selection.prefer_zone("a"));
    sim.put(A.iter().chain(&B).map(|id| in_zone(id, &id[..1]))).await;
    sim.all_ready().await;
    sim
}

/// Zones a, b and c.
fn three_tiers() -> Selection {
    Selection::default().tiers(|instance| match instance.zone() {
        Some("a") => 0,
        Some("b") => 1,
        _ => 2,
    })
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
    sim.pass(Duration::from_secs(60)).await;
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
    sim.hold(&B[..1]).await;
    sim.pass(Duration::from_secs(1)).await;
    assert_eq!((sim.connects().len(), sim.open().len()), (10, 10), "also what is held");
    // What was ready before counts for nothing now.
    sim.turn(&A, Failing).await;
    assert_eq!((sim.shares(), sim.connects().len()), (vec![], 13));
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_was_given_up_while_it_connected_has_ten_seconds_again() {
    let mut sim = Sim::new(three_tiers());
    sim.put(["a", "b", "c"].map(|zone| in_zone(zone, zone))).await;
    sim.turn(&["a"], Failing).await;
    assert_eq!(sim.connects(), ["a", "b"]);
    sim.turn(&["a"], Ready).await;
    sim.pass(Duration::from_secs(15 * 60)).await;
    assert_eq!(sim.connects(), ["a"]);
    sim.turn(&["a"], Failing).await;
    sim.pass(Duration::from_secs(9)).await;
    assert_eq!(sim.connects(), ["a", "b"]);
    sim.pass(Duration::from_secs(1)).await;
    assert_eq!(sim.connects(), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_about_to_shut_down_is_connected_to_only_while_nothing_is_up() {
    let mut sim = Sim::new(Selection::default().subset(1));
    sim.put(["a", "b"].map(|id| instance(id).with_state(InstanceState::Draining))).await;
    assert_eq!(sim.connects().len(), 1, "the subset is one");
    sim.put([instance("c")]).await;
    assert_eq!((sim.connects(), sim.open().len()), (vec!["c".to_owned()], 2), "it finishes its calls");
}

#[tokio::test(start_paused = true)]
async fn what_is_about_to_shut_down_has_no_share_beside_what_is_held() {
    let mut sim = Sim::new(Selection::default().subset(20));
    sim.put(["a", "b", "c"].map(instance)).await;
    sim.all_ready().await;
    sim.drain(&["c"]).await;
    sim.hold(&["a", "b"]).await;
    assert_eq!(sim.connects(), ["c"], "it may be needed");
    sim.turn(&["b"], Ejected).await;
    let shares: Vec<_> = sim.selector.shares().iter().map(|share| (share.list, share.part)).collect();
    assert_eq!(shares, [(List::UP, 1.0)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_held_keeps_its_connection_while_it_is_ejected() {
    let mut sim = Sim::new(Selection::default().subset(20));
    sim.put(["a", "b"].map(instance)).await;
    sim.all_ready().await;
    sim.hold(&["a", "b"]).await;
    sim.turn(&["a"], Ejected).await;
    assert_eq!(sim.open(), ["a", "b"]);
    sim.turn(&["a"], Pending).await;
    assert_eq!(sim.open(), ["b"]);
}

/// It is seen as ready between the update and what follows from that.
#[tokio::test(start_paused = true)]
async fn one_that_has_just_become_ready_when_it_is_held_keeps_its_connection() {
    let mut selector = Selector::new(Selection::default().subset(20), ServerKeys::default());
    let one = Arc::new(instance("a"));
    let (key, list) = (ServerKeys::default().of(&one), SortedById::from_iter([one]));
    selector.update(list.clone(), SortedById::new()).await;
    assert!(selector.place(&key).is_some_and(|placed| placed.connect));
    selector.update(SortedById::new(), list).await;
    selector.observe(&key, || Ready);
    selector.take_changed().await;
    assert!(selector.place(&key).is_some_and(|placed| !placed.connect));
}

/// What is selected of a hundred instances.
async fn selected(selector: &mut Selector) -> BTreeSet<usize> {
    let all = (0..100).map(|id| Arc::new(instance(&format!("i{id}"))));
    let keys: Vec<_> = all.clone().map(|instance| ServerKeys::default().of(&instance)).collect();
    selector.update(all.collect(), SortedById::new()).await;
    (0..100).filter(|id| selector.place(&keys[*id]).is_some()).collect()
}

#[tokio::test(start_paused = true)]
async fn without_a_seed_each_channel_has_a_subset_of_its_own_that_survives_a_change_of_the_selection() {
    let subset = || Selection::default().subset(20);
    let [mut one, mut other] =
        [subset(), subset()].map(|selection| Selector::new(selection, ServerKeys::default()));
    let (before, of_other) = (selected(&mut one).await, selected(&mut other).await);
    assert!(before.len() == 20 && before != of_other);
    one.set(subset().filter(|_| true), |_| Pending).await;
    assert_eq!(selected(&mut one).await, before);
}

/// As numbers of the computer's they are less: 1.4 * 1/7 + 1.4 * 4/7.
#[tokio::test(start_paused = true)]
async fn two_tiers_that_can_just_take_everything_are_enough() {
    let mut sim = Sim::new(three_tiers());
    let ids = |zone: &'static str| (0..7).map(move |id| format!("{zone}{id}"));
    let all = ["a", "b", "c"].into_iter().flat_map(|zone| ids(zone).map(move |id| in_zone(&id, zone)));
    sim.put(all).await;
    for (zone, ready) in [("a", 1), ("b", 4)] {
        for (number, id) in ids(zone).enumerate() {
            sim.turn(&[&id], if number < ready { Ready } else { Failing }).await;
        }
    }
    assert_eq!((sim.connects().len(), sim.shares()), (14, vec![20.0, 80.0]));
    // Nor has a tier what is left by rounding.
    sim.turn(&["a0"], Failing).await;
    sim.all_ready().await;
    sim.turn(&["a0"], Ready).await;
    assert_eq!((sim.connects().len(), sim.shares()), (21, vec![20.0, 80.0]));
}

/// The one that is due first, of several tiers.
#[tokio::test(start_paused = true)]
async fn a_tier_that_lingers_does_not_put_off_the_ten_seconds_of_another_one() {
    let mut sim = Sim::new(three_tiers());
    sim.put([in_zone("a", "a"), in_zone("b0", "b"), in_zone("b1", "b"), in_zone("c", "c")]).await;
    sim.turn(&["a"], Failing).await;
    sim.all_ready().await;
    sim.turn(&["a"], Ready).await;
    assert_eq!(sim.connects(), ["a", "b0", "b1"]);
    sim.turn(&["b1"], Failing).await;
    sim.turn(&["a"], Pending).await;
    sim.pass(Duration::from_secs(10)).await;
    assert_eq!(sim.connects(), ["a", "b0", "b1", "c"]);
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
    for condition in [Failing, Ejected] {
        sim.turn(&lost, condition).await;
        assert_eq!(sim.connects().len(), 7);
        sim.all_ready().await;
        sim.turn(&lost, Ready).await;
        assert_eq!(sim.connects(), chosen);
    }
    // All fail, and all in their place: there is a bound.
    for _ in 0..100 {
        let all = sim.connects();
        sim.turn(&all.iter().map(String::as_str).collect::<Vec<_>>(), Failing).await;
    }
    assert_eq!(sim.connects().len(), 25);
}

/// gRFC A56 lets calls wait for ten seconds.
#[tokio::test(start_paused = true)]
async fn with_other_tiers_the_connections_of_a_later_one_are_used_until_the_first_is_ready() {
    for set in [|selection| selection, Selection::strict_failover] {
        let mut sim = two_zones(Selection::default()).await;
        sim.select(set(Selection::default().prefer_zone("b"))).await;
        assert_eq!((sim.open().len(), sim.started), (14, 14));
        assert_eq!((sim.shares(), sim.selector.shares()[0].list), (vec![100.0], List::Tier(1)));
        sim.turn(&B, Ready).await;
        assert_eq!((sim.shares(), sim.selector.shares()[0].list), (vec![100.0], List::Tier(0)));
        // As after a failover.
        sim.pass(Duration::from_secs(15 * 60 - 1)).await;
        assert_eq!(sim.open().len(), 14);
        sim.pass(Duration::from_secs(1)).await;
        assert_eq!(sim.open(), B);
    }
}

#[tokio::test(start_paused = true)]
async fn with_other_tiers_a_later_one_is_connected_to_no_further_unless_it_is_needed() {
    let mut sim = two_zones(Selection::default().pick_first()).await;
    let chosen = sim.open();
    assert_eq!(chosen.len(), 1);
    sim.select(Selection::default().prefer_zone("b")).await;
    assert_eq!((sim.open().len(), sim.started), (5, 5));
    // One that joins is not connected to, and one that is lost is, whatever is known of it now.
    sim.put([in_zone(&chosen[0], "a").with_weight(7)]).await;
    sim.put([in_zone("a10", "a")]).await;
    sim.turn(&[&chosen[0]], Failing).await;
    assert_eq!((sim.connects().len(), sim.started), (5, 5));
    sim.pass(Duration::from_secs(10) - Duration::from_millis(1)).await;
    assert_eq!(sim.connects().len(), 5);
    sim.pass(Duration::from_millis(1)).await;
    assert_eq!(sim.connects().len(), 15);
}

#[tokio::test(start_paused = true)]
async fn with_other_tiers_each_tier_has_its_ten_seconds() {
    let mut sim = Sim::new(Selection::default().filter(|instance| instance.id().as_str() == "b0"));
    sim.put(["a", "b0", "b1", "c"].map(|id| in_zone(id, &id[..1]))).await;
    sim.all_ready().await;
    sim.select(three_tiers().strict_failover()).await;
    sim.turn(&["b0"], Failing).await;
    for expected in [&["a", "b0"][..], &["a", "b0", "b1"], &["a", "b0", "b1", "c"]] {
        assert_eq!(sim.connects(), expected);
        sim.pass(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_another_selection_what_is_held_or_ejected_keeps_its_connection_and_what_drains_is_left() {
    let mut sim = two_zones(Selection::default()).await;
    sim.hold(&A[..1]).await;
    sim.turn(&A[1..2], Ejected).await;
    sim.drain(&A[2..3]).await;
    sim.turn(&A[3..], Failing).await;
    let started = sim.started;
    sim.select(Selection::default().prefer_zone("b")).await;
    // Of zone b all, which is connected to by now.
    assert_eq!(sim.open(), ["a0", "a1", "a2", "b0", "b1", "b2", "b3"]);
    assert_eq!((sim.connects().len(), sim.started), (5, started));
    sim.pass(Duration::from_secs(60)).await;
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
            if random.u8(..50) == 0 {
                let zone = if random.bool() { "a" } else { "b" };
                sim.select(Selection::default().prefer_zone(zone).subset(random.usize(1..8))).await;
            }
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
