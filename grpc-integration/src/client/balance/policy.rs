//! The contract between a channel and its load balancing policy.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hither_core::SortedById;
use http::{Extensions, HeaderMap};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::others::Others;
use super::random::{self, Random};
use crate::client::evidence::Evidence;
use crate::client::ready_instance::{Picked, ReadyInstance};

/// A load balancing policy: makes a [`Picker`] for each set of ready instances. Those that are provided are on
/// [a page of their own](crate::guide::balancing); others can be implemented.
///
/// Each channel has one of its own, which keeps what must survive a change of the set in its fields. A task of the
/// channel calls it whenever the set changes and when [`due`](Self::due) has come, and uses the new picker at once. So it
/// must be quick and never block.
///
/// A panic is contained, and the first of each method is logged at ERROR. After one of [`picker`](Self::picker) the last
/// picker stays in use until the set changes again, or calls fail with INTERNAL if there is none; one of
/// [`due`](Self::due) is like `None`; one of [`others`](Self::others) changes nothing; one of [`Picker::pick`] fails its call with INTERNAL; one of [`Picker::responding`] or
/// [`Picker::done`] changes nothing.
///
/// ```
/// use std::sync::Arc;
/// use hither_core::SortedById;
/// use hither_tonic::{CallInfo, LoadBalancingPolicy, Pick, Picker, ReadyInstance};
///
/// /// Sends all calls with the same `x-user` header to the same instance.
/// #[derive(Debug)]
/// struct ByUser;
///
/// #[derive(Debug)]
/// struct ByUserPicker(SortedById<ReadyInstance>);
///
/// impl LoadBalancingPolicy for ByUser {
///     fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
///         Arc::new(ByUserPicker(ready.clone()))
///     }
/// }
///
/// impl Picker for ByUserPicker {
///     fn pick(&self, call: &CallInfo<'_>) -> Pick {
///         let user = call.headers().get("x-user").map_or(&[][..], |user| user.as_bytes());
///         let hash =
///             user.iter().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add((*byte).into()));
///         Pick::Instance(self.0[hash % self.0.len()].clone().into())
///     }
/// }
/// ```
pub trait LoadBalancingPolicy: Debug + Send + 'static {
    /// Returns a picker over `ready`, which has at least one element.
    ///
    /// It shares with the list before what has not changed, and a clone costs nothing: a policy that makes no list of
    /// its own keeps a change as cheap with 100,000 instances as with ten. The in-flight counts belong to the
    /// [`ReadyInstance`]s and need not be taken over.
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker>;

    /// Returns when a picker is to be made anew though the set has not changed, for example because the share of an
    /// instance grows with time. Asked after each [`picker`](Self::picker). Default: never.
    ///
    /// It counts for as long as instances are ready, and is at least ten milliseconds after the last picker.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Takes in the instances besides the ready ones, before [`picker`](Self::picker), if it
    /// [follows](Self::follows_others) them. For a policy by which a call may go to some of the instances only: it can let the
    /// call [wait](Pick::Wait) for one that is being connected to, instead of failing it. Default: nothing.
    fn others(&mut self, others: &Others) {
        let _ = others;
    }

    /// Returns whether [`others`](Self::others) is to be called, and a picker made anew whenever they have changed. Asked once.
    /// Default: no.
    fn follows_others(&self) -> bool {
        false
    }

    /// Returns whether [slow start](crate::SlowStart) changes the weights that [`picker`](Self::picker) sees. Asked once.
    /// Default: yes. Not for policies by which all clients are to send the same call to the same instance: each client has
    /// seen the instances join at another time.
    fn has_slow_start(&self) -> bool {
        true
    }

    /// Checks the settings, while the channel is made, and on the task that makes it. Default: they are valid.
    ///
    /// # Errors
    /// What is wrong with which setting: the channel is not made, and this is the text of the
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument).
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Picks an instance for each call. All methods run on the call's own task: they must be quick and never block.
pub trait Picker: Debug + Send + Sync {
    /// Returns the decision for one attempt of a call.
    ///
    /// If the instance has no stream capacity at the moment, the channel asks again a few times, and then takes any
    /// ready instance that has: of a few random ones the one with the fewest calls for its weight, or of all if those
    /// have none; one of weight 0 last. Where [`Lanes`](crate::Lanes) has picked, one of the same lane.
    ///
    /// Each instance that it has picked is the subject of one call of [`done`](Self::done), at once if the pick has come
    /// to nothing: so what is counted here can be taken back there.
    fn pick(&self, call: &CallInfo<'_>) -> Pick;

    /// Is called at most once for an attempt, before [`done`](Self::done): its response has begun, and the caller waits for the
    /// rest. `after` is the time since the pick. So an open stream can be told from a call that is not answered. Default:
    /// nothing.
    ///
    /// It is not called where the whole response has come when its body is read, as that of most unary calls.
    fn responding(&self, picked: &Picked, after: Duration) {
        let _ = (picked, after);
    }

    /// Is called once for each attempt that this picker was asked for: when its status is known, which is at the end of
    /// the response and not at its headers, or when the caller has dropped the call. The attempt is still in flight.
    /// And once for each pick that has come to nothing, because the instance had no stream capacity, was being tried by
    /// another call ([`OutlierDetection`](crate::OutlierDetection)), has had an attempt of the same call, or is not to be
    /// called any more (the picker of a policy that has panicked since), or because calls that came before wait for its
    /// [lane](crate::Lanes): that was not [sent](Outcome::was_sent), with the status CANCELLED. Default: nothing.
    ///
    /// `picked` is what [`pick`](Self::pick) has returned. If the channel took an instance that has stream capacity
    /// instead, there is an attempt on that one with the token [`Picked::NO_TOKEN`].
    fn done(&self, picked: &Picked, outcome: &Outcome<'_>) {
        let _ = (picked, outcome);
    }
}

/// The outcome of [`Picker::pick`], with gRPC's semantics. A call that is failed or dropped with the status OK has not
/// succeeded: it fails with INTERNAL.
#[derive(Debug)]
#[non_exhaustive]
pub enum Pick {
    /// The attempt is sent to this instance.
    Instance(Picked),
    /// The call is queued until the next picker is published, at most until its deadline.
    Queue,
    /// The call is queued like [`Queue`](Self::Queue), for this reason: the message of the error if its deadline passes.
    Wait(Cow<'static, str>),
    /// The call fails with this status, unless it is [wait-for-ready](crate::WaitForReady): then it is queued
    /// like [`Queue`](Self::Queue).
    Fail(Status),
    /// The call fails with this status, even if it is wait-for-ready, and is never retried: for load shedding
    /// and quotas.
    Drop(Status),
}

/// What a [`Picker`] is given of a call: the same for all of its attempts.
#[derive(Debug, Clone, Copy)]
pub struct CallInfo<'a> {
    path: &'a str,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    /// What is drawn for the call, and the number of its attempt.
    chance: Option<(&'a OnceLock<u64>, u32)>,
}

impl<'a> CallInfo<'a> {
    /// Returns a call of `path` with these headers and extensions: for tests of policies.
    pub fn new(path: &'a str, headers: &'a HeaderMap, extensions: &'a Extensions) -> Self {
        Self { path, headers, extensions, chance: None }
    }

    /// Sets the number of the attempt, and where the call keeps what is drawn for it.
    pub(crate) fn of_attempt(mut self, attempt: u32, of_call: &'a OnceLock<u64>) -> Self {
        self.chance = Some((of_call, attempt));
        self
    }

    /// Returns the same call for a policy within the one that was asked, which draws other numbers.
    pub(crate) fn within(mut self) -> Self {
        if let Some((_, attempt)) = &mut self.chance {
            // No call has so many attempts.
            *attempt = attempt.wrapping_add(1 << 16);
        }
        self
    }

    /// Returns a random number, the same one however often the attempt is picked for.
    pub(crate) fn chance(&self, random: &Random) -> u64 {
        let Some((of_call, attempt)) = self.chance else { return random.draw() };
        random::at(*of_call.get_or_init(|| random.draw()), attempt.into())
    }

    /// Returns the method called, as `/package.Service/Method`.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// Returns the request's headers, which are its metadata.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the request's extensions: what the program tells the policy of this call, and what is not sent.
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }
}

/// The outcome of an attempt.
#[derive(Debug, Clone)]
pub struct Outcome<'a> {
    code: Code,
    time: Time,
    trailers: Option<&'a HeaderMap>,
    was_sent: bool,
    was_responding: bool,
    evidence: Evidence,
}

/// The clock is only read for policies that ask.
#[derive(Debug, Clone)]
enum Time {
    Since(Instant),
    Took(Duration),
}

impl<'a> Outcome<'a> {
    /// Returns the outcome of an attempt that was sent and ended with `code` after `duration`: for tests of policies.
    pub fn new(code: Code, duration: Duration) -> Self {
        Self::of(code, Time::Took(duration))
    }

    /// Returns the outcome of an attempt that was sent, began then and ends now.
    pub(crate) fn since(code: Code, began: Instant) -> Self {
        Self::of(code, Time::Since(began))
    }

    fn of(code: Code, time: Time) -> Self {
        Self {
            code,
            time,
            trailers: None,
            was_sent: true,
            was_responding: false,
            evidence: Evidence::of(code),
        }
    }

    /// Sets the response's trailers.
    #[must_use]
    pub fn with_trailers(mut self, trailers: &'a HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }

    /// Sets that the request was never sent.
    #[must_use]
    pub fn unsent(mut self) -> Self {
        self.was_sent = false;
        self.without_evidence()
    }

    /// Sets that it tells nothing of the instance.
    pub(crate) fn without_evidence(mut self) -> Self {
        self.evidence = Evidence::None;
        self
    }

    /// Sets whether [`Picker::responding`] was called before. Default: no.
    #[must_use]
    pub fn with_responding(mut self, was_responding: bool) -> Self {
        self.was_responding = was_responding;
        self
    }

    /// Returns the gRPC status: `Cancelled` when the caller dropped the call or its request stream has failed,
    /// `Unavailable` when the connection was lost or the server has refused the request, `Internal` when the response does not
    /// begin as a message of gRPC's.
    ///
    /// A message that the caller's decoder does not accept (it is larger than its limit, or no message of the expected type) is
    /// `Cancelled`: the decoder drops the response, and whose fault that is cannot be seen here.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Returns the time from the pick to the end of the response, which is now: [`Picker::done`] is called then.
    pub fn duration(&self) -> Duration {
        match self.time {
            Time::Since(began) => began.elapsed(),
            Time::Took(duration) => duration,
        }
    }

    /// Returns the response's trailers, which are its headers if it has nothing else. `None` if it has not ended by
    /// itself.
    pub fn trailers(&self) -> Option<&'a HeaderMap> {
        self.trailers
    }

    /// Returns whether the request was sent, as far as is known. One that was not, because the connection was lost before,
    /// its deadline has passed before, or the server accepts no headers as large as these, tells nothing of how the instance
    /// treats calls.
    pub fn was_sent(&self) -> bool {
        self.was_sent
    }

    /// Returns whether [`Picker::responding`] was called before.
    pub fn was_responding(&self) -> bool {
        self.was_responding
    }

    /// Returns what it tells of the instance.
    pub(crate) fn evidence(&self) -> Evidence {
        self.evidence
    }
}
