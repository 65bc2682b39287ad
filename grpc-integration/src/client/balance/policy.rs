//! The contract between the channel and a load balancing policy.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tonic::{Code, Status};

use crate::client::ready_instance::ReadyInstance;

/// Makes a [`Picker`] for each set of ready instances. [`LeastRequest`](crate::LeastRequest),
/// [`RoundRobin`](crate::RoundRobin) and [`Sticky`](crate::Sticky) are here; write your own for more.
///
/// The channel's pool asks for a new picker whenever the set changes, and swaps it in at once. It never asks
/// with an empty set.
///
/// ```
/// use std::sync::Arc;
/// use hither_tonic::{CallInfo, ReadyInstance, LoadBalancingPolicy, Outcome, Pick, Picker};
///
/// /// Sends all calls with the same `x-user` header to the same instance.
/// #[derive(Debug)]
/// struct ByUser;
///
/// #[derive(Debug)]
/// struct ByUserPicker(Vec<ReadyInstance>);
///
/// impl LoadBalancingPolicy for ByUser {
///     fn picker(&self, ready: &[ReadyInstance], _previous: Option<&Arc<dyn Picker>>) -> Arc<dyn Picker> {
///         Arc::new(ByUserPicker(ready.to_vec()))
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
///     fn done(&self, _endpoint: &ReadyInstance, _outcome: &Outcome) {}
/// }
/// ```
pub trait LoadBalancingPolicy: Debug + Send + Sync + 'static {
    /// A picker over `ready`, which has at least one endpoint and is sorted by instance id.
    ///
    /// `previous` is this policy's last picker, to take over what it knows: it is [`Any`], so it can be
    /// downcast. In-flight counts live in the [`ReadyInstance`]s and survive by themselves.
    fn picker(&self, ready: &[ReadyInstance], previous: Option<&Arc<dyn Picker>>) -> Arc<dyn Picker>;
}

/// Chooses an endpoint for each call. Both methods run on the call's own task: they must be quick and never
/// block.
pub trait Picker: Any + Debug + Send + Sync {
    /// The decision for one attempt of a call.
    ///
    /// When the chosen endpoint has no room for another stream at the moment, the channel asks again a few
    /// times, and then takes whichever ready endpoint has room.
    fn pick(&self, call: &CallInfo<'_>) -> Pick;

    /// Told once for each attempt made on `endpoint`, when it is over: when the response body has ended or
    /// was dropped, not when the headers came.
    fn done(&self, endpoint: &ReadyInstance, outcome: &Outcome);
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

/// What a [`Picker`] knows of a call.
#[derive(Debug, Clone, Copy)]
pub struct CallInfo<'a> {
    path: &'a str,
    headers: &'a HeaderMap,
}

impl<'a> CallInfo<'a> {
    /// A call of `path` with these headers: for tests of policies.
    pub fn new(path: &'a str, headers: &'a HeaderMap) -> Self {
        Self { path, headers }
    }

    /// The method called, as `/package.Service/Method`.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The request's headers, which are its metadata.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    code: Code,
    duration: Duration,
}

impl Outcome {
    /// An attempt that ended with `code` after `duration`: for tests of policies.
    pub fn new(code: Code, duration: Duration) -> Self {
        Self { code, duration }
    }

    /// The gRPC status: `Cancelled` when the caller dropped the call, `Unavailable` when the connection was
    /// lost or the request never left.
    pub fn code(&self) -> Code {
        self.code
    }

    /// From the pick to the end of the response body.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}
