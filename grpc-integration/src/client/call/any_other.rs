//! Any instance that has capacity, in place of one that is full.

use hither_core::SortedById;

use crate::client::ready_instance::ReadyInstance;

/// How often the one with the fewest calls is tried, while others take its place.
const TRIES: usize = 3;
/// How many instances are looked at before all are.
const SAMPLE: usize = 8;

/// What came of looking for any instance.
#[derive(Debug, PartialEq)]
pub(super) enum Found<T> {
    Taken(T),
    /// None has capacity.
    Full,
    /// Only some of weight 0 have, and the connection of another one is being replaced, which takes a moment.
    Declined,
}

/// Takes an instance that has capacity: of a few random ones that with the fewest calls for its weight, and of all if none
/// of those has capacity. So a call costs little while few instances are full, however many there are. One of weight 0 last.
pub(super) fn any_other<T>(
    all: &SortedById<ReadyInstance>,
    has_capacity: impl Fn(&ReadyInstance) -> bool,
    is_disconnected: impl Fn(&ReadyInstance) -> bool,
    take: impl Fn(&ReadyInstance) -> Option<T>,
) -> Found<T> {
    let count = all.len();
    let sample = (0..SAMPLE).filter(|_| count > SAMPLE).filter_map(|_| all.at(fastrand::usize(..count)));
    let sample = sample.filter(|one| one.weight() > 0.0 && has_capacity(one));
    if let Some(taken) = sample.min_by_key(calls_per_weight).and_then(&take) {
        return Found::Taken(taken);
    }
    // Another call may be first.
    for _ in 0..TRIES {
        let fewest = all.iter().filter(|one| has_capacity(one)).min_by_key(calls_per_weight);
        match fewest {
            None => return Found::Full,
            Some(fewest) if fewest.weight() <= 0.0 && awaits_weight(all, &is_disconnected) => {
                return Found::Declined;
            }
            Some(fewest) => {
                if let Some(taken) = take(fewest) {
                    return Found::Taken(taken);
                }
            }
        }
    }
    let is_declined = awaits_weight(all, is_disconnected);
    let mut others = all.iter().filter(|one| has_capacity(one) && (one.weight() > 0.0 || !is_declined));
    match others.find_map(take) {
        Some(taken) => Found::Taken(taken),
        None if is_declined => Found::Declined,
        None => Found::Full,
    }
}

/// Whether one that has a weight is to be waited for, before others take its calls that were taken out by weight 0.
pub(super) fn awaits_weight(
    all: &SortedById<ReadyInstance>,
    is_disconnected: impl Fn(&ReadyInstance) -> bool,
) -> bool {
    all.iter().any(|one| one.weight() > 0.0 && is_disconnected(one))
}

/// What instances are compared by: infinite for those of weight 0. Such numbers compare like their bits.
fn calls_per_weight(instance: &&ReadyInstance) -> u64 {
    ((instance.in_flight() + 1) as f64 / instance.weight()).to_bits()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hither_core::{HasId, Instance};

    use super::*;
    use crate::client::ready_instance::Picked;

    fn with_weights(weights: impl IntoIterator<Item = u32>) -> SortedById<ReadyInstance> {
        let instance = |(number, weight)| {
            let id = format!("i{number:05}").parse().unwrap();
            ReadyInstance::new(Arc::new(
                Instance::new("h:1".parse().unwrap()).with_id(id).with_weight(weight),
            ))
        };
        weights.into_iter().enumerate().map(instance).collect()
    }

    #[test]
    fn where_a_pick_is_full_few_others_are_looked_at_unless_those_are_full_too() {
        let all = with_weights([1; 10_000]);
        let looked = AtomicUsize::new(0);
        let look = |is_open: bool| {
            looked.fetch_add(1, Ordering::SeqCst);
            is_open
        };
        for _ in 0..100 {
            let found = any_other(
                &all,
                |one| look(one.id().as_str() != "i00007"),
                |_| false,
                |one| Some(one.clone()),
            );
            assert!(matches!(found, Found::Taken(found) if found.id().as_str() != "i00007"));
        }
        assert_eq!(looked.swap(0, Ordering::SeqCst), 100 * SAMPLE);
        let found =
            any_other(&all, |one| look(one.id().as_str() == "i00007"), |_| false, |one| Some(one.clone()));
        assert!(matches!(found, Found::Taken(found) if found.id().as_str() == "i00007"));
        assert_eq!(any_other(&all, |_| look(false), |_| false, |one| Some(one.clone())), Found::Full);
        assert!(looked.load(Ordering::SeqCst) <= 4 * (all.len() + SAMPLE));
    }

    #[test]
    fn the_instance_with_the_fewest_calls_for_its_weight_is_taken_and_weight_0_last() {
        let all = with_weights([0, 2, 1, 1]);
        let _calls: Vec<_> =
            [1, 1, 2].map(|at| Picked::from(all.at(at).unwrap().clone()).started()).into_iter().collect();
        let is_in = |ids: &[usize], one: &_| ids.iter().any(|id| all.at(*id) == Some(one));
        let of = |open: &'static [usize], replaced: &'static [usize]| {
            let take = |one: &ReadyInstance| all.position(one.id()).ok();
            any_other(&all, |one| is_in(open, one), |one| is_in(replaced, one), take)
        };
        let open = |ids| of(ids, &[]);
        assert_eq!(
            [open(&[0, 1, 2, 3]), open(&[0, 1, 2]), open(&[0, 2]), open(&[0])],
            [3, 1, 2, 0].map(Found::Taken)
        );
        assert_eq!(
            [of(&[0], &[1]), of(&[0, 2], &[1])],
            [Found::Declined, Found::Taken(2)],
            "it is back in a moment"
        );
        let idle = with_weights([1, 1, 4, 1]);
        assert_eq!(any_other(&idle, |_| true, |_| false, |one| Some(one.weight())), Found::Taken(4.0));
        let many = with_weights((0..1000).map(|number| u32::from(number % 100 == 0)));
        for _ in 0..100 {
            let found = any_other(&many, |_| true, |_| false, |one| Some(one.weight()));
            assert_eq!(found, Found::Taken(1.0));
        }
    }
}
