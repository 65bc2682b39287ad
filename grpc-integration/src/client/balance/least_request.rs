//! Least request: the less loaded of two random instances.

use std::sync::Arc;

use hither_core::SortedById;
use tonic::Code;

use super::policy::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker};
use super::random::Random;
use super::weighted::{Draws, Weighted};
use crate::client::failures::is_failure;
use crate::client::ready_instance::{Picked, ReadyInstance};

/// Picks two random ready instances and takes the one with fewer calls in flight (power of two choices). The
/// default.
///
/// Streams count for as long as they are open, and a slow server gets fewer calls, without any measurement. What gRPC calls
/// `least_request` and Envoy `LEAST_REQUEST`.
///
/// Where [weights](ReadyInstance::weight) differ, the load of an instance is its calls by its weight: the first of the two
/// is drawn by weight, and the other takes the call if it is no more loaded with it than the first without. So shares are
/// in proportion to the weights with few calls in flight as with many. Weight 0 is picked only when no other instance is
/// ready.
///
/// A server that fails at once attracts no calls: what has failed by the server's fault (UNAVAILABLE, INTERNAL, UNKNOWN,
/// DATA_LOSS, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED) goes on counting for some seconds, in proportion to the share of
/// failures among its calls. What fails everywhere shifts nothing.
///
/// ```
/// use hither_tonic::LeastRequest;
///
/// let policy = LeastRequest::default();
/// let repeatable = LeastRequest::default().with_seed(7);
/// ```
#[derive(Debug, Clone, Default)]
pub struct LeastRequest {
    seed: Option<u64>,
    weighted: Weighted<ReadyInstance>,
}

impl LeastRequest {
    /// Sets the seed of the random choices.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl LoadBalancingPolicy for LeastRequest {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        let random = Random::new(self.seed.unwrap_or_else(|| fastrand::u64(..)));
        match self.weighted.update(ready) {
            Some(draws) => Arc::new(WeightedPicker { draws, random }),
            None => Arc::new(LeastRequestPicker { ready: ready.clone(), random }),
        }
    }
}

#[derive(Debug)]
struct LeastRequestPicker {
    ready: SortedById<ReadyInstance>,
    random: Random,
}

impl LeastRequestPicker {
    /// Returns two different instances, or the only one twice.
    fn draw(&self) -> Option<(&ReadyInstance, &ReadyInstance)> {
        let count = self.ready.len();
        if count < 2 {
            return self.ready.at(0).map(|only| (only, only));
        }
        let (first, further) = self.random.two_below(count, count - 1);
        let second = (first + 1 + further) % count;
        Some((&self.ready[first], &self.ready[second]))
    }
}

impl Picker for LeastRequestPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        match self.draw() {
            Some((a, b)) if load(b) < load(a) => Pick::Instance(b.clone().into()),
            Some((a, _)) => Pick::Instance(a.clone().into()),
            None => Pick::Queue,
        }
    }

    fn done(&self, picked: &Picked, outcome: &Outcome<'_>) {
        record(picked, outcome);
    }
}

/// Envoy compares weight / (calls + 1) instead, and so does a draw by which two idle instances are told apart: then the
/// lighter one gets nothing while there are few calls.
#[derive(Debug)]
struct WeightedPicker {
    draws: Draws<ReadyInstance>,
    random: Random,
}

impl WeightedPicker {
    fn choose(&self) -> Option<&ReadyInstance> {
        let first = self.draws.draw(|| self.random.draw());
        let a = self.draws.at(first)?;
        let Some(b) = self.random.another_below(first, self.draws.len()).and_then(|at| self.draws.at(at))
        else {
            return Some(a);
        };
        let is_better = (load(b) + 1) as f64 * a.weight() <= load(a) as f64 * b.weight();
        Some(if is_better { b } else { a })
    }
}

impl Picker for WeightedPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        self.choose().map_or(Pick::Queue, |chosen| Pick::Instance(chosen.clone().into()))
    }

    fn done(&self, picked: &Picked, outcome: &Outcome<'_>) {
        record(picked, outcome);
    }
}

fn record(picked: &Picked, outcome: &Outcome<'_>) {
    // Neither tells anything of the server.
    if outcome.was_sent() && outcome.code() != Code::Cancelled {
        picked.instance().failures().record(is_failure(outcome.code()));
    }
}

fn load(instance: &ReadyInstance) -> usize {
    instance.in_flight() + instance.failures().load()
}
