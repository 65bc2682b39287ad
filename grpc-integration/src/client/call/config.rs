//! The settings of calls.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::Status;

use crate::client::call_headers::CallAuthority;
use crate::client::ready_instance::ReadyInstance;
use crate::client::retry::Methods;
use crate::client::telemetry::Propagation;
use crate::deadline::CallDeadline;

/// Sets for a single call whether it waits until an instance is ready, whatever the channel's own setting.
///
/// A call that does not wait fails with UNAVAILABLE as soon as it is known that no instance is ready; a
/// wait-for-ready call waits until its deadline. It goes into the request's extensions:
///
/// ```
/// use hither_tonic::WaitForReady;
///
/// let mut request = tonic::Request::new("a message");
/// request.extensions_mut().insert(WaitForReady(true));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaitForReady(pub bool);

/// The instance that a call is sent to, for logs, metrics and tests. It goes into the request's extensions, and may be
/// looked at at any time, after a failure too.
///
/// ```
/// use hither_tonic::CalledInstance;
///
/// let called = CalledInstance::default();
/// let mut request = tonic::Request::new("a message");
/// request.extensions_mut().insert(called.clone());
/// // let answer = client.say_hello(request).await;
/// assert!(called.get().is_none(), "it was not sent yet");
/// ```
#[derive(Debug, Clone, Default)]
pub struct CalledInstance(Arc<Mutex<Option<ReadyInstance>>>);

impl CalledInstance {
    /// Returns the instance of the latest attempt, or of the one that was answered; `None` if there was none yet.
    pub fn get(&self) -> Option<ReadyInstance> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, instance: &ReadyInstance) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(instance.clone());
    }
}

/// The settings that all calls of a channel share.
#[derive(Debug)]
pub(crate) struct CallConfig {
    pub(crate) authority: CallAuthority,
    pub(crate) default_timeout: Option<Duration>,
    /// The margin by which calls end before the one that is being served. `None`: they do not end with it.
    pub(crate) inherit_deadline: Option<Duration>,
    pub(crate) wait_for_ready: bool,
    pub(crate) propagation: Option<Propagation>,
    /// `None`: no method has settings of its own.
    pub(crate) methods: Option<Box<Methods>>,
}

/// The settings of one call, where it has none of its own.
#[derive(Debug)]
pub(super) struct CallSettings {
    /// The longest time that it may take, if there is a limit.
    pub(super) limit: Option<Duration>,
    pub(super) wait_for_ready: bool,
    /// The index of its method, if that has a policy.
    pub(super) policy: Option<usize>,
}

impl CallConfig {
    /// Returns the settings of a call of `path` that is made now.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED if there is no time for a call.
    pub(super) fn of(&self, path: &str) -> Result<CallSettings, Status> {
        let mut settings =
            CallSettings { limit: self.default_timeout, wait_for_ready: self.wait_for_ready, policy: None };
        if let Some(methods) = &self.methods
            && let Some(index) = methods.find(path)
            && let Some(method) = methods.at(index)
        {
            settings.limit = method.timeout.or(settings.limit);
            settings.wait_for_ready = method.wait_for_ready.unwrap_or(settings.wait_for_ready);
            settings.policy = method.policy.is_some().then_some(index);
        }
        if let Some((margin, served)) = self.inherit_deadline.zip(CallDeadline::current()) {
            let left = left(served, margin)?;
            settings.limit = Some(settings.limit.map_or(left, |timeout| timeout.min(left)));
        }
        Ok(settings)
    }
}

/// The time that a call has which is made for the one that is being served.
fn left(served: CallDeadline, margin: Duration) -> Result<Duration, Status> {
    let left = served.left();
    match left.checked_sub(margin) {
        Some(limit) if !limit.is_zero() => Ok(limit),
        _ if left.is_zero() => Err(Status::deadline_exceeded(
            "not sent: the deadline of the call that is being served has passed",
        )),
        _ => Err(Status::deadline_exceeded(format!(
            "not sent: {left:?} is left of the call that is being served, and the margin is {margin:?}"
        ))),
    }
}
