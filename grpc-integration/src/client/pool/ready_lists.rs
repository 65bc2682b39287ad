//! The ready instances, in a list for each tier; and those of several tiers in one, so that each tier gets its share.

use std::collections::BTreeMap;

use hither_core::SortedById;
use tokio::task::coop::consume_budget;

use crate::client::ready_instance::ReadyInstance;
use crate::client::selection::{List, Share};

/// By how much the share of a tier may be off. Within that a change of one instance changes no weight of another, so that
/// it costs what it does without tiers.
const TOLERANCE: f64 = 0.01;

/// The ready instances. Of those with the same id in one list there is the last.
#[derive(Debug, Default)]
pub(super) struct ReadyLists {
    /// None is empty.
    lists: BTreeMap<List, SortedById<ReadyInstance>>,
    /// The empty list, always the same one.
    none: SortedById<ReadyInstance>,
    mix: Mix,
}

/// The ready instances of several tiers, with their weights multiplied by one factor for each tier. Empty while one tier
/// gets all calls.
#[derive(Debug, Default)]
struct Mix {
    factors: BTreeMap<List, f64>,
    instances: SortedById<ReadyInstance>,
}

impl ReadyLists {
    pub(super) fn insert(&mut self, list: List, instance: &ReadyInstance) {
        self.lists.entry(list).or_default().insert(instance.clone());
        if let Some(factor) = self.mix.factors.get(&list) {
            self.mix.instances.insert(scaled(instance, *factor));
        }
    }

    pub(super) fn remove(&mut self, list: List, instance: &ReadyInstance) {
        let id = instance.instance().id();
        // The id may be that of another server since.
        let is_same = |ready: &SortedById<ReadyInstance>| ready.get(id) == Some(instance);
        if let Some(ready) = self.lists.get_mut(&list)
            && is_same(ready)
        {
            ready.remove(id);
            if ready.is_empty() {
                self.lists.remove(&list);
            }
        }
        if is_same(&self.mix.instances) {
            self.mix.instances.remove(id);
        }
    }

    /// Returns those about to shut down.
    pub(super) fn draining(&self) -> SortedById<ReadyInstance> {
        self.lists.get(&List::Draining).cloned().unwrap_or_else(|| self.none.clone())
    }

    /// Returns how many are ready.
    pub(super) fn len(&self) -> usize {
        self.lists.values().map(SortedById::len).sum()
    }

    /// Returns the instances that can be called: those of the tiers that have a share of the calls, with weights by which
    /// each tier gets its share. If there are none, those of the first tier that has any; those about to shut down only
    /// if there is no other.
    pub(super) async fn callable(&mut self, shares: &[Share]) -> SortedById<ReadyInstance> {
        if shares.len() > 1 && shares.iter().all(|share| self.lists.contains_key(&share.list)) {
            return self.mixed(shares).await;
        }
        self.unmix().await;
        let sole = shares.iter().find_map(|share| self.lists.get(&share.list));
        sole.or_else(|| self.lists.values().next()).cloned().unwrap_or_default()
    }

    async fn mixed(&mut self, shares: &[Share]) -> SortedById<ReadyInstance> {
        if !self.is_mixed(shares) {
            self.unmix().await;
            let factors = factors(shares);
            for (list, factor) in &factors {
                for instance in self.lists.get(list).into_iter().flatten() {
                    consume_budget().await;
                    self.mix.instances.insert(scaled(instance, *factor));
                }
            }
            self.mix.factors = factors;
        }
        self.mix.instances.clone()
    }

    async fn unmix(&mut self) {
        self.mix.factors.clear();
        std::mem::take(&mut self.mix.instances).discard().await;
    }

    /// Whether the present factors give each tier its share.
    fn is_mixed(&self, shares: &[Share]) -> bool {
        let present =
            |share: &Share| self.mix.factors.get(&share.list).map_or(0.0, |factor| factor * share.weight);
        let whole: f64 = shares.iter().map(present).sum();
        shares.len() == self.mix.factors.len()
            && shares.iter().all(|share| (present(share) / whole - share.part).abs() <= TOLERANCE)
    }
}

/// What the weights of each tier are to be multiplied by: 1 at most, for there is a bound above and none below.
fn factors(shares: &[Share]) -> BTreeMap<List, f64> {
    let for_one = |share: &Share| share.part / share.weight;
    let most = shares.iter().map(for_one).fold(0.0, f64::max);
    shares.iter().map(|share| (share.list, for_one(share) / most)).collect()
}

fn scaled(instance: &ReadyInstance, factor: f64) -> ReadyInstance {
    if factor == 1.0 { instance.clone() } else { instance.with_factor(factor) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use hither_core::Instance;

    use super::*;

    const A: List = List::Tier(0);
    const B: List = List::Tier(1);
    const C: List = List::Tier(2);

    fn ready(id: &str, weight: u32) -> ReadyInstance {
        let instance = Instance::new("h:1".parse().unwrap()).with_id(id.parse().unwrap());
        ReadyInstance::new(Arc::new(instance.with_weight(weight)))
    }

    fn callable(lists: &mut ReadyLists, shares: &[(List, f64)]) -> SortedById<ReadyInstance> {
        let share = |(list, part): &(List, f64)| {
            let ready = lists.lists.get(list).into_iter().flatten();
            Share { list: *list, part: *part, weight: ready.map(ReadyInstance::weight).sum() }
        };
        let shares: Vec<_> = shares.iter().map(share).collect();
        lists.callable(&shares).now_or_never().unwrap()
    }

    /// The part of the weight that the instances have whose id begins so.
    fn share(instances: &SortedById<ReadyInstance>, tier: &str) -> f64 {
        let weight = |tier: &str| -> f64 {
            let these = instances.iter().filter(|one| one.instance().id().as_str().starts_with(tier));
            these.map(ReadyInstance::weight).sum()
        };
        weight(tier) / weight("")
    }

    #[test]
    fn weights_give_each_tier_its_share() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut lists = ReadyLists::default();
        for number in 0..50 {
            lists.insert(A, &ready(&format!("a{number}"), random.u32(1..9)));
            lists.insert(B, &ready(&format!("b{number}"), random.u32(..4)));
        }
        for percent in [70.0, 1.0, 99.0, 50.0] {
            let part = percent / 100.0;
            let mixed = callable(&mut lists, &[(A, part), (B, 1.0 - part)]);
            assert_eq!(mixed.len(), 100);
            assert!((share(&mixed, "a") - part).abs() < 1e-9);
        }
        // What is in the first has no weight, perhaps. Afterwards it is as before.
        let alone = callable(&mut lists, &[(B, 1.0)]);
        assert_eq!((alone.len(), share(&alone, "b")), (50, 1.0));
        let mixed = callable(&mut lists, &[(A, 0.5), (B, 0.5)]);
        assert_eq!(mixed.len(), 100);
    }

    fn three_tiers() -> ReadyLists {
        let mut lists = ReadyLists::default();
        for (list, id) in [(A, "a"), (B, "b"), (C, "c")] {
            lists.insert(list, &ready(id, 1));
        }
        lists
    }

    #[test]
    fn a_tier_that_has_no_share_any_more_is_left_out() {
        let mut lists = three_tiers();
        assert_eq!(callable(&mut lists, &[(A, 0.5), (B, 0.3), (C, 0.2)]).len(), 3);
        // The shares of the others are to each other as before.
        let two = callable(&mut lists, &[(A, 0.625), (B, 0.375)]);
        assert_eq!((two.len(), share(&two, "c")), (2, 0.0));
    }

    #[test]
    fn a_share_that_is_short_by_what_several_have_too_much_is_corrected() {
        let mut lists = three_tiers();
        callable(&mut lists, &[(A, 0.5), (B, 0.3), (C, 0.2)]);
        let mixed = callable(&mut lists, &[(A, 0.515), (B, 0.2925), (C, 0.1925)]);
        assert!((share(&mixed, "a") - 0.515).abs() < 1e-9, "{}", share(&mixed, "a"));
    }

    /// A server's address has changed: another one is connected to before the first is given up.
    #[test]
    fn one_whose_id_another_server_has_by_now_takes_nothing_along() {
        let (old, new) = (ready("a", 1), ready("a", 1));
        for shares in [&[][..], &[(A, 0.7), (B, 0.3)]] {
            let mut lists = ReadyLists::default();
            lists.insert(B, &ready("b", 1));
            lists.insert(A, &old);
            callable(&mut lists, shares);
            lists.insert(A, &new);
            lists.remove(A, &old);
            assert!(callable(&mut lists, shares).get(new.instance().id()) == Some(&new), "{shares:?}");
            lists.remove(A, &new);
            assert!(callable(&mut lists, shares).get(new.instance().id()).is_none(), "{shares:?}");
        }
    }

    /// Weights are numbers of the registry's: bytes in one zone, and one each in the other.
    #[test]
    fn weights_of_any_size_give_each_tier_its_share() {
        for (near, far) in [(1, u32::MAX), (u32::MAX, 1)] {
            let mut lists = ReadyLists::default();
            lists.insert(A, &ready("a", near));
            lists.insert(B, &ready("b", far));
            let mixed = callable(&mut lists, &[(A, 0.7), (B, 0.3)]);
            assert!((share(&mixed, "a") - 0.7).abs() < 1e-9, "{}", share(&mixed, "a"));
        }
    }

    #[test]
    fn random_changes_keep_the_shares_within_the_tolerance() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut lists = ReadyLists::default();
        let mut known = BTreeMap::<String, (List, ReadyInstance)>::new();
        for _ in 0..5000 {
            let list = [A, B][random.usize(..2)];
            let id = format!("{}{}", if list == A { "a" } else { "b" }, random.u8(..100));
            if let Some((list, old)) = known.remove(&id) {
                lists.remove(list, &old);
            }
            if random.u8(..3) > 0 {
                let new = ready(&id, random.u32(1..4));
                lists.insert(list, &new);
                known.insert(id, (list, new));
            }
            let mixed = callable(&mut lists, &[(A, 0.7), (B, 0.3)]);
            let is_in = |list: List| known.values().any(|(known, _)| *known == list);
            if is_in(A) && is_in(B) {
                assert!((share(&mixed, "a") - 0.7).abs() <= TOLERANCE + 1e-9, "{}", share(&mixed, "a"));
                assert_eq!(mixed.len(), known.len());
            }
        }
    }

    #[test]
    fn a_change_of_one_instance_weighs_no_other_anew() {
        let mut lists = ReadyLists::default();
        for number in 0..1000 {
            lists.insert(A, &ready(&format!("a{number}"), 1));
            lists.insert(B, &ready(&format!("b{number}"), 1));
        }
        let before = callable(&mut lists, &[(A, 0.7), (B, 0.3)]);
        lists.insert(A, &ready("a7", 2));
        let after = callable(&mut lists, &[(A, 0.709), (B, 0.291)]);
        let changed = after.merge(&before).filter(|(a, b)| !a.unwrap().is_same(b.unwrap())).count();
        assert_eq!(changed, 1);
        let after = callable(&mut lists, &[(A, 0.72), (B, 0.28)]);
        assert!((share(&after, "a") - 0.72).abs() < 1e-9);
    }

    #[test]
    fn a_tier_without_ready_instances_leaves_its_share_to_the_others() {
        let mut lists = ReadyLists::default();
        let b = ready("b", 1);
        lists.insert(B, &b);
        lists.insert(List::Draining, &ready("d", 1));
        assert_eq!(callable(&mut lists, &[(A, 0.7), (B, 0.3)])[0].instance().id().as_str(), "b");
        assert_eq!(callable(&mut lists, &[])[0].instance().id().as_str(), "b");
        lists.remove(B, &b);
        assert_eq!(callable(&mut lists, &[(A, 0.7), (B, 0.3)])[0].instance().id().as_str(), "d");
    }
}
