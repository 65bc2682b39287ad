//! Least request: the less loaded of two random instances.

use std::sync::Arc;

use hither_core::SortedById;
use tonic::Code;

use super::policy::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker};
use super::random::Random;
use crate::client::ready_instance::{Picked, ReadyInstance};

/// Picks two random ready instances and takes the one with fewer calls in flight (power of two choices). The
/// default.
///
/// Streams count for as long as they are open, and a slow server gets fewer calls, without any measurement. Weights
/// are ignored.
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
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        Arc::new(LeastRequestPicker { ready: ready.clone(), random: Random::new(seed) })
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
        // Neither tells anything of the server.
        if outcome.was_sent() && outcome.code() != Code::Cancelled {
            picked.instance().failures().record(is_failure(outcome.code()));
        }
    }
}

fn load(instance: &ReadyInstance) -> usize {
    instance.in_flight() + instance.failures().load()
}

/// Whether a status blames the server, and not the request.
fn is_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
    )
}
