//! One call: pick, send, and retry what was not processed, or what a policy has retried.
//!
//! Nearly every call finds a connection with capacity at once and is answered: that way is a small state machine
//! ([`ResponseFuture`]) without an allocation of its own. Whatever else may happen is in [`Remainder`], above which are
//! retries and hedges.

mod any_other;
mod attempt;
mod config;
mod content;
mod deadline;
mod failure;
mod head;
mod hedging;
mod pick;
mod progress;
mod remainder;
mod response_body;
mod retrying;

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hither_core::ServiceName;
use http::{Request, Response};
use http_body::Body as _;
use tokio::task::coop::poll_proceed;
use tonic::body::Body;
use tonic::{Code, Status};

use super::balance::CallInfo;
use super::metrics::ChannelMetrics;
use super::pool::StateReader;
use super::retry::{Limits, Policy};
use super::telemetry::{CallContext, CallTelemetry};
use super::transport::{RequestBody, ResponseBody, Sending, Slot};
use crate::grpc_response::{ResponseKind, code_in};
use crate::task::Task;
use attempt::Attempt;
pub(crate) use config::CallConfig;
pub use config::{CalledInstance, WaitForReady};
use content::Content;
use deadline::Timer;
use failure::Failure;
use head::Head;
use pick::{Picking, Unpicked};
use progress::Progress;
use remainder::{First, Remainder};
use response_body::CallBody;

/// What all calls of a channel share.
#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) service: ServiceName,
    pub(crate) state: Arc<StateReader>,
    pub(crate) config: CallConfig,
    pub(crate) metrics: ChannelMetrics,
    /// Ends with the last call that has no response yet.
    pub(crate) _pool: Task,
}

/// The future of a call's response. Dropping it cancels the call.
#[must_use = "a call is cancelled when its future is dropped"]
pub struct ResponseFuture(Stage);

#[allow(clippy::large_enum_variant, reason = "the large variant is nearly every call's")]
enum Stage {
    Sent {
        sending: Sending,
        /// Taken when there is an outcome. It ends before its call does.
        attempt: Option<Attempt>,
        call: Call,
    },
    Remainder(Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>),
    /// The call is over, with this status if it was not returned yet.
    Over(Option<Status>),
}

/// A call that was begun.
struct Call {
    calls: Arc<Calls>,
    head: Head,
    content: Content,
    /// One for the whole call, to the end of its response. Made when the call is awaited for the first time, because it
    /// needs a runtime.
    timer: Option<Timer>,
    context: CallContext,
    /// Taken when the call has a response, with whose body it ends.
    telemetry: Option<CallTelemetry>,
    /// The index of the method's settings, if it has a policy.
    policy: Option<usize>,
}

impl ResponseFuture {
    /// Begins the call: if there is an instance with capacity, it is sent.
    pub(crate) fn new(calls: Arc<Calls>, request: Request<Body>) -> Self {
        Self(Stage::begin(calls, request))
    }
}

impl Stage {
    fn begin(calls: Arc<Calls>, mut request: Request<Body>) -> Self {
        let (service, path) = (calls.service.as_str(), request.uri().path());
        let mut telemetry = CallTelemetry::begin(&calls.metrics, service, path, request.extensions());
        let settings = match calls.config.of(request.uri().path()) {
            Ok(settings) => settings,
            Err(status) => return Self::failed(&mut telemetry, status),
        };
        // Before the body is read, which may take its time to encode a message.
        let head = Head::of(&mut request, &settings);
        let content = match Content::begin(mem::take(request.body_mut())) {
            Ok(content) => content,
            Err(status) => return Self::failed(&mut telemetry, status),
        };
        let context = telemetry.context();
        let (timer, telemetry, policy) = (None, Some(telemetry), settings.policy);
        let mut call = Call { calls, head, content, timer, context, telemetry, policy };
        if let Some((_, limits)) = call.policy() {
            limits.on_call();
        }
        let info = CallInfo::new(call.head.path(), request.headers(), &call.head.extensions);
        let Some(picked) = call.picking(info, 0).now(&mut Progress::Picking) else {
            return Self::remainder(call, First::Unpicked(request.map(drop)));
        };
        let (mut attempt, slot) = match picked {
            Ok(reserved) => reserved.begin(),
            Err(unpicked @ Unpicked::Failed(_)) if call.policy.is_some() => {
                return Self::remainder(call, First::Failed(Failure::from(unpicked)));
            }
            Err(unpicked) => return Self::over(&mut call, unpicked.into_status()),
        };
        let Some(body) = call.content.attempt() else {
            return Self::over(&mut call, Status::internal("the request body was sent before"));
        };
        match call.send(&mut attempt, slot, request.map(drop), body, None) {
            Ok(sending) if call.is_hedged() => Self::remainder(call, First::Sent(attempt, sending)),
            Ok(sending) => Self::Sent { sending, attempt: Some(attempt), call },
            Err(status) => Self::over(&mut call, status),
        }
    }

    fn remainder(call: Call, first: First) -> Self {
        Self::Remainder(Box::pin(call.finish(first)))
    }

    fn over(call: &mut Call, status: Status) -> Self {
        call.ended(status.code());
        Self::Over(Some(status))
    }

    fn failed(telemetry: &mut CallTelemetry, status: Status) -> Self {
        telemetry.ended(status.code());
        Self::Over(Some(status))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stage = &mut self.0;
        if let Stage::Sent { sending, call, attempt } = stage {
            let Poll::Ready(ended) = Pin::new(&mut *sending).poll(cx) else {
                let (Some(deadline), Some(attempt)) = (call.head.deadline, attempt) else {
                    return Poll::Pending;
                };
                ready!(call.timer.get_or_insert_with(|| Timer::new(deadline)).poll(cx));
                let status = attempt.exceeded(&deadline, Some(sending));
                call.ended(status.code());
                *stage = Stage::Over(None);
                return Poll::Ready(Err(status));
            };
            let Some(attempt) = attempt.take() else { return Poll::Pending };
            let kind =
                ended.as_ref().ok().map(|response| ResponseKind::of(response.status(), response.headers()));
            match (ended, kind) {
                (Ok(response), Some(kind))
                    if kind.is_grpc && !call.is_late(kind.code) && call.failed(kind.code).is_none() =>
                {
                    let response = call.respond(response, kind.code, attempt);
                    *stage = Stage::Over(None);
                    return Poll::Ready(Ok(response));
                }
                (ended, _) => {
                    let Stage::Sent { call, .. } = mem::replace(stage, Stage::Over(None)) else {
                        return Poll::Pending;
                    };
                    *stage = Stage::remainder(call, First::Ended(attempt, ended));
                }
            }
        }
        match stage {
            Stage::Remainder(remainder) => remainder.as_mut().poll(cx),
            Stage::Over(None) => Poll::Pending,
            Stage::Over(status) => {
                // A caller that repeats calls which fail at once would never yield, and keep its thread from all other tasks.
                ready!(poll_proceed(cx)).made_progress();
                status.take().map_or(Poll::Pending, |status| Poll::Ready(Err(status)))
            }
            Stage::Sent { .. } => Poll::Pending,
        }
    }
}

impl Call {
    /// The policy of its method, and what bounds it.
    fn policy(&self) -> Option<(&Policy, &Arc<Limits>)> {
        let methods = self.calls.config.methods.as_ref()?;
        Some((methods.at(self.policy?)?.policy.as_ref()?, &methods.limits))
    }

    fn is_hedged(&self) -> bool {
        self.policy.is_some()
            && matches!(self.policy(), Some((Policy::Hedge(_), _)))
            && self.content.is_complete()
    }

    /// Returns whether its policy has another attempt made after one that has failed with this code.
    fn is_repeated_after(&self, code: Code) -> bool {
        self.policy().is_some_and(|(policy, _)| match policy {
            Policy::Retry(retry) => retry.is_retryable(code),
            Policy::Hedge(hedging) => hedging.is_non_fatal(code),
        })
    }

    /// Returns the code in the headers of a response if that is a failure for the policy to look at.
    fn failed(&self, code: Option<Code>) -> Option<Code> {
        code.filter(|code| self.policy.is_some() && *code != Code::Ok)
    }

    /// Whether it was cancelled, by the code in the headers, because its time was over. A server that knows the deadline may do so before the timer here
    /// fires, as tonic's does: to the caller that is DEADLINE_EXCEEDED.
    fn is_late(&self, code: Option<Code>) -> bool {
        code == Some(Code::Cancelled) && self.head.deadline.is_some_and(|deadline| deadline.has_passed())
    }

    /// `previous`: how many attempts there were before.
    fn picking<'a>(&'a self, info: CallInfo<'a>, previous: u32) -> Picking<'a> {
        let info = info.of_attempt(previous, &self.head.chance);
        Picking { state: &self.calls.state, info, wait_for_ready: self.head.wait_for_ready, tried: &[] }
    }

    /// Runs the call to its response.
    async fn finish(mut self, first: First) -> Result<Response<Body>, Status> {
        let timer = self.timer.take();
        let (result, timer) = {
            let mut remainder = Remainder::of(&self, timer);
            match self.policy() {
                None => (remainder.run(first).await, remainder.timer),
                Some((Policy::Retry(retry), limits)) => {
                    (retrying::retry(&self, &mut remainder, (retry, limits), first).await, remainder.timer)
                }
                Some((Policy::Hedge(hedging), limits)) => {
                    // In a box of its own, so that the futures of all other calls are not as large.
                    let hedged = Box::pin(hedging::hedge(&self, remainder, (hedging, limits), first));
                    let (result, remainder) = hedged.await;
                    (result, remainder.timer)
                }
            }
        };
        self.timer = timer;
        match result.or_else(|failure| failure.outcome.map(|answer| *answer)) {
            Ok((response, attempt)) => {
                let code = code_in(response.headers());
                Ok(self.respond(response, code, attempt))
            }
            Err(status) => {
                self.ended(status.code());
                Err(status)
            }
        }
    }

    /// Sends one attempt. `previous`: how many there were before; `None` if it is the first and has not waited.
    fn send(
        &self,
        attempt: &mut Attempt,
        slot: Slot,
        mut request: Request<()>,
        mut body: RequestBody,
        previous: Option<u32>,
    ) -> Result<Sending, Status> {
        if let Some(called) = self.head.extensions.get::<CalledInstance>() {
            called.set(attempt.instance());
        }
        if let Some((_, limits)) = self.policy()
            && limits.has_tokens()
        {
            attempt.counts_in(limits);
        }
        let path = self.head.path();
        let repeats = (previous.unwrap_or_default(), self.is_hedged());
        attempt.telemetry =
            self.context.attempt(path, attempt.instance(), attempt.connection(), &mut body, repeats);
        let complete = self.head.complete(
            &mut request,
            &self.calls.config,
            attempt.connection(),
            previous,
            &attempt.telemetry,
        );
        complete.inspect_err(|status| attempt.unsent(status.code()))?;
        Ok(Sending::new(slot, request, body, self.head.deadline.map(|deadline| deadline.at)))
    }

    /// `code`: the status in its headers.
    fn respond(
        &mut self,
        response: Response<ResponseBody>,
        code: Option<Code>,
        mut attempt: Attempt,
    ) -> Response<Body> {
        attempt.answered();
        // A status that is no success ends the call for its caller, who reads no further. Proxies send it without the end of
        // the stream (nginx for one), which comes later.
        if response.body().is_end_stream() || code.is_some_and(|code| code != Code::Ok) {
            let code = attempt.ended_with(response.headers());
            self.ended(code);
        }
        let request = mem::take(&mut self.content).commit();
        // There is none yet if the response was there when the call was first awaited.
        let timer = self.timer.take().or_else(|| self.head.deadline.map(Timer::new));
        let telemetry = self.telemetry.take();
        response.map(|body| Body::new(CallBody::new(body, code, request, attempt, timer, telemetry)))
    }

    /// It has ended with this status; what comes first counts.
    fn ended(&mut self, code: Code) {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.ended(code);
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
