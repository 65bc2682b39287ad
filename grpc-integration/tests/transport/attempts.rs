//! A policy that records how attempts end.

use std::sync::{Arc, Mutex};

use hither_core::SortedById;
use hither_tonic::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker, ReadyInstance};
use tonic::Code;

/// Picks the first instance, and records how attempts end. A clone is the same record.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempts(Arc<Mutex<Vec<Code>>>);

impl Attempts {
    /// The status of each attempt that has ended.
    pub(crate) fn ended(&self) -> Vec<Code> {
        self.0.lock().unwrap().clone()
    }
}

#[derive(Debug)]
struct First(Attempts, ReadyInstance);

impl LoadBalancingPolicy for Attempts {
    fn picker(
        &self,
        ready: &SortedById<ReadyInstance>,
        _previous: Option<&Arc<dyn Picker>>,
    ) -> Arc<dyn Picker> {
        Arc::new(First(self.clone(), ready.at(0).unwrap().clone()))
    }
}

impl Picker for First {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        Pick::Instance(self.1.clone())
    }

    fn done(&self, _instance: &ReadyInstance, outcome: &Outcome) {
        self.0.0.lock().unwrap().push(outcome.code());
    }
}
