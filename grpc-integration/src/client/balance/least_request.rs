//! Least request: the less loaded of two random instances.

use std::sync::Arc;

use hither_core::SortedById;

use super::policy::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker};
use super::two_choices::TwoChoices;
use super::weighted::Weighted;
use crate::client::evidence::Evidence;
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
        Arc::new(LeastRequestPicker(TwoChoices::new(ready, &mut self.weighted, self.seed)))
    }
}

#[derive(Debug)]
struct LeastRequestPicker(TwoChoices<ReadyInstance>);

impl LeastRequestPicker {
    /// Whether a call goes to `b`, and not to `a` which was drawn first.
    ///
    /// Envoy compares weight / (calls + 1), which tells apart what is idle, and so does a draw by weight: both together give
    /// the lighter one nothing while there are few calls.
    fn is_better(&self, b: &ReadyInstance, a: &ReadyInstance) -> bool {
        match self.0.mean_weight() {
            None => load(b) < load(a),
            Some(_) => (load(b) + 1) as f64 * a.weight() <= load(a) as f64 * b.weight(),
        }
    }
}

impl Picker for LeastRequestPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        match self.0.draw() {
            Some((a, b)) if self.is_better(b, a) => Pick::Instance(b.clone().into()),
            Some((a, _)) => Pick::Instance(a.clone().into()),
            None => Pick::Queue,
        }
    }

    fn done(&self, picked: &Picked, outcome: &Outcome<'_>) {
        match outcome.evidence() {
            Evidence::None => {}
            evidence => picked.instance().failures().record(evidence == Evidence::Failure),
        }
    }
}

fn load(instance: &ReadyInstance) -> usize {
    instance.in_flight() + instance.failures().load()
}

#[cfg(test)]
mod tests {
    use hither_core::{HasId, Instance};
    use http::{Extensions, HeaderMap};

    use super::*;

    /// Of two that are drawn always, where the third has no weight.
    #[test]
    fn with_weights_the_other_takes_the_call_if_it_is_no_more_loaded_with_it() {
        for (weights, calls, expected) in
            [([1, 1, 0], 1, &[1][..]), ([1, 2, 0], 1, &[1]), ([2, 1, 0], 1, &[0, 1])]
        {
            let instance = |(number, weight): (usize, &u32)| {
                let id = format!("i{number}").parse().unwrap();
                let instance = Instance::new("h:1".parse().unwrap()).with_id(id);
                ReadyInstance::new(Arc::new(instance.with_weight(*weight)))
            };
            let ready: SortedById<_> = weights.iter().enumerate().map(instance).collect();
            let picker = LeastRequest::default().with_seed(1).picker(&ready);
            let _calls: Vec<_> = (0..calls).map(|_| Picked::from(ready[0].clone()).started()).collect();
            let (headers, extensions) = (HeaderMap::new(), Extensions::new());
            let picks: std::collections::BTreeSet<_> = (0..100)
                .map(|_| match picker.pick(&CallInfo::new("/", &headers, &extensions)) {
                    Pick::Instance(picked) => ready.position(picked.instance().id()).unwrap(),
                    pick => panic!("{pick:?}"),
                })
                .collect();
            assert!(picks.iter().eq(expected), "{weights:?}: {picks:?}");
        }
    }
}
