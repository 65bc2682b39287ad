//! The contract between a channel and its load balancing policy.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use hither_core::SortedById;
use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::client::ready_instance::ReadyInstance;

/// A load balancing policy: makes a [`Picker`] for each set of ready instances. [`LeastRequest`](crate::LeastRequest),
/// [`RoundRobin`](crate::RoundRobin) and [`Sticky`](crate::Sticky) are provided; others can be implemented.
///
/// The channel calls it whenever the set changes, and uses the new picker at once. The set is never empty.
///
/// A panic is contained, and the first of each method is logged at ERROR. After one of [`picker`](Self::picker) the last
/// picker stays in use until the set changes again, or calls fail with INTERNAL if there is none; one of [`Picker::pick`]
/// fails its call with INTERNAL; one of [`Picker::done`] changes nothing.
///
/// ```
/// use std::sync::Arc;
/// use hither_core::SortedById;
/// use hither_tonic::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker, ReadyInstance};
///
/// /// Sends all calls with the same `x-user` header to the same instance.
/// #[derive(Debug)]
/// struct ByUser;
///
/// #[derive(Debug)]
/// struct ByUserPicker(SortedById<ReadyInstance>);
///
/// impl LoadBalancingPolicy for ByUser {
///     fn picker(&self, ready: &SortedById<ReadyInstance>, _previous: Option<&Arc<dyn Picker>>) -> Arc<dyn Picker> {
///         Arc::new(ByUserPicker(ready.clone()))
///     }
/// }
///
/// impl Picker for ByUserPicker {
///     fn pick(&self, call: &CallInfo<'_>) -> Pick {
///         let user = call.headers().get("x-user").map_or(&[][..], |user| user.as_bytes());
///         let hash =
///             user.iter().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add((*byte).into()));
///         Pick::Instance(self.0[hash % self.0.len()].clone())
///     }
///
///     fn done(&self, _instance: &ReadyInstance, _outcome: &Outcome) {}
/// }
/// ```
pub trait LoadBalancingPolicy: Debug + Send + Sync + 'static {
    /// Returns a picker over `ready`, which has at least one element.
    ///
    /// It shares with the list before what has not changed, and a clone costs nothing: a policy that makes no list of
    /// its own keeps a change as cheap with 100,000 instances as with ten.
    ///
    /// `previous` is this policy's last picker, to take over its state: it is [`Any`], so it can be downcast. The
    /// in-flight counts belong to the [`ReadyInstance`]s and need not be taken over.
    fn picker(
        &self,
        ready: &SortedById<ReadyInstance>,
        previous: Option<&Arc<dyn Picker>>,
    ) -> Arc<dyn Picker>;
}

/// Picks an instance for each call. Both methods run on the call's own task: they must be quick and never block.
pub trait Picker: Any + Debug + Send + Sync {
    /// Returns the decision for one attempt of a call.
    ///
    /// If the instance has no stream capacity at the moment, the channel asks again a few times, and then takes any
    /// ready instance that has.
    fn pick(&self, call: &CallInfo<'_>) -> Pick;

    /// Is called once for each attempt on `instance`, at its end: when the response body has ended or was dropped,
    /// not when the headers arrived.
    fn done(&self, instance: &ReadyInstance, outcome: &Outcome);
}

/// The outcome of [`Picker::pick`], with gRPC's semantics.
#[derive(Debug)]
#[non_exhaustive]
pub enum Pick {
    /// The attempt is sent to this instance.
    Instance(ReadyInstance),
    /// The call is queued until the next picker is published, at most until its deadline.
    Queue,
    /// The call fails with this status, unless it is [wait-for-ready](crate::WaitForReady): then it is queued
    /// like [`Queue`](Self::Queue).
    Fail(Status),
    /// The call fails with this status, even if it is wait-for-ready, and is never retried: for load shedding
    /// and quotas.
    Drop(Status),
}

/// What a [`Picker`] is given of a call.
#[derive(Debug, Clone, Copy)]
pub struct CallInfo<'a> {
    path: &'a str,
    headers: &'a HeaderMap,
}

impl<'a> CallInfo<'a> {
    /// Returns a call of `path` with these headers: for tests of policies.
    pub fn new(path: &'a str, headers: &'a HeaderMap) -> Self {
        Self { path, headers }
    }

    /// Returns the method called, as `/package.Service/Method`.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// Returns the request's headers, which are its metadata.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }
}

/// The outcome of an attempt.
#[derive(Debug, Clone)]
pub struct Outcome {
    code: Code,
    time: Time,
}

/// The clock is only read for policies that ask.
#[derive(Debug, Clone)]
enum Time {
    Since(Instant),
    Took(Duration),
}

impl Outcome {
    /// Returns the outcome of an attempt that ended with `code` after `duration`: for tests of policies.
    pub fn new(code: Code, duration: Duration) -> Self {
        Self { code, time: Time::Took(duration) }
    }

    /// Returns the outcome of an attempt that began then and ends now.
    pub(crate) fn since(code: Code, began: Instant) -> Self {
        Self { code, time: Time::Since(began) }
    }

    /// Returns the gRPC status: `Cancelled` when the caller dropped the call, `Unavailable` when the connection was
    /// lost or the request was never sent.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Returns the time from the pick to the end of the response body, which is now: [`Picker::done`] is called then.
    pub fn duration(&self) -> Duration {
        match self.time {
            Time::Since(began) => began.elapsed(),
            Time::Took(duration) => duration,
        }
    }
}
