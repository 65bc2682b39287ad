//! The ring: the instances at the hashes of their ids.

use std::fmt::Write as _;
use std::sync::Arc;

use hither_core::{HasId, SortedById};
use twox_hash::XxHash64;

use crate::client::ready_instance::ReadyInstance;

/// The largest number of entries, as gRPC's, unless there are more instances: each has one at least.
const MAX_ENTRIES: f64 = 4096.0;
/// Into how many parts the ring is cut, so that a change copies little.
const PARTS_LOG: u32 = 8;
/// A part of one, in which weights are added up: exactly, so that all clients of a service have one ring.
const UNIT: f64 = 1024.0;

/// XXH64 with seed 0, as gRPC and Envoy have it.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// A version of the ring. A clone shares its parts.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    ready: SortedById<ReadyInstance>,
    /// The sum of the weights, in units.
    weight: u128,
    parts: Vec<Arc<Vec<Entry>>>,
}

/// Sorted by hash, then by id.
#[derive(Debug, Clone)]
struct Entry {
    hash: u64,
    instance: ReadyInstance,
}

/// How many entries an instance has.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scale {
    /// So many for a weight of one: a power of two, by which the sum of all is more than half of [`MAX_ENTRIES`]. It changes
    /// only when the sum of the weights passes a power of two: else an instance that leaves moves no other's calls.
    PerWeight(f64),
    /// All weights are zero.
    Equal(f64),
}

impl Default for Ring {
    fn default() -> Self {
        Self { ready: SortedById::new(), weight: 0, parts: vec![Arc::default(); 1 << PARTS_LOG] }
    }
}

impl Ring {
    /// Takes over the ready instances.
    pub(super) fn update(&mut self, ready: &SortedById<ReadyInstance>) {
        if ready.is_same(&self.ready) {
            return;
        }
        let before = std::mem::replace(&mut self.ready, ready.clone());
        let old_scale = Scale::of(self.weight, before.len());
        for (old, new) in ready.merge(&before) {
            self.weight -= old.map_or(0, units);
            self.weight += new.map_or(0, units);
        }
        let scale = Scale::of(self.weight, ready.len());
        if scale != old_scale {
            self.build(scale);
            return;
        }
        for (old, new) in ready.merge(&before) {
            if let (Some(old), Some(new)) = (old, new)
                && old.is_same(new)
            {
                continue;
            }
            old.into_iter().for_each(|old| self.remove(old, scale.entries(old)));
            new.into_iter().for_each(|new| self.insert(new, scale.entries(new)));
        }
    }

    fn build(&mut self, scale: Scale) {
        let mut parts = vec![Vec::new(); 1 << PARTS_LOG];
        for instance in &self.ready {
            for hash in hashes(instance, scale.entries(instance)) {
                parts[part(hash)].push(Entry { hash, instance: instance.clone() });
            }
        }
        // Stable: the instances came in the order of their ids.
        parts.iter_mut().for_each(|part| part.sort_by_key(|entry| entry.hash));
        self.parts = parts.into_iter().map(Arc::new).collect();
    }

    fn insert(&mut self, instance: &ReadyInstance, entries: u32) {
        for hash in hashes(instance, entries) {
            let part = Arc::make_mut(&mut self.parts[part(hash)]);
            let at = part.partition_point(|entry| (entry.hash, entry.instance.id()) < (hash, instance.id()));
            part.insert(at, Entry { hash, instance: instance.clone() });
        }
    }

    fn remove(&mut self, instance: &ReadyInstance, entries: u32) {
        for hash in hashes(instance, entries) {
            let part = Arc::make_mut(&mut self.parts[part(hash)]);
            let at = part.partition_point(|entry| (entry.hash, entry.instance.id()) < (hash, instance.id()));
            if part.get(at).is_some_and(|entry| entry.hash == hash && entry.instance.id() == instance.id()) {
                part.remove(at);
            }
        }
    }

    /// Returns the instances of all entries, once round the ring, from the first one at a hash or behind it.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = &ReadyInstance> {
        let first = part(hash);
        let here = &self.parts[first];
        let (before, behind) = here.split_at(here.partition_point(|entry| entry.hash < hash));
        let others = self.parts[first + 1..].iter().chain(&self.parts[..first]).flat_map(|part| part.iter());
        behind.iter().chain(others).chain(before).map(|entry| &entry.instance)
    }

    /// Returns the part of `slots` that an instance has by its weight, rounded up.
    pub(super) fn share(&self, instance: &ReadyInstance, slots: u128) -> u128 {
        match self.weight {
            // All are equal.
            0 => slots.div_ceil(self.ready.len().max(1) as u128),
            weight => slots.saturating_mul(units(instance)).div_ceil(weight),
        }
    }
}

impl Scale {
    fn of(weight: u128, instances: usize) -> Self {
        // The exponent of a number is exact.
        let per = |sum: f64| (MAX_ENTRIES / sum).log2().floor().exp2();
        match weight {
            0 => Self::Equal(per(instances.max(1) as f64)),
            _ => Self::PerWeight(per(weight as f64 / UNIT)),
        }
    }

    fn entries(self, instance: &ReadyInstance) -> u32 {
        match self {
            Self::Equal(each) => (each as u32).max(1),
            Self::PerWeight(_) if units(instance) == 0 => 0,
            Self::PerWeight(per) => ((units(instance) as f64 / UNIT * per).round() as u32).max(1),
        }
    }
}

fn units(instance: &ReadyInstance) -> u128 {
    (instance.weight() * UNIT).ceil() as u128
}

fn part(hash: u64) -> usize {
    (hash >> (u64::BITS - PARTS_LOG)) as usize
}

/// The hashes of `id_0`, `id_1` and so on: the first ones are the same however many there are.
fn hashes(instance: &ReadyInstance, entries: u32) -> impl Iterator<Item = u64> {
    let mut key = format!("{}_", instance.id());
    let prefix = key.len();
    (0..entries).map(move |number| {
        key.truncate(prefix);
        // A string takes everything.
        let _ = write!(key, "{number}");
        hash(key.as_bytes())
    })
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
        let mut ring = Ring::default();
        ring.update(ready);
        ring
    }

    fn equal(count: usize) -> SortedById<ReadyInstance> {
        (0..count).map(|id| instance(id, 1)).collect()
    }

    fn at(ring: &Ring, hash: u64) -> Option<&ReadyInstance> {
        ring.from(hash).next()
    }

    fn len(ring: &Ring) -> usize {
        ring.parts.iter().map(|part| part.len()).sum()
    }

    /// The reference values of xxHash.
    #[test]
    fn the_hash_is_xxh64_of_seed_0() {
        assert_eq!(hash(b""), 0xef46_db37_51d8_e999);
        assert_eq!(hash(b"a"), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(hash(b"abc"), 0x44bc_2cf5_ad77_0999);
    }

    #[test]
    fn the_next_entry_has_the_key_round_the_end_of_the_ring() {
        let ring = ring(&equal(3));
        let mut entries: Vec<_> = ring.parts.iter().flat_map(|part| part.iter()).collect();
        entries.sort_by_key(|entry| entry.hash);
        let mut random = fastrand::Rng::with_seed(1);
        let edges = entries.iter().flat_map(|entry| [entry.hash, entry.hash + 1, entry.hash - 1]);
        for hash in edges.chain([0, u64::MAX]).chain((0..1000).map(|_| random.u64(..))) {
            let expected = entries.iter().find(|entry| entry.hash >= hash).unwrap_or(&entries[0]);
            assert_eq!(at(&ring, hash), Some(&expected.instance), "{hash}");
            assert_eq!(ring.from(hash).count(), entries.len(), "once round the ring");
        }
        assert_eq!(at(&Ring::default(), 7), None);
    }

    #[test]
    fn the_ring_is_large_enough_and_each_instance_is_in_it() {
        for count in [1, 2, 3, 7, 100, 1023, 1024, 1025, 4096, 10_000] {
            let entries = len(&ring(&equal(count)));
            assert!((1025..=4096.max(count)).contains(&entries), "{count}: {entries}");
        }
        let weights = [u32::MAX, 1, 0, 1 << 30];
        let ready: SortedById<_> =
            weights.iter().enumerate().map(|(id, weight)| instance(id, *weight)).collect();
        let ring = ring(&ready);
        let of = |id: usize| {
            let entries = ring.parts.iter().flat_map(|part| part.iter());
            entries.filter(|entry| entry.instance == ready[id]).count()
        };
        assert_eq!((of(1), of(2)), (1, 0));
        assert!((3.9..4.1).contains(&(of(0) as f64 / of(3) as f64)));
    }

    #[test]
    fn one_that_leaves_moves_only_its_own_keys_and_one_that_joins_only_takes_some() {
        for count in [3, 10, 50, 200] {
            let mut ready = equal(count);
            let before = ring(&ready);
            let gone = ready[count / 2].clone();
            ready.remove(gone.id());
            let after = ring(&ready);
            if Scale::of(before.weight, count) != Scale::of(after.weight, count - 1) {
                continue;
            }
            let mut moved = 0;
            for key in 0..20_000_u32 {
                let hash = hash(&key.to_be_bytes());
                let (old, new) = (at(&before, hash).unwrap(), at(&after, hash).unwrap());
                assert_eq!(old == new, *old != gone, "{count}");
                moved += u32::from(old != new);
            }
            let share = f64::from(moved) * count as f64 / 20_000.0;
            assert!((0.5..1.6).contains(&share), "{share} of a fair share");
        }
    }

    #[test]
    fn shares_are_near_the_weights() {
        let ready: SortedById<_> =
            (0..10).map(|id| instance(id, 1 + u32::try_from(id).unwrap() % 3)).collect();
        let (ring, mut counts) = (ring(&ready), [0.0; 10]);
        for key in 0..100_000_u32 {
            let picked = at(&ring, hash(&key.to_be_bytes())).unwrap();
            counts[ready.position(picked.id()).unwrap()] += 1.0;
        }
        let total: f64 = ready.iter().map(ReadyInstance::weight).sum();
        for (count, instance) in counts.iter().zip(&ready) {
            let share = count / 100_000.0 / (instance.weight() / total);
            // Of 200 entries and more: their intervals deviate by 7 % of the sum, and five times that.
            assert!((0.65..1.35).contains(&share), "{share}: {counts:?}");
        }
    }

    #[test]
    fn random_changes_end_as_if_the_ring_was_built_anew() {
        for seed in 0..10 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut ready, mut changed) = (SortedById::<ReadyInstance>::new(), Ring::default());
            for _ in 0..60 {
                for _ in 0..random.usize(1..6) {
                    let new = instance(random.usize(..40), random.u32(..4));
                    match (ready.get(new.id()).cloned(), random.u8(..4)) {
                        (Some(known), 0) => drop(ready.remove(known.id())),
                        (Some(known), 1) => drop(ready.insert(known.with_factor(random.f64()))),
                        _ => drop(ready.insert(new)),
                    }
                }
                changed.update(&ready);
                let anew = ring(&ready);
                let entries = |ring: &Ring| {
                    let entries = ring.parts.iter().flat_map(|part| part.iter());
                    entries.map(|entry| (entry.hash, entry.instance.clone())).collect::<Vec<_>>()
                };
                let (changed, anew) = (entries(&changed), entries(&anew));
                assert_eq!(changed, anew, "seed {seed}");
                assert!(changed.iter().zip(&anew).all(|(a, b)| a.1.is_same(&b.1)), "an old description");
            }
        }
    }

    #[test]
    fn one_change_of_many_copies_little() {
        let mut ready = equal(50_000);
        let mut ring = ring(&ready);
        let before = ring.clone();
        ready.remove(instance(777, 1).id());
        ring.update(&ready);
        let copied = ring.parts.iter().zip(&before.parts).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(copied, 1);
    }
}
