//! The less loaded of two.

use std::sync::Arc;

use super::policy::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker};
use super::random::Random;
use crate::client::ready_instance::ReadyInstance;

/// Draws two ready instances and takes the one with fewer calls in flight. The default.
///
/// Long streams count for as long as they last, and a slow server gets fewer calls, without anything being
/// measured. All instances count alike, whatever their weight.
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
    /// Draws from this seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl LoadBalancingPolicy for LeastRequest {
    fn picker(&self, ready: &[ReadyInstance], _previous: Option<&Arc<dyn Picker>>) -> Arc<dyn Picker> {
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        Arc::new(LeastRequestPicker { ready: ready.to_vec(), random: Random::new(seed) })
    }
}

#[derive(Debug)]
struct LeastRequestPicker {
    ready: Vec<ReadyInstance>,
    random: Random,
}

impl LeastRequestPicker {
    /// Two different endpoints, or twice the only one.
    fn draw(&self) -> Option<(&ReadyInstance, &ReadyInstance)> {
        let count = self.ready.len();
        if count < 2 {
            return self.ready.first().map(|only| (only, only));
        }
        let first = self.random.below(count);
        let second = (first + 1 + self.random.below(count - 1)) % count;
        Some((&self.ready[first], &self.ready[second]))
    }
}

impl Picker for LeastRequestPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        match self.draw() {
            Some((a, b)) if b.in_flight() < a.in_flight() => Pick::Instance(b.clone()),
            Some((a, _)) => Pick::Instance(a.clone()),
            None => Pick::Queue,
        }
    }

    fn done(&self, _endpoint: &ReadyInstance, _outcome: &Outcome) {}
}
