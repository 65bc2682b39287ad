//! Draws in proportion to the weights in force.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use hither_core::{HasId, SortedById};

use crate::client::ready_instance::ReadyInstance;

/// How often a draw is repeated. Each succeeds with one half at least, so this is never reached but where an instance of
/// nearly no weight is alone in its class.
const TRIES: usize = 64;

/// The ready instances by weight, kept up with each change of one.
///
/// They are in classes, each up to a power of two. A draw takes a class by its size and its bound, any instance in it, and
/// accepts that with what its weight is of the bound: at least half. So neither a draw nor a change depends on the number
/// of instances or on how much weights differ. (A static stride, as in gRPC, passes over so many instances for a call as
/// the largest weight has of the mean; a table for draws is made anew for each change.)
///
/// While all weights are equal, which is nearly always, there are no classes.
#[derive(Debug, Clone)]
pub(super) struct Weighted<T> {
    list: SortedById<T>,
    /// How many there are of each weight.
    weights: BTreeMap<u64, usize>,
    /// Empty while there is one weight.
    classes: BTreeMap<u64, SortedById<T>>,
}

impl<T> Default for Weighted<T> {
    fn default() -> Self {
        Self { list: SortedById::new(), weights: BTreeMap::new(), classes: BTreeMap::new() }
    }
}

impl<T: AsRef<ReadyInstance> + Clone + HasId> Weighted<T> {
    /// Takes over a list. Returns what to draw from, `None` if all weights are equal.
    pub(super) fn update(&mut self, list: &SortedById<T>) -> Option<Draws<T>> {
        let before = std::mem::replace(&mut self.list, list.clone());
        if list.is_same(&before) {
            return self.draws();
        }
        for (old, new) in list.merge(&before) {
            let [old, new] = [old, new].map(|element| element.map(weight));
            if old == new {
                continue;
            }
            if let Some(Entry::Occupied(mut count)) = old.map(|old| self.weights.entry(old.to_bits())) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            if let Some(new) = new {
                *self.weights.entry(new.to_bits()).or_default() += 1;
            }
        }
        if self.weights.len() <= 1 {
            self.classes.clear();
            return None;
        }
        if self.classes.is_empty()
            && let Some(any) = before.at(0)
        {
            // All had this weight.
            self.classes.insert(class(weight(any)), before.clone());
        }
        for (old, new) in list.merge(&before) {
            if let (Some(old), Some(new)) = (old, new)
                && old.as_ref().is_same(new.as_ref())
            {
                continue;
            }
            let [from, to] = [old, new].map(|element| element.map(|element| class(weight(element))));
            if let Some(old) = old
                && from != to
                && let Some(Entry::Occupied(mut list)) = from.map(|from| self.classes.entry(from))
            {
                list.get_mut().remove(old.id());
                if list.get().is_empty() {
                    list.remove();
                }
            }
            if let (Some(new), Some(to)) = (new, to) {
                self.classes.entry(to).or_default().insert(new.clone());
            }
        }
        self.draws()
    }

    fn draws(&self) -> Option<Draws<T>> {
        let mut draws = Draws { classes: Vec::with_capacity(self.classes.len()), len: 0, total: 0.0 };
        // Those of weight zero are drawn only where there is no other, and then all count as equal.
        for (class, list) in self.classes.range(1..) {
            // Exact: a power of two.
            let bound = f64::from_bits((class + 1) << MANTISSA);
            draws.classes.push(Class { first: draws.len, start: draws.total, bound, list: list.clone() });
            draws.len += list.len();
            draws.total += bound * list.len() as f64;
        }
        (draws.len > 0).then_some(draws)
    }
}

/// The bits of a number behind its exponent.
const MANTISSA: u32 = f64::MANTISSA_DIGITS - 1;

fn weight<T: AsRef<ReadyInstance>>(element: &T) -> f64 {
    element.as_ref().weight()
}

/// The exponent of the largest number below the weight: of a power of two that of the one before, so that it is its class's
/// bound. 0 for the weight zero, and for what is hardly more.
fn class(weight: f64) -> u64 {
    weight.to_bits().saturating_sub(1) >> MANTISSA
}

/// One version of [`Weighted`], for a picker: the instances that have a weight, by position.
#[derive(Debug, Clone)]
pub(super) struct Draws<T> {
    classes: Vec<Class<T>>,
    len: usize,
    total: f64,
}

#[derive(Debug, Clone)]
struct Class<T> {
    /// The position of its first element.
    first: usize,
    start: f64,
    bound: f64,
    list: SortedById<T>,
}

impl<T: AsRef<ReadyInstance>> Draws<T> {
    /// The number of instances that have a weight.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The mean of the classes' bounds, which is that of the weights or up to twice as much.
    pub(super) fn mean_weight(&self) -> f64 {
        self.total / self.len as f64
    }

    pub(super) fn at(&self, position: usize) -> Option<&T> {
        let class = self.classes.iter().rfind(|class| class.first <= position)?;
        class.list.at(position - class.first)
    }

    /// Draws a position, by numbers that are even over all of 64 bits: random ones, or a sequence.
    pub(super) fn draw(&self, mut numbers: impl FnMut() -> u64) -> usize {
        let mut position = 0;
        for _ in 0..TRIES {
            let is_accepted;
            (position, is_accepted) = self.look(numbers());
            if is_accepted {
                break;
            }
        }
        position
    }

    /// Each instance has an interval of all numbers that is as long as its class's bound, and is accepted in that part of it
    /// which is as long as its weight.
    fn look(&self, number: u64) -> (usize, bool) {
        // The upper 53 bits, which are what a number can have, as a part of one.
        let place = (number >> 11) as f64 * (0.5_f64).powi(53) * self.total;
        let Some(class) = self.classes.iter().rfind(|class| class.start <= place) else { return (0, false) };
        let slot = (place - class.start) / class.bound;
        let index = slot as usize;
        // None where the bounds are so far apart that a slot is rounded up.
        let weight = class.list.at(index).map_or(0.0, weight);
        (class.first + index, (slot - slot.floor()) * class.bound < weight)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hither_core::Instance;

    use super::*;
    use crate::client::balance::random::Random;

    fn instance(id: usize, weight: u32) -> ReadyInstance {
        let instance = Instance::new("h:1".parse().unwrap()).with_id(format!("i{id:06}").parse().unwrap());
        ReadyInstance::new(Arc::new(instance.with_weight(weight)))
    }

    fn list(weights: &[u32]) -> SortedById<ReadyInstance> {
        weights.iter().enumerate().map(|(id, weight)| instance(id, *weight)).collect()
    }

    /// Draws so often; how often each instance was drawn.
    fn counts(draws: &Draws<ReadyInstance>, ready: &SortedById<ReadyInstance>, count: usize) -> Vec<usize> {
        let (random, mut counts) = (Random::new(7), vec![0; ready.len()]);
        for _ in 0..count {
            let drawn = draws.at(draws.draw(|| random.draw())).unwrap();
            counts[ready.position(drawn.id()).unwrap()] += 1;
        }
        counts
    }

    fn are_in_proportion(counts: &[usize], weights: &[f64]) {
        let (drawn, total) = (counts.iter().sum::<usize>() as f64, weights.iter().sum::<f64>());
        for (count, weight) in counts.iter().zip(weights) {
            let expected = drawn * weight / total;
            // Five times the standard deviation.
            let margin = 5.0 * (expected * (1.0 - weight / total)).sqrt();
            assert!((*count as f64 - expected).abs() <= margin, "{count}, not {expected}: {counts:?}");
        }
    }

    #[test]
    fn draws_are_in_proportion_to_the_weights() {
        for weights in [
            &[1, 10, 0][..],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9],
            &[3, 5],
            &[u32::MAX, u32::MAX - 1, 1 << 31, 0],
            &[1000, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        ] {
            let ready = list(weights);
            let draws = Weighted::default().update(&ready).unwrap();
            assert_eq!(draws.len(), weights.iter().filter(|weight| **weight > 0).count());
            let weights: Vec<_> = weights.iter().copied().map(f64::from).collect();
            are_in_proportion(&counts(&draws, &ready, 100_000), &weights);
        }
        assert_eq!(Weighted::default().update(&list(&[1, 2, 4, 0])).unwrap().mean_weight(), 7.0 / 3.0);
    }

    #[test]
    fn what_has_nearly_no_weight_beside_the_largest_is_drawn_as_rarely_and_no_draw_is_long() {
        let weights: Vec<_> = [vec![1; 10_000], vec![u32::MAX]].concat();
        let ready = list(&weights);
        let draws = Weighted::default().update(&ready).unwrap();
        let (random, mut looks) = (Random::new(7), 0);
        for _ in 0..10_000 {
            let drawn = draws.draw(|| {
                looks += 1;
                random.draw()
            });
            assert!(draws.at(drawn).unwrap().weight() > 1.0, "one in 400,000 draws is of another");
        }
        assert!(looks <= 20_000, "{looks} looks");
        // Each has as many numbers as the others, nevertheless: one in 2^32.
        let of_one = (0..1 << 22).filter(|step| draws.look(step << 22).0 == 77).count();
        assert!((1000..1050).contains(&of_one), "{of_one} in 1024");
    }

    #[test]
    fn equal_weights_need_no_draws_whatever_they_are() {
        for weight in [0, 1, 7, u32::MAX] {
            let mut weighted = Weighted::default();
            assert!(weighted.update(&list(&[weight; 5])).is_none());
            assert!(weighted.classes.is_empty());
        }
        // Factors of hardly more than nothing count as zero.
        let tiny: SortedById<_> = list(&[1, 2]).iter().map(|instance| instance.with_factor(1e-320)).collect();
        assert!(Weighted::default().update(&tiny).is_none());
    }

    #[test]
    fn random_changes_end_as_if_all_were_put_into_classes_anew() {
        for seed in 0..30 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut ready, mut weighted) = (SortedById::new(), Weighted::default());
            for round in 0..200 {
                for _ in 0..random.usize(1..20) {
                    let id = random.usize(..600);
                    // For some rounds all are equal again.
                    let weight = if round % 40 > 30 { 1 } else { random.u32(..6) };
                    match random.u8(..3) {
                        0 => drop(ready.remove(instance(id, 0).id())),
                        1 => drop(ready.insert(instance(id, weight))),
                        _ => drop(ready.insert(instance(id, 1).with_factor(f64::from(weight) / 3.0))),
                    }
                }
                if round % 40 == 35 {
                    ready = ready.iter().map(|known| with_weight(known, 2)).collect();
                }
                let draws = weighted.update(&ready);
                let anew = Weighted { list: SortedById::new(), ..Weighted::default() }.update(&ready);
                assert_eq!(draws.is_some(), anew.is_some(), "seed {seed}, round {round}");
                assert!(weighted.classes.values().all(|class| !class.is_empty()));
                let all = |draws: Draws<ReadyInstance>| {
                    (0..draws.len()).map(|at| draws.at(at).unwrap().clone()).collect::<SortedById<_>>()
                };
                let (Some(draws), Some(anew)) = (draws, anew) else { continue };
                assert_eq!((draws.total, draws.len()), (anew.total, anew.len()));
                let (draws, anew) = (all(draws), all(anew));
                assert_eq!(draws, anew);
                assert!(
                    draws.iter().zip(&anew).all(|(a, b)| a.is_same(b)),
                    "an old description: seed {seed}"
                );
            }
        }
    }

    /// Without a factor.
    fn with_weight(known: &ReadyInstance, weight: u32) -> ReadyInstance {
        ReadyInstance::new(Arc::new((**known.instance()).clone().with_weight(weight)))
    }

    #[test]
    fn one_change_of_many_copies_no_list() {
        let mut ready: SortedById<_> = (0..100_000).map(|id| instance(id, 1)).collect();
        let mut weighted = Weighted::default();
        weighted.update(&ready);
        ready.insert(instance(50_000, 3));
        weighted.update(&ready).unwrap();
        let before = weighted.classes[&class(1.0)].clone();
        ready.insert(instance(60_000, 3));
        weighted.update(&ready).unwrap();
        let changed = weighted.classes[&class(1.0)].merge(&before).count();
        assert!(changed <= 600, "{changed} of 100,000 were looked at");
    }

    #[test]
    fn the_weight_in_force_is_the_registrys_times_all_factors_and_bounded() {
        let weighted = |weight| Arc::new(Instance::new("h:1".parse().unwrap()).with_weight(weight));
        let one = ReadyInstance::new(weighted(3));
        assert_eq!((one.weight(), one.with_factor(0.5).with_factor(0.1).weight()), (3.0, 3.0 * 0.05));
        assert_eq!(one.with_factor(0.5), one);
        assert_eq!(one.with_factor(0.5).described_as(weighted(8)).weight(), 4.0);
        for (factor, expected) in [(-1.0, 0.0), (f64::NAN, 0.0), (f64::INFINITY, 3e6), (f64::MAX, 3e6)] {
            assert_eq!(one.with_factor(factor).weight(), expected, "{factor}");
        }
        assert_eq!(one.with_factor(0.0).with_factor(f64::INFINITY).weight(), 0.0);
    }
}
