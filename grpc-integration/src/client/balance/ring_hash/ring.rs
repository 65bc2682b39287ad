//! The ring: slots, each of which belongs to one instance.

use std::sync::Arc;

use hither_core::{HasId, SortedById};
use twox_hash::XxHash64;

use crate::client::balance::random;
use crate::client::ready_instance::ReadyInstance;

/// Into how many parts the ring is cut, so that a change copies little.
const PARTS_LOG: u32 = 8;
/// How many slots a part has: 16,384 are all, of which one of a hundred equal instances has 164, give or take 13.
const PART_LOG: u32 = 6;
/// A part of one, in which weights are added up: exactly, so that all clients of a service have one ring.
const UNIT: f64 = 1024.0;

/// XXH64 with seed 0, as gRPC and Envoy have it.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// A version of the ring. A clone shares its parts.
///
/// For each slot every instance draws a number by its id, and the least by weight has it (weighted rendezvous hashing). So one
/// that leaves gives up its own slots, one that joins takes its share of all, and nothing else moves, whatever the weights
/// are and however many instances there are. The ring of gRPC and Envoy has hashes of the instances in it; their number per
/// weight depends on all the others, or it has no bound.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    ready: SortedById<ReadyInstance>,
    /// Those that are being connected to. Of those that are ready, too, the ready one counts.
    awaited: SortedById<ReadyInstance>,
    /// The sum of the weights, in units.
    weight: u128,
    /// That of the ready ones.
    ready_weight: u128,
    /// All are empty while there is no instance.
    parts: Vec<Arc<Vec<Slot>>>,
}

#[derive(Debug, Clone)]
struct Slot {
    /// What its instance has drawn.
    drawn: f64,
    instance: ReadyInstance,
}

/// An instance that takes part in the draws.
#[derive(Debug, Clone)]
struct Drawer {
    instance: ReadyInstance,
    hash: u64,
    weight: f64,
}

impl Default for Ring {
    fn default() -> Self {
        let (ready, awaited) = (SortedById::new(), SortedById::new());
        Self { ready, awaited, weight: 0, ready_weight: 0, parts: vec![Arc::default(); 1 << PARTS_LOG] }
    }
}

impl Ring {
    /// Takes over the ready instances, and those that are being connected to. It works from what has changed.
    pub(super) fn update(&mut self, ready: &SortedById<ReadyInstance>, awaited: &SortedById<ReadyInstance>) {
        if ready.is_same(&self.ready) && awaited.is_same(&self.awaited) {
            return;
        }
        let ready_before = std::mem::replace(&mut self.ready, ready.clone());
        let awaited_before = std::mem::replace(&mut self.awaited, awaited.clone());
        let mut changes = Vec::new();
        for (old, new) in ready.merge(&ready_before) {
            self.ready_weight -= old.map_or(0, units);
            self.ready_weight += new.map_or(0, units);
            let Some(id) = new.or(old).map(HasId::id) else { continue };
            changes.push((old.or_else(|| awaited_before.get(id)), new.or_else(|| awaited.get(id))));
        }
        for (old, new) in awaited.merge(&awaited_before) {
            let Some(id) = new.or(old).map(HasId::id) else { continue };
            if ready_before.get(id).is_none() && ready.get(id).is_none() {
                changes.push((old, new));
            }
        }
        let had_weights = self.weight > 0;
        for (old, new) in &changes {
            self.weight -= old.map_or(0, units);
            self.weight += new.map_or(0, units);
        }
        if had_weights != (self.weight > 0) || (ready.is_empty() && awaited.is_empty()) {
            // Others take part.
            self.parts = Self::default().parts;
            self.drawers().iter().for_each(|drawer| self.draw(drawer));
            return;
        }
        let (mut changed, mut drawers) = (Vec::new(), Vec::new());
        for (old, new) in changes {
            if let (Some(old), Some(new)) = (old, new)
                && old.is_same(new)
            {
                continue;
            }
            let weights = [old, new].map(|known| known.map_or(0.0, |known| self.weight_of(known)));
            let new = new.and_then(|new| self.drawer(new));
            if let Some(old) = old {
                // A lighter one may lose its slots, as one that has left does.
                changed.push((old.version(), new.clone().filter(|_| weights[1] >= weights[0])));
            }
            drawers.extend(new.filter(|_| weights[1] > weights[0]));
        }
        changed.sort_unstable_by_key(|(old, _)| *old);
        self.replace(&changed);
        drawers.iter().for_each(|drawer| self.draw(drawer));
    }

    /// Gives the slots of those that have changed to what they are now, or, where that is nothing, to the next best.
    fn replace(&mut self, changed: &[(usize, Option<Drawer>)]) {
        if changed.is_empty() {
            return;
        }
        let mut all = None;
        let mut parts = std::mem::take(&mut self.parts);
        for (number, part) in parts.iter_mut().enumerate() {
            for at in 0..part.len() {
                let known = part[at].instance.version();
                let Ok(place) = changed.binary_search_by_key(&known, |(old, _)| *old) else { continue };
                let slot = slot(number, at);
                let taken = match &changed[place].1 {
                    Some(drawer) => Some(drawer.slot(slot)),
                    None => {
                        let all = all.get_or_insert_with(|| self.drawers());
                        all.iter().fold(None, |best, drawer| drawer.better(slot, best.as_ref()).or(best))
                    }
                };
                if let Some(taken) = taken {
                    Arc::make_mut(part)[at] = taken;
                }
            }
        }
        self.parts = parts;
    }

    /// Lets one draw for all slots.
    fn draw(&mut self, drawer: &Drawer) {
        for (number, part) in self.parts.iter_mut().enumerate() {
            if part.is_empty() {
                *part = Arc::new((0..1 << PART_LOG).map(|at| drawer.slot(slot(number, at))).collect());
                continue;
            }
            for at in 0..part.len() {
                if let Some(better) = drawer.better(slot(number, at), Some(&part[at])) {
                    Arc::make_mut(part)[at] = better;
                }
            }
        }
    }

    fn drawers(&self) -> Vec<Drawer> {
        let awaited = self.awaited.iter().filter(|instance| self.ready.get(instance.id()).is_none());
        self.ready.iter().chain(awaited).filter_map(|instance| self.drawer(instance)).collect()
    }

    fn drawer(&self, instance: &ReadyInstance) -> Option<Drawer> {
        let weight = self.weight_of(instance);
        let hash = hash(instance.id().as_str().as_bytes());
        (weight > 0.0).then(|| Drawer { instance: instance.clone(), hash, weight })
    }

    /// Where all weights are zero, all are equal.
    fn weight_of(&self, instance: &ReadyInstance) -> f64 {
        if self.weight == 0 { 1.0 } else { instance.weight() }
    }

    /// Returns the instances of all slots, once round the ring, from the one of a hash on.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = &ReadyInstance> {
        let slot = (hash >> (u64::BITS - PARTS_LOG - PART_LOG)) as usize;
        let (first, at) = (slot >> PART_LOG, slot % (1 << PART_LOG));
        let here = &self.parts[first];
        let (before, behind) = here.split_at(at.min(here.len()));
        let others = self.parts[first + 1..].iter().chain(&self.parts[..first]).flat_map(|part| part.iter());
        behind.iter().chain(others).chain(before).map(|slot| &slot.instance)
    }

    /// Returns any ready instance that takes a call: those of weight 0 only where all are. The number decides which.
    pub(super) fn any(&self, number: u64, takes: impl Fn(&ReadyInstance) -> bool) -> Option<&ReadyInstance> {
        let count = self.ready.len();
        let first = ((u128::from(number) * count as u128) >> u64::BITS) as usize;
        let mut all = (first..count).chain(0..first).filter_map(|index| self.ready.at(index));
        all.find(|instance| (self.ready_weight == 0 || instance.weight() > 0.0) && takes(instance))
    }

    /// Returns the part of `slots` that a ready instance has by its weight among those, rounded up.
    pub(super) fn share(&self, instance: &ReadyInstance, slots: u128) -> u128 {
        match self.ready_weight {
            // All are equal.
            0 => slots.div_ceil(self.ready.len().max(1) as u128),
            weight => slots.saturating_mul(units(instance)).div_ceil(weight),
        }
    }
}

impl Drawer {
    /// The slot, if it is this one's.
    fn slot(&self, slot: u64) -> Slot {
        Slot { drawn: -self.even(slot).ln() / self.weight, instance: self.instance.clone() }
    }

    /// The slot, if this one is better than the one that has it.
    fn better(&self, slot: u64, held: Option<&Slot>) -> Option<Slot> {
        let Some(held) = held else { return Some(self.slot(slot)) };
        // No logarithm is less than this, so nearly all need none.
        if 1.0 - self.even(slot) > held.drawn * self.weight {
            return None;
        }
        let own = self.slot(slot);
        let is_better =
            own.drawn < held.drawn || (own.drawn == held.drawn && own.instance.id() < held.instance.id());
        is_better.then_some(own)
    }

    /// A number that is even from zero to one; never zero.
    fn even(&self, slot: u64) -> f64 {
        ((random::at(self.hash, slot) >> 11) + 1) as f64 * (0.5_f64).powi(53)
    }
}

fn slot(part: usize, at: usize) -> u64 {
    ((part << PART_LOG) + at) as u64
}

fn units(instance: &ReadyInstance) -> u128 {
    (instance.weight() * UNIT).ceil() as u128
}

#[cfg(test)]
mod tests {
    use hither_core::Instance;

    use super::*;

    fn instance(id: usize, weight: u32) -> ReadyInstance {
        let instance = Instance::new("h:1".parse().unwrap()).with_id(format!("10.0.0.{id}").parse().unwrap());
        ReadyInstance::new(Arc::new(instance.with_weight(weight)))
    }

    fn ring(ready: &SortedById<ReadyInstance>) -> Ring {
        ring_beside(ready, &SortedById::new())
    }

    fn ring_beside(ready: &SortedById<ReadyInstance>, awaited: &SortedById<ReadyInstance>) -> Ring {
        let mut ring = Ring::default();
        ring.update(ready, awaited);
        ring
    }

    fn equal(count: usize) -> SortedById<ReadyInstance> {
        (0..count).map(|id| instance(id, 1)).collect()
    }

    fn at(ring: &Ring, hash: u64) -> Option<&ReadyInstance> {
        ring.from(hash).next()
    }

    const SLOTS: usize = 1 << (PARTS_LOG + PART_LOG);

    fn slots(ring: &Ring) -> Vec<&ReadyInstance> {
        ring.parts.iter().flat_map(|part| part.iter()).map(|slot| &slot.instance).collect()
    }

    /// The share of an instance in all slots, and in all weights.
    fn shares(ring: &Ring, instance: &ReadyInstance) -> (f64, f64) {
        let slots = slots(ring).iter().filter(|owner| **owner == instance).count();
        let total: f64 = ring.ready.iter().map(ReadyInstance::weight).sum();
        (slots as f64 / SLOTS as f64, instance.weight() / total)
    }

    /// Five standard deviations of what a share of all slots is off by.
    fn margin(share: f64) -> f64 {
        5.0 * (share * (1.0 - share) / SLOTS as f64).sqrt()
    }

    /// The reference values of xxHash.
    #[test]
    fn the_hash_is_xxh64_of_seed_0() {
        assert_eq!(hash(b""), 0xef46_db37_51d8_e999);
        assert_eq!(hash(b"a"), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(hash(b"abc"), 0x44bc_2cf5_ad77_0999);
    }

    #[test]
    fn a_walk_goes_once_round_the_ring_from_the_slot_of_the_key() {
        let ring = ring(&equal(3));
        let slots = slots(&ring);
        assert_eq!(slots.len(), SLOTS);
        let mut random = fastrand::Rng::with_seed(1);
        for hash in [0, 1, u64::MAX].into_iter().chain((0..1000).map(|_| random.u64(..))) {
            let first = usize::try_from((u128::from(hash) * SLOTS as u128) >> 64).unwrap();
            let walk: Vec<_> = ring.from(hash).collect();
            assert!(walk.iter().eq(slots[first..].iter().chain(&slots[..first])), "{hash}");
        }
        assert_eq!(at(&Ring::default(), 7), None);
    }

    #[test]
    fn shares_are_the_weights_whatever_their_scale_and_the_ring_never_grows() {
        for weights in [
            &[1; 40][..],
            &[1, 2, 3, 4, 0],
            &[0; 7],
            &[u32::MAX, 1, 0, 1 << 30],
            &[1000, 1000, 10],
            &[1; 300],
        ] {
            let ready: SortedById<_> =
                weights.iter().enumerate().map(|(id, weight)| instance(id, *weight)).collect();
            let built = ring(&ready);
            assert_eq!(slots(&built).len(), SLOTS);
            for instance in &ready {
                let (slots, weights) = shares(&built, instance);
                let expected = if weights.is_nan() { 1.0 / ready.len() as f64 } else { weights };
                assert!((slots - expected).abs() <= margin(expected), "{slots}, not {expected}: {weights}");
            }
            // Of less than a unit, too.
            for factor in [0.1, 1e-6] {
                let fewer = ready.iter().map(|instance| instance.with_factor(factor)).collect();
                assert_eq!(slots(&ring(&fewer)), slots(&built), "{factor}");
            }
        }
    }

    /// Of 17 equal instances to 16 half of all keys moved, and so where any sum of weights passed a power of two.
    #[test]
    fn one_that_joins_leaves_or_changes_its_weight_moves_its_own_share_and_no_other_key() {
        let mut random = fastrand::Rng::with_seed(1);
        let equal = (1..=40).map(|count| vec![1; count]);
        let mixed = (0..16).map(|round| {
            let most = [3, 10, 1000, u32::MAX][round % 4];
            (0..random.usize(1..40)).map(|_| random.u32(1..=most)).collect()
        });
        let mut before = Ring::default();
        for weights in equal.chain(mixed).collect::<Vec<Vec<_>>>() {
            let without: SortedById<_> =
                weights.iter().enumerate().map(|(id, weight)| instance(id, *weight)).collect();
            before.update(&without, &SortedById::new());
            let joins = instance(weights.len(), weights[weights.len() / 2]);
            let halved = joins.with_factor(0.5);
            let [with, lighter] = [&joins, &halved].map(|joins| {
                let (mut ready, mut ring) = (without.clone(), before.clone());
                ready.insert(joins.clone());
                ring.update(&ready, &SortedById::new());
                ring
            });
            let [old, between, new] = [&before, &lighter, &with].map(slots);
            assert!(old.iter().zip(&new).all(|(old, new)| old == new || **new == joins), "{weights:?}");
            // Half of its weight is a part of these.
            let all = between.iter().zip(old.iter().zip(&new));
            assert!(all.into_iter().all(|(between, (old, new))| between == old || between == new));
            for (ring, joins) in [(&with, &joins), (&lighter, &halved)] {
                let (slots, share) = shares(ring, joins);
                assert!((slots - share).abs() <= margin(share), "{slots}, not {share}: {weights:?}");
            }
            let mut left = with.clone();
            left.update(&without, &SortedById::new());
            assert_eq!(slots(&left), old);
        }
    }

    /// One random change of a list.
    fn change(list: &mut SortedById<ReadyInstance>, random: &mut fastrand::Rng, weight: u32) {
        let new = instance(random.usize(..12), weight);
        match (list.get(new.id()).cloned(), random.u8(..5)) {
            (Some(known), 0) => drop(list.remove(known.id())),
            (Some(known), 1) => drop(list.insert(known.with_factor(random.f64()))),
            (Some(known), 2) => drop(list.insert(known.described_as(Arc::clone(new.instance())))),
            (Some(known), 3) => {
                // A server has another id now.
                list.remove(known.id());
                let other = instance(random.usize(..12), 1);
                list.insert(known.described_as(Arc::clone(other.instance())));
            }
            _ => drop(list.insert(new)),
        }
    }

    #[test]
    fn random_changes_end_as_if_the_ring_was_built_anew() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut ready, mut awaited) = (SortedById::new(), SortedById::<ReadyInstance>::new());
            let mut changed = Ring::default();
            for round in 0..40 {
                for _ in 0..random.usize(1..6) {
                    // For some rounds all are zero, or nothing is left.
                    let weight = if round % 10 == 9 { 0 } else { random.u32(..4) };
                    // Of some seeds all are ready.
                    if seed % 4 > 0 && random.bool() {
                        change(&mut awaited, &mut random, weight);
                        if random.bool()
                            && let Some(connected) = awaited.at(random.usize(..12))
                        {
                            // It has another description, perhaps.
                            ready.insert(instance_like(connected, random.bool()));
                            if random.bool() {
                                let id = connected.id().clone();
                                awaited.remove(&id);
                            }
                        }
                    } else {
                        change(&mut ready, &mut random, weight);
                    }
                }
                match round % 10 {
                    // After weights, and after none.
                    4 => (ready, awaited) = (SortedById::new(), SortedById::new()),
                    9 if seed % 2 == 0 => ready = SortedById::new(),
                    8 => {
                        let weightless = |known: &ReadyInstance| known.with_factor(0.0);
                        ready = ready.iter().map(weightless).collect();
                        awaited = awaited.iter().map(weightless).collect();
                    }
                    _ => {}
                }
                changed.update(&ready, &awaited);
                let anew = ring_beside(&ready, &awaited);
                let weights = |ring: &Ring| (ring.weight, ring.ready_weight);
                assert_eq!(weights(&changed), weights(&anew), "seed {seed}, round {round}");
                // And as if all were ready.
                let all = awaited.iter().chain(&ready).cloned().collect();
                for anew in [anew, ring(&all)] {
                    let (changed, anew) = (slots(&changed), slots(&anew));
                    assert_eq!(changed, anew, "seed {seed}, round {round}");
                    assert!(changed.iter().zip(&anew).all(|(a, b)| a.is_same(b)), "an old description");
                }
            }
        }
    }

    /// Another one with the same id.
    fn instance_like(known: &ReadyInstance, same_weight: bool) -> ReadyInstance {
        let instance = Arc::clone(known.instance());
        let ready = ReadyInstance::new(instance);
        if same_weight { ready } else { ready.with_factor(0.5) }
    }

    /// Where two ids have one hash: or the order in which a client has seen them would decide.
    #[test]
    fn of_two_that_draw_the_same_the_first_by_id_has_the_slot() {
        let [first, second] = [1, 2].map(|id| Drawer { instance: instance(id, 1), hash: 7, weight: 1.0 });
        for slot in 0..1000 {
            let [held, taken] = [&first, &second].map(|drawer| drawer.slot(slot));
            assert!(second.better(slot, Some(&held)).is_none());
            assert_eq!(first.better(slot, Some(&taken)).unwrap().instance, first.instance);
        }
    }

    #[test]
    fn of_those_that_are_connected_to_no_slot_moves_when_they_are_ready() {
        let all = equal(20);
        let before = ring_beside(&SortedById::new(), &all);
        let [mut ready, mut awaited] = [SortedById::new(), all.clone()];
        let (mut ring, ids) = (before.clone(), all.iter().map(|one| one.id().clone()));
        for id in ids {
            let connected = instance_like(&awaited.remove(&id).unwrap(), true);
            ready.insert(connected.clone());
            let slots_of = |ring: &Ring, id| {
                let slots = slots(ring);
                (0..SLOTS).filter(|slot| slots[*slot].id() == id).collect::<Vec<_>>()
            };
            ring.update(&ready, &awaited);
            assert_eq!(slots_of(&ring, &id), slots_of(&before, &id));
            assert_eq!(
                ring.share(&connected, 60),
                60 / ready.len() as u128 + u128::from(60 % ready.len() > 0)
            );
        }
        assert_eq!(slots(&ring).len(), SLOTS);
    }

    #[test]
    fn one_change_of_many_copies_little() {
        let mut ready = equal(500);
        let mut ring = ring(&ready);
        let before = ring.clone();
        ready.remove(instance(77, 1).id());
        ring.update(&ready, &SortedById::new());
        let copied = ring.parts.iter().zip(&before.parts).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        // It had 33 slots or so.
        assert!((10..60).contains(&copied), "{copied}");
    }
}
