//! One call: pick, send, and retry transparently what was not processed.
//!
//! Nearly every call finds a connection with capacity at once and is answered: that way is a small state machine
//! ([`ResponseFuture`]) without an allocation of its own. Whatever else may happen is in [`Remainder`].

mod attempt;
mod config;
mod content;
mod deadline;
mod head;
mod http_status;
mod pick;
mod progress;
mod remainder;
mod response_body;

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hither_core::ServiceName;
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use tokio::task::coop::poll_proceed;
use tonic::Status;
use tonic::body::Body;

use super::balance::CallInfo;
use super::metrics::ChannelMetrics;
use super::pool::StateReader;
use super::telemetry::{CallContext, CallTelemetry};
use super::transport::{RequestBody, ResponseBody, Sending, Slot};
use crate::task::Task;
use attempt::Attempt;
pub(crate) use config::{CallAuthority, CallConfig};
pub use config::{CalledInstance, WaitForReady};
use content::Content;
use deadline::Timer;
use head::Head;
use pick::Picking;
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
pub struct ResponseFuture {
    stage: Stage,
    /// Taken when the call has a response, with whose body it ends.
    telemetry: Option<CallTelemetry>,
}

#[allow(clippy::large_enum_variant, reason = "the large variant is nearly every call's")]
enum Stage {
    Sent {
        sending: Sending,
        call: Call,
        /// Taken when there is an outcome.
        attempt: Option<Attempt>,
    },
    Remainder(Pin<Box<dyn Future<Output = Result<Response<CallBody>, Status>> + Send>>),
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
}

impl ResponseFuture {
    /// Begins the call: if there is an instance with capacity, it is sent.
    pub(crate) fn new(calls: Arc<Calls>, request: Request<Body>) -> Self {
        let (service, path) = (calls.service.as_str(), request.uri().path());
        let telemetry = CallTelemetry::begin(&calls.metrics, service, path, request.extensions());
        let stage = Stage::begin(calls, request, telemetry.context());
        Self { stage, telemetry: Some(telemetry) }
    }
}

impl Stage {
    fn begin(calls: Arc<Calls>, mut request: Request<Body>, context: CallContext) -> Self {
        let limit = match calls.config.limit() {
            Ok(limit) => limit,
            Err(status) => return Self::failed(status),
        };
        // Before the body is read, which may take its time to encode a message.
        let head = Head::of(&mut request, &calls.config, limit);
        let content = match Content::begin(mem::take(request.body_mut())) {
            Ok(content) => content,
            Err(status) => return Self::failed(status),
        };
        let call = Call { calls, head, content, timer: None, context };
        let Some(picked) = call.picking(request.headers()).now(&mut Progress::Picking) else {
            let remainder = Remainder::of(call).run(First::Unpicked(request.map(drop)));
            return Self::Remainder(Box::pin(remainder));
        };
        let (mut attempt, slot) = match picked {
            Ok(picked) => picked,
            Err(status) => return Self::failed(status),
        };
        let Some(body) = call.content.attempt() else {
            return Self::failed(Status::internal("the request body was sent before"));
        };
        match call.send(&mut attempt, slot, request.map(drop), body, false) {
            Ok(sending) => Self::Sent { sending, call, attempt: Some(attempt) },
            Err(status) => Self::failed(status),
        }
    }

    fn failed(status: Status) -> Self {
        Self::Over(Some(status))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(self.stage.poll(cx));
        let Some(mut telemetry) = self.telemetry.take() else { return Poll::Pending };
        Poll::Ready(match outcome {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let body = body.seen_by(telemetry, &head.headers);
                Ok(Response::from_parts(head, Body::new(body)))
            }
            Err(status) => {
                telemetry.ended(status.code());
                Err(status)
            }
        })
    }
}

impl Stage {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<CallBody>, Status>> {
        let stage = self;
        if let Stage::Sent { sending, call, attempt } = stage {
            let Poll::Ready(ended) = Pin::new(sending).poll(cx) else {
                let (Some(deadline), Some(attempt)) = (call.head.deadline, attempt) else {
                    return Poll::Pending;
                };
                ready!(call.timer.get_or_insert_with(|| Timer::new(deadline)).poll(cx));
                let status = attempt.exceeded(&deadline);
                *stage = Stage::Over(None);
                return Poll::Ready(Err(status));
            };
            let Some(attempt) = attempt.take() else { return Poll::Pending };
            match ended {
                Ok(response) if http_status::is_grpc(response.status(), response.headers()) => {
                    let response = call.respond(response, attempt);
                    *stage = Stage::Over(None);
                    return Poll::Ready(Ok(response));
                }
                ended => {
                    let Stage::Sent { call, .. } = mem::replace(stage, Stage::Over(None)) else {
                        return Poll::Pending;
                    };
                    let remainder = Remainder::of(call).run(First::Ended(attempt, ended));
                    *stage = Stage::Remainder(Box::pin(remainder));
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
    fn picking<'a>(&'a self, headers: &'a HeaderMap) -> Picking<'a> {
        let info = CallInfo::new(self.head.path(), headers, &self.head.extensions);
        Picking { state: &self.calls.state, info, wait_for_ready: self.head.wait_for_ready }
    }

    /// Sends one attempt. `late`: the call has waited before.
    fn send(
        &self,
        attempt: &mut Attempt,
        slot: Slot,
        mut request: Request<()>,
        mut body: RequestBody,
        late: bool,
    ) -> Result<Sending, Status> {
        if let Some(called) = self.head.extensions.get::<CalledInstance>() {
            called.set(attempt.instance());
        }
        let path = self.head.path();
        attempt.telemetry = self.context.attempt(path, attempt.instance(), attempt.connection(), &mut body);
        let complete = self.head.complete(
            &mut request,
            &self.calls.config,
            attempt.connection(),
            late,
            &attempt.telemetry,
        );
        complete.inspect_err(|status| attempt.unsent(status.code()))?;
        Ok(Sending::new(slot, request, body, self.head.deadline.map(|deadline| deadline.at)))
    }

    fn respond(&mut self, response: Response<ResponseBody>, mut attempt: Attempt) -> Response<CallBody> {
        if response.body().is_end_stream() {
            attempt.ended_with(response.headers());
        }
        let request = mem::take(&mut self.content).commit();
        let timer = self.timer.take();
        response.map(|body| CallBody::new(body, request, attempt, timer))
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
