//! Round robin: one instance after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hither_core::SortedById;

use super::policy::{CallInfo, LoadBalancingPolicy, Pick, Picker};
use super::weighted::{Draws, Weighted};
use crate::client::ready_instance::ReadyInstance;

/// Picks the ready instances in turn, one call each; where their [weights](ReadyInstance::weight) differ, each as often
/// as its weight. What gRPC calls `round_robin` and `weighted_round_robin`.
///
/// The first is random, so that many clients do not start with the same server (thundering herd).
///
/// With weights the turn is evenly mixed, so that none gets its share in a burst: after any number of calls each has had
/// its share of them, to a few calls. Weight 0 is picked only when no other instance is ready. A weight that changes counts from the next
/// call on.
///
/// ```
/// use hither_tonic::RoundRobin;
///
/// let policy = RoundRobin::default();
/// let repeatable = RoundRobin::default().with_seed(0);
/// ```
#[derive(Debug, Clone, Default)]
pub struct RoundRobin {
    seed: Option<u64>,
    last: Option<Arc<RoundRobinPicker>>,
    weighted: Weighted<ReadyInstance>,
    turn: Option<Arc<AtomicU64>>,
}

impl RoundRobin {
    /// Sets the seed of the random start.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    fn random(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.unwrap_or_else(|| fastrand::u64(..)))
    }
}

impl LoadBalancingPolicy for RoundRobin {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        if let Some(draws) = self.weighted.update(ready) {
            // It has the instances of before.
            self.last = None;
            let mut random = self.random();
            let turn = Arc::clone(self.turn.get_or_insert_with(|| Arc::new(AtomicU64::new(random.u64(..)))));
            return Arc::new(WeightedRoundRobinPicker { draws, turn });
        }
        let next = match &self.last {
            // Continues after the instance that was picked last, at whatever index it is now.
            Some(last) => last.successor_among(ready),
            None => self.random().usize(..ready.len().max(1)),
        };
        let picker = Arc::new(RoundRobinPicker { ready: ready.clone(), next: AtomicUsize::new(next) });
        self.last = Some(Arc::clone(&picker));
        picker
    }
}

#[derive(Debug)]
struct RoundRobinPicker {
    ready: SortedById<ReadyInstance>,
    next: AtomicUsize,
}

impl RoundRobinPicker {
    fn successor_among(&self, ready: &SortedById<ReadyInstance>) -> usize {
        let Some(next) = self.next.load(Ordering::Relaxed).checked_rem(self.ready.len()) else {
            return 0;
        };
        // Both are sorted by id.
        let due = self.ready[next].instance().id();
        match ready.position(due) {
            Ok(next) => next,
            Err(next) if next < ready.len() => next,
            Err(_) => 0,
        }
    }
}

impl Picker for RoundRobinPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match turn.checked_rem(self.ready.len()) {
            Some(index) => Pick::Instance(self.ready[index].clone().into()),
            None => Pick::Queue,
        }
    }
}

/// Draws by a sequence instead of by chance: the multiples of the golden ratio, whose parts behind the point are spread
/// over any interval as evenly as a sequence can. So each instance is picked as often as its weight, at regular distances.
#[derive(Debug)]
struct WeightedRoundRobinPicker {
    draws: Draws<ReadyInstance>,
    /// The one of all pickers, so that a change of the set begins no turn anew.
    turn: Arc<AtomicU64>,
}

/// The golden ratio, less one, of all 64 bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Picker for WeightedRoundRobinPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        let picked = self.draws.draw(|| self.turn.fetch_add(GOLDEN, Ordering::Relaxed));
        self.draws.at(picked).map_or(Pick::Queue, |picked| Pick::Instance(picked.clone().into()))
    }
}

#[cfg(test)]
mod tests {
    use hither_core::Instance;
    use http::{Extensions, HeaderMap};

    use super::*;

    fn list(weights: &[u32]) -> SortedById<ReadyInstance> {
        let instances = weights.iter().enumerate().map(|(id, weight)| {
            let instance =
                Instance::new("h:1".parse().unwrap()).with_id(format!("i{id:02}").parse().unwrap());
            ReadyInstance::new(Arc::new(instance.with_weight(*weight)))
        });
        instances.collect()
    }

    fn picks(picker: &dyn Picker, ready: &SortedById<ReadyInstance>, count: usize) -> Vec<usize> {
        let (headers, extensions) = (HeaderMap::new(), Extensions::new());
        let call = CallInfo::new("/", &headers, &extensions);
        let position = |_| match picker.pick(&call) {
            Pick::Instance(picked) => ready.position(picked.instance().instance().id()).unwrap(),
            pick => panic!("{pick:?}"),
        };
        (0..count).map(position).collect()
    }

    #[test]
    fn what_has_left_is_not_kept_when_weights_begin_to_differ() {
        let (mut policy, equal) = (RoundRobin::default(), list(&[1, 1]));
        drop(policy.picker(&equal));
        let gone = Arc::clone(equal[1].instance());
        drop(equal);
        drop(policy.picker(&list(&[1, 2])));
        assert_eq!(Arc::strong_count(&gone), 1);
    }

    #[test]
    fn shares_are_exact_to_a_few_calls_from_the_first_on_and_not_in_bursts() {
        for weights in [&[1, 10, 0][..], &[100, 10], &[1, 2, 3, 4, 5], &[7, 7, 1], &[50, 1, 1, 1, 1]] {
            let (ready, total) = (list(weights), weights.iter().sum::<u32>());
            for seed in 0..20 {
                let picker = RoundRobin::default().with_seed(seed).picker(&ready);
                let picks = picks(&*picker, &ready, 1000);
                for (at, weight) in weights.iter().enumerate() {
                    let share = f64::from(*weight) / f64::from(total);
                    let mut count = 0.0;
                    for (call, pick) in picks.iter().enumerate() {
                        count += f64::from(u8::from(*pick == at));
                        let expected = share * (call + 1) as f64;
                        assert!((count - expected).abs() < 5.0, "{weights:?}: {count}, not {expected}");
                    }
                    assert!(*weight > 0 || count == 0.0);
                }
            }
        }
    }

    #[test]
    fn a_change_of_the_set_begins_no_turn_anew() {
        for weights in [&[1, 3][..], &[1, 1, 1, 1]] {
            let (mut policy, ready) = (RoundRobin::default().with_seed(1), list(weights));
            let picked: Vec<_> = (0..400).flat_map(|_| picks(&*policy.picker(&ready), &ready, 1)).collect();
            for (at, weight) in weights.iter().enumerate() {
                let (count, weight) = (picked.iter().filter(|pick| **pick == at).count(), *weight as usize);
                assert!(count.abs_diff(100 * weight) <= 2, "{weights:?}: {count} of the {at}th");
            }
        }
    }

    #[test]
    fn after_one_that_has_left_comes_the_next_by_id() {
        let all = list(&[1; 5]);
        for due in 0..5 {
            let mut policy = RoundRobin::default().with_seed(1);
            let picker = policy.picker(&all);
            while (picks(&*picker, &all, 1)[0] + 1) % 5 != due {}
            let mut left = all.clone();
            left.remove(all[due].instance().id());
            assert_eq!(picks(&*policy.picker(&left), &all, 4), [1, 2, 3, 4].map(|next| (due + next) % 5));
        }
    }

    #[test]
    fn a_change_of_weights_counts_at_once_and_equal_ones_are_a_plain_turn_again() {
        let mut policy = RoundRobin::default().with_seed(1);
        let ready = list(&[1, 1, 1]);
        let first = picks(&*policy.picker(&ready), &ready, 3);
        let changed = list(&[0, 3, 1]);
        let picked = picks(&*policy.picker(&changed), &changed, 400);
        let counts = [0, 1, 2].map(|at| picked.iter().filter(|pick| **pick == at).count());
        assert!(counts[0] == 0 && (298..=302).contains(&counts[1]), "{counts:?}");
        assert_eq!(picks(&*policy.picker(&ready), &ready, 3), first);
    }

    #[test]
    fn weight_zero_is_picked_only_when_there_is_no_other() {
        let (mut policy, ready) = (RoundRobin::default(), list(&[0, 0]));
        let mut picked = picks(&*policy.picker(&ready), &ready, 2);
        picked.sort_unstable();
        assert_eq!(picked, [0, 1]);
        let other = list(&[0, 0, 1]);
        assert_eq!(picks(&*policy.picker(&other), &other, 50), [2; 50]);
        assert_eq!(picks(&*policy.picker(&list(&[0])), &ready, 5), [0; 5]);
    }
}
