//! Policies are the program's own code: a panic ends where the channel calls it.

use std::any::type_name;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hither_core::SortedById;
use hither_core::contain::{contain, drop_contained};
use tonic::Status;

use super::policy::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker};
use crate::client::ready_instance::ReadyInstance;

/// The policy of a channel.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    policy: Arc<dyn LoadBalancingPolicy>,
    panics: Panics,
}

impl Policy {
    pub(crate) fn new<P: LoadBalancingPolicy>(policy: P) -> Self {
        let panics = Panics { policy: type_name::<P>(), logged: Arc::default() };
        Self { policy: Arc::new(policy), panics }
    }

    /// Returns a picker over `ready`.
    ///
    /// # Errors
    /// The policy has panicked: the text for calls.
    pub(crate) fn picker(
        &self,
        ready: &SortedById<ReadyInstance>,
        previous: Option<&PolicyPicker>,
    ) -> Result<PolicyPicker, String> {
        let previous = previous.and_then(|picker| picker.picker.as_ref());
        contain(|| self.policy.picker(ready, previous))
            .map(|picker| PolicyPicker { picker: Some(picker), panics: self.panics.clone() })
            .map_err(|panic| self.panics.add(Method::Picker, &panic))
    }
}

/// A picker of the policy.
#[derive(Debug)]
pub(crate) struct PolicyPicker {
    /// `None` while it is dropped.
    picker: Option<Arc<dyn Picker>>,
    panics: Panics,
}

impl PolicyPicker {
    /// Picks for one attempt. A panic is the end of this call alone.
    pub(crate) fn pick(&self, call: &CallInfo<'_>) -> Pick {
        let Some(picker) = &self.picker else { return Pick::Queue };
        contain(|| picker.pick(call))
            .unwrap_or_else(|panic| Pick::Drop(Status::internal(self.panics.add(Method::Pick, &panic))))
    }

    /// Hands the outcome of an attempt to the policy. It may be called while the caller's task unwinds, where a panic that
    /// is not contained would abort the process.
    pub(crate) fn done(&self, instance: &ReadyInstance, outcome: &Outcome) {
        let Some(picker) = &self.picker else { return };
        if let Err(panic) = contain(|| picker.done(instance, outcome)) {
            self.panics.add(Method::Done, &panic);
        }
    }
}

impl Drop for PolicyPicker {
    fn drop(&mut self) {
        drop_contained(self.picker.take());
    }
}

/// The panics of one policy. The first of each method is logged: one that panics may do so for each call.
#[derive(Debug, Clone)]
struct Panics {
    policy: &'static str,
    /// For each [`Method`].
    logged: Arc<[AtomicBool; 3]>,
}

#[derive(Debug, Clone, Copy)]
enum Method {
    Picker,
    Pick,
    Done,
}

impl Panics {
    /// Returns the text for calls.
    fn add(&self, method: Method, panic: &str) -> String {
        let policy = self.policy;
        let is_logged = self.logged[method as usize].swap(true, Ordering::Relaxed);
        let method = match method {
            Method::Picker => "picker",
            Method::Pick => "pick",
            Method::Done => "done",
        };
        if is_logged {
            tracing::debug!(policy, method, cause = panic, "load balancing policy panicked again");
        } else {
            tracing::error!(policy, method, cause = panic, "load balancing policy panicked");
        }
        format!("the load balancing policy {policy} panicked in {method}: {panic}")
    }
}
