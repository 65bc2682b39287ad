//! A policy that records how attempts end.

use std::sync::{Arc, Mutex};

use hither_core::SortedById;
use hither_tonic::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picked, Picker, ReadyInstance};
use tonic::Code;

/// Picks the first instance, and records how attempts end. A clone is the same record.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempts(Arc<Mutex<Vec<(Code, WasSent)>>>);

type WasSent = bool;

impl Attempts {
    /// The status of each attempt that has ended.
    pub(crate) fn ended(&self) -> Vec<Code> {
        self.0.lock().unwrap().iter().map(|(code, _)| *code).collect()
    }

    /// The status of each attempt that was not sent.
    pub(crate) fn unsent(&self) -> Vec<Code> {
        self.0.lock().unwrap().iter().filter(|(_, was_sent)| !was_sent).map(|(code, _)| *code).collect()
    }
}

#[derive(Debug)]
struct First(Attempts, ReadyInstance);

impl LoadBalancingPolicy for Attempts {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        Arc::new(First(self.clone(), ready.at(0).unwrap().clone()))
    }
}

impl Picker for First {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        Pick::Instance(self.1.clone().into())
    }

    fn done(&self, _picked: &Picked, outcome: &Outcome<'_>) {
        self.0.0.lock().unwrap().push((outcome.code(), outcome.was_sent()));
    }
}
