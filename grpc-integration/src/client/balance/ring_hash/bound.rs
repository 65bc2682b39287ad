//! Bounded loads: an instance that has too many calls for its share is passed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ring::Ring;
use crate::client::ready_instance::{Picked, ReadyInstance};

/// How many slots a pick looks at at most. Where all instances are at their bound, 125 % leaves none of so many without room; only calls
/// that are counted elsewhere, as those of other lanes, can take all of it.
pub(super) const LOOKS: usize = 256;

/// The bound of each instance, and the calls in flight that it is computed from.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    percent: u32,
    /// Those that were picked here, also where another instance has taken them. Kept by the calls themselves: adding up all instances for each would cost more with each
    /// instance.
    calls: Arc<AtomicUsize>,
}

impl Bound {
    pub(super) fn new(percent: u32) -> Self {
        Self { percent, calls: Arc::default() }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match self.percent {
            ..100 => Err(format!("the balance_factor of RingHash is {} %, which is below 100", self.percent)),
            _ => Ok(()),
        }
    }

    /// Returns the first instance from a hash on that takes calls and has room for one more, or else the first one that takes
    /// calls.
    pub(super) fn find<'a>(
        &self,
        ring: &'a Ring,
        hash: u64,
        takes: impl Fn(&ReadyInstance) -> bool,
    ) -> Option<&'a ReadyInstance> {
        let slots = self.slots();
        let has_room =
            |instance: &&ReadyInstance| (instance.in_flight() as u128) < ring.share(instance, slots);
        let all = || ring.from(hash).take(LOOKS).filter(|instance| takes(instance));
        all().find(has_room).or_else(|| all().next())
    }

    /// Counts a call, wherever it goes.
    pub(super) fn count(&self, picked: Picked) -> Picked {
        picked.counted_in(&self.calls)
    }

    /// How many calls all instances have room for, this one included.
    fn slots(&self) -> u128 {
        let calls = self.calls.load(Ordering::Relaxed) as u128 + 1;
        (calls * u128::from(self.percent)).div_ceil(100)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hither_core::{HasId, Instance, InstanceId, SortedById};

    use super::super::ring::hash;
    use super::*;
    use crate::client::ready_instance::InFlight;

    fn ready(weights: impl IntoIterator<Item = u32>) -> SortedById<ReadyInstance> {
        let instance = |(number, weight)| {
            let id = format!("10.0.0.{number}").parse().unwrap();
            let instance = Instance::new("h:1".parse().unwrap()).with_id(id).with_weight(weight);
            ReadyInstance::new(Arc::new(instance))
        };
        weights.into_iter().enumerate().map(instance).collect()
    }

    fn ring(ready: &SortedById<ReadyInstance>) -> Ring {
        let mut ring = Ring::default();
        ring.update(ready, &SortedById::new());
        ring
    }

    fn call(bound: &Bound, ring: &Ring, key: u64) -> InFlight {
        bound.count(bound.find(ring, key, |_| true).unwrap().clone().into()).started()
    }

    fn home(ring: &Ring, key: u64) -> InstanceId {
        ring.from(key).next().unwrap().id().clone()
    }

    fn at(call: &InFlight) -> InstanceId {
        call.picked().instance().id().clone()
    }

    /// The published formula: ceil(c * m / n), where m has the call that is placed.
    #[test]
    fn each_instance_has_room_for_its_share_of_all_calls_rounded_up() {
        let (equal, weighted, weightless) = (ready([1; 4]), ready([1, 3, 0]), ready([0; 2]));
        let halved = weighted.iter().map(|instance| instance.with_factor(0.5)).collect();
        for (percent, calls, ready, expected) in [
            (100, 0, &equal, &[1, 1, 1, 1][..]),
            (100, 8, &equal, &[3, 3, 3, 3]),
            (150, 8, &equal, &[4, 4, 4, 4]),
            (125, 15, &equal, &[5, 5, 5, 5]),
            (100, 7, &weighted, &[2, 6, 0]),
            (200, 7, &weighted, &[4, 12, 0]),
            (100, 7, &halved, &[2, 6, 0]),
            (100, 4, &weightless, &[3, 3]),
            (u32::MAX, usize::MAX - 1, &weightless, &[]),
        ] {
            let (ring, bound) = (ring(ready), Bound::new(percent));
            bound.calls.store(calls, Ordering::Relaxed);
            let rooms: Vec<_> = ready.iter().map(|instance| ring.share(instance, bound.slots())).collect();
            assert!(expected.is_empty() || rooms == expected, "{percent} % of {calls}: {rooms:?}");
        }
    }

    #[test]
    fn random_calls_never_exceed_the_bound_and_stay_at_home_where_there_is_room() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(1..12);
            let ready = ready((0..count).map(|_| random.u32(1..4)));
            let (ring, bound) = (ring(&ready), Bound::new(random.u32(100..300)));
            let mut calls = Vec::new();
            for _ in 0..400 {
                if random.u8(..3) == 0 && !calls.is_empty() {
                    drop(calls.swap_remove(random.usize(..calls.len())));
                    continue;
                }
                // One key in two is hot.
                let key = hash(&[if random.bool() { 0 } else { random.u8(..) }]);
                let slots = bound.slots();
                let room = |instance: &ReadyInstance| {
                    ring.share(instance, slots).saturating_sub(instance.in_flight() as u128)
                };
                let expected = ring.from(key).find(|next| room(next) > 0).expect("one has room");
                let call = call(&bound, &ring, key);
                assert_eq!(at(&call), *expected.id(), "the first that has room");
                calls.push(call);
                assert_eq!(bound.calls.load(Ordering::Relaxed), calls.len());
            }
            drop(calls);
            assert_eq!(bound.calls.load(Ordering::Relaxed), 0);
            assert!(ready.iter().all(|instance| instance.in_flight() == 0));
        }
    }

    #[test]
    fn one_hot_key_spreads_and_the_others_keep_their_place() {
        let ready = ready([1; 10]);
        let (ring, bound, hot) = (ring(&ready), Bound::new(150), hash(b"hot"));
        let mut calls = Vec::new();
        let (mut kept, mut others) = (0, 0);
        for number in 0..2000_u32 {
            if number % 4 == 0 {
                calls.push(call(&bound, &ring, hot));
                continue;
            }
            // Of the keys of all other instances, evenly: none of those has more than its share.
            let key = (0..).map(|try_| hash(&[number.to_be_bytes(), u32::to_be_bytes(try_)].concat()));
            let turn = &ready[number as usize % 10];
            let key = key.into_iter().find(|key| home(&ring, *key) == *turn.id()).unwrap();
            let call = call(&bound, &ring, key);
            others += 1;
            kept += u32::from(at(&call) == home(&ring, key));
            calls.push(call);
        }
        let mut of_hot = BTreeMap::<_, usize>::new();
        calls.iter().step_by(4).for_each(|call| *of_hot.entry(at(call)).or_default() += 1);
        // A quarter of all calls: more than one server may have, and less than three.
        assert!((2..=5).contains(&of_hot.len()), "{of_hot:?}");
        let most = ready.iter().map(ReadyInstance::in_flight).max().unwrap();
        assert_eq!(most, 300, "150 % of 2000 calls on ten");
        assert!(f64::from(kept) / f64::from(others) > 0.8, "{kept} of {others}");
    }

    #[test]
    fn a_call_goes_home_if_none_of_the_next_entries_has_room() {
        let ready = ready([1; 1000]);
        let (ring, bound) = (ring(&ready), Bound::new(125));
        let key = (0..).find(|key| {
            let key = hash(&u32::to_be_bytes(*key));
            ring.from(key).take(LOOKS).all(|one| *one != ready[0])
        });
        let key = hash(&u32::to_be_bytes(key.unwrap()));
        // Which are not counted here, so that no other has room.
        let others = ready.iter().skip(1);
        let _calls: Vec<_> = others.map(|one| Picked::from(one.clone()).started()).collect();
        assert_eq!(at(&call(&bound, &ring, key)), home(&ring, key));
        let key = (0..).map(|key| hash(&u32::to_be_bytes(key))).find(|key| {
            let looked_at = ring.from(*key).take(LOOKS).position(|one| *one == ready[0]);
            looked_at.is_some_and(|place| place > LOOKS / 2)
        });
        assert_eq!(at(&call(&bound, &ring, key.unwrap())), *ready[0].id());
    }

    #[test]
    fn a_pick_looks_at_few_entries_where_all_are_loaded() {
        let ready = ready([1; 300]);
        let (ring, bound) = (ring(&ready), Bound::new(125));
        let mut random = fastrand::Rng::with_seed(1);
        // Kept up for as long as there are calls, and that many each has room for.
        let mut calls: Vec<_> = (0..20_000).map(|_| call(&bound, &ring, random.u64(..))).collect();
        let mut looks = 0;
        for _ in 0..1000 {
            calls.swap_remove(random.usize(..calls.len()));
            let (key, slots) = (random.u64(..), bound.slots());
            let has_room = |one: &ReadyInstance| (one.in_flight() as u128) < ring.share(one, slots);
            looks += 1 + ring.from(key).position(has_room).unwrap();
            calls.push(call(&bound, &ring, key));
        }
        assert!(looks < 5 * 1000, "{looks}");
    }
}
