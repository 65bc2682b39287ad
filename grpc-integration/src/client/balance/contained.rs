//! Policies are the program's own code: a panic ends where the channel calls it.

use std::any::type_name;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hither_core::SortedById;
use hither_core::contain::{contain, drop_contained};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::others::Others;
use super::policy::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker};
use crate::client::metrics::{ChannelMetrics, PickResult};
use crate::client::ready_instance::{Picked, ReadyInstance};

/// The least time from a picker to the next one that the policy asks for.
const PACE: Duration = Duration::from_millis(10);

/// The policy of a channel.
#[derive(Debug)]
pub(crate) struct Policy {
    /// `None` while it is dropped.
    policy: Option<Box<dyn LoadBalancingPolicy>>,
    due: Option<Instant>,
    /// `None` if it does not follow them.
    others: Option<Others>,
    panics: Panics,
}

impl Policy {
    pub(crate) fn new<P: LoadBalancingPolicy>(policy: P) -> Self {
        let others = policy.follows_others().then(Others::default);
        Self { policy: Some(Box::new(policy)), due: None, others, panics: Panics::of::<P>() }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        self.policy.as_ref().map_or(Ok(()), |policy| policy.check())
    }

    pub(crate) fn has_slow_start(&self) -> bool {
        self.policy.as_ref().is_none_or(|policy| policy.has_slow_start())
    }

    pub(crate) fn follows_others(&self) -> bool {
        self.others.is_some()
    }

    /// Hands the instances besides the ready ones to a policy that follows them. Returns whether they have changed.
    pub(crate) fn others(&mut self, others: &Others) -> bool {
        let (Some(policy), Some(known)) = (&mut self.policy, &mut self.others) else { return false };
        if known.is_same(others) {
            return false;
        }
        *known = others.clone();
        if let Err(panic) = contain(|| policy.others(others)) {
            self.panics.add(Method::Others, &panic);
        }
        true
    }

    /// Returns a picker over `ready`.
    ///
    /// # Errors
    /// The policy has panicked: the text for calls.
    pub(crate) fn picker(
        &mut self,
        ready: &SortedById<ReadyInstance>,
        metrics: &ChannelMetrics,
    ) -> Result<PolicyPicker, String> {
        self.due = None;
        let Some(policy) = &mut self.policy else { return Err("the channel is closed".to_owned()) };
        let picker =
            contain(|| policy.picker(ready)).map_err(|panic| self.panics.add(Method::Picker, &panic))?;
        let due = contain(|| policy.due()).unwrap_or_else(|panic| {
            self.panics.add(Method::Due, &panic);
            None
        });
        self.due = due.map(|due| due.max(Instant::now() + PACE));
        Ok(PolicyPicker { picker: Some(picker), panics: self.panics.clone(), metrics: metrics.clone() })
    }

    /// Returns when the picker is to be made anew.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        drop_contained(self.policy.take());
    }
}

/// A picker of the policy.
#[derive(Debug)]
pub(crate) struct PolicyPicker {
    /// `None` while it is dropped.
    picker: Option<Arc<dyn Picker>>,
    panics: Panics,
    metrics: ChannelMetrics,
}

impl PolicyPicker {
    /// Picks for one attempt. A panic is the end of this call alone.
    #[inline(always)]
    pub(crate) fn pick(&self, call: &CallInfo<'_>) -> Pick {
        let Some(picker) = &self.picker else { return Pick::Queue };
        let mut pick = contain(|| picker.pick(call))
            .unwrap_or_else(|panic| Pick::Drop(Status::internal(self.panics.add(Method::Pick, &panic))));
        if let Pick::Fail(status) | Pick::Drop(status) = &mut pick
            && status.code() == Code::Ok
        {
            // No call succeeds without an answer.
            let (policy, text) = (self.panics.policy, status.message());
            *status = Status::internal(format!(
                "the load balancing policy {policy} has failed the call with OK: {text}"
            ));
        }
        self.metrics.picked(match pick {
            Pick::Instance(_) => PickResult::Instance,
            Pick::Queue | Pick::Wait(_) => PickResult::Queue,
            Pick::Fail(_) => PickResult::Fail,
            Pick::Drop(_) => PickResult::Drop,
        });
        pick
    }

    /// Tells the policy that the response of an attempt has begun.
    pub(crate) fn responding(&self, picked: &Picked, after: Duration) {
        let Some(picker) = &self.picker else { return };
        if let Err(panic) = contain(|| picker.responding(picked, after)) {
            self.panics.add(Method::Responding, &panic);
        }
    }

    /// Hands the outcome of an attempt to the policy. It may be called while the caller's task unwinds, where a panic that
    /// is not contained would abort the process.
    pub(crate) fn done(&self, picked: &Picked, outcome: &Outcome<'_>) {
        let Some(picker) = &self.picker else { return };
        if let Err(panic) = contain(|| picker.done(picked, outcome)) {
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
pub(super) struct Panics {
    policy: &'static str,
    /// For each [`Method`].
    logged: Arc<[AtomicBool; 6]>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Method {
    Others,
    Picker,
    Due,
    Pick,
    Responding,
    Done,
}

impl Panics {
    /// Returns those of a policy of this type.
    pub(super) fn of<P>() -> Self {
        Self { policy: type_name::<P>(), logged: Arc::default() }
    }

    /// Returns the text for calls.
    pub(super) fn add(&self, method: Method, panic: &str) -> String {
        let policy = self.policy;
        let is_logged = self.logged[method as usize].swap(true, Ordering::Relaxed);
        let method = match method {
            Method::Others => "others",
            Method::Picker => "picker",
            Method::Due => "due",
            Method::Pick => "pick",
            Method::Responding => "responding",
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

#[cfg(test)]
mod tests {
    use hither_core::Instance;

    use super::*;
    use crate::client::balance::RoundRobin;

    /// Asks for another picker at once, and panics instead of making it.
    #[derive(Debug, Default)]
    struct Once(bool);

    impl LoadBalancingPolicy for Once {
        fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
            assert!(!std::mem::replace(&mut self.0, true), "as expected");
            RoundRobin::default().picker(ready)
        }

        fn due(&self) -> Option<Instant> {
            Some(Instant::now())
        }
    }

    /// Or the pool would ask it over and over.
    #[tokio::test(start_paused = true)]
    async fn a_policy_that_has_panicked_is_not_due() {
        let mut policy = Policy::new(Once::default());
        let instance = ReadyInstance::new(Arc::new(Instance::new("h:1".parse().unwrap())));
        let (ready, metrics) = (SortedById::from_iter([instance]), ChannelMetrics::new("greeter"));
        policy.picker(&ready, &metrics).unwrap();
        assert_eq!(policy.due(), Some(Instant::now() + PACE));
        policy.picker(&ready, &metrics).unwrap_err();
        assert_eq!(policy.due(), None);
    }
}
