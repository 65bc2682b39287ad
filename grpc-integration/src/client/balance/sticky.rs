//! All to one.

use std::any::Any;
use std::sync::Arc;

use super::policy::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker};
use crate::client::ready_instance::Endpoint;

/// Sends all calls to the first ready instance, by id, and stays with it for as long as it is ready.
///
/// The others are kept connected, so that the change to the next is immediate. They also take what the first
/// has no room for, when its server limits the streams of a client.
///
/// ```
/// use hither_tonic::PickFirst;
///
/// let policy = PickFirst::default();
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PickFirst {}

impl LoadBalancingPolicy for PickFirst {
    fn picker(&self, ready: &[Endpoint], previous: Option<&Arc<dyn Picker>>) -> Arc<dyn Picker> {
        let last = previous
            .and_then(|picker| (picker.as_ref() as &dyn Any).downcast_ref::<PickFirstPicker>())
            .and_then(|picker| picker.chosen.as_ref());
        let kept = ready.iter().find(|endpoint| Some(*endpoint) == last);
        Arc::new(PickFirstPicker { chosen: kept.or(ready.first()).cloned() })
    }
}

#[derive(Debug)]
struct PickFirstPicker {
    chosen: Option<Endpoint>,
}

impl Picker for PickFirstPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        self.chosen.clone().map_or(Pick::Queue, Pick::Endpoint)
    }

    fn done(&self, _endpoint: &Endpoint, _outcome: &Outcome) {}
}
