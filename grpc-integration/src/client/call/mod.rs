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
use tonic::Status;
use tonic::body::Body;

use super::pool::StateReader;
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
    /// Ends with the last call that has no response yet.
    pub(crate) _pool: Task,
}

/// The future of a call's response. Dropping it cancels the call.
#[must_use = "a call does nothing until it is awaited"]
pub struct ResponseFuture(Stage);

#[allow(clippy::large_enum_variant, reason = "the large variant is nearly every call's")]
enum Stage {
    Begin(Arc<Calls>, Request<Body>),
    Sent(Sending, Call, Attempt),
    Remainder(Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>),
    Done,
}

/// A call that was begun.
struct Call {
    calls: Arc<Calls>,
    head: Head,
    content: Content,
    /// One for the whole call, to the end of its response.
    timer: Option<Timer>,
}

impl ResponseFuture {
    pub(crate) fn new(calls: Arc<Calls>, request: Request<Body>) -> Self {
        Self(Stage::Begin(calls, request))
    }
}

impl Stage {
    fn begin(calls: Arc<Calls>, request: Request<Body>, cx: &mut Context<'_>) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        let content = Content::begin(body, cx)?;
        let (head, headers) = Head::of(parts, &calls.config);
        let timer = head.deadline.map(Timer::new);
        let call = Call { calls, head, content, timer };
        match call.picking(&headers).now(&mut Progress::Picking) {
            Some(picked) => {
                let (attempt, slot) = picked?;
                let Some(body) = call.content.attempt() else {
                    return Err(Status::internal("the request body was sent before"));
                };
                let sending = call.send(&attempt, slot, headers, body, false)?;
                Ok(Self::Sent(sending, call, attempt))
            }
            None => Ok(Self::Remainder(Box::pin(Remainder::of(call).run(First::Unpicked(headers))))),
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stage = &mut self.0;
        loop {
            match stage {
                Stage::Begin(..) => {
                    if let Stage::Begin(calls, request) = mem::replace(stage, Stage::Done) {
                        *stage = Stage::begin(calls, request, cx)?;
                    }
                }
                Stage::Sent(sending, call, attempt) => {
                    let Poll::Ready(ended) = Pin::new(sending).poll(cx) else {
                        let Some(timer) = &mut call.timer else { return Poll::Pending };
                        ready!(timer.poll(cx));
                        let status = attempt.exceeded(timer.deadline());
                        *stage = Stage::Done;
                        return Poll::Ready(Err(status));
                    };
                    let Stage::Sent(_, call, attempt) = mem::replace(stage, Stage::Done) else { continue };
                    match ended {
                        Ok(response) if http_status::is_grpc(response.status(), response.headers()) => {
                            return Poll::Ready(Ok(call.respond(response, attempt)));
                        }
                        ended => {
                            let remainder = Remainder::of(call).run(First::Ended(attempt, ended));
                            *stage = Stage::Remainder(Box::pin(remainder));
                        }
                    }
                }
                Stage::Remainder(remainder) => return remainder.as_mut().poll(cx),
                // Polled again after its end.
                Stage::Done => return Poll::Pending,
            }
        }
    }
}

impl Call {
    fn picking<'a>(&'a self, headers: &'a HeaderMap) -> Picking<'a> {
        let wait_for_ready = self.head.wait_for_ready;
        Picking { state: &self.calls.state, path: self.head.path(), headers, wait_for_ready }
    }

    /// Sends one attempt. `late`: the call has waited before.
    fn send(
        &self,
        attempt: &Attempt,
        slot: Slot,
        headers: HeaderMap,
        body: RequestBody,
        late: bool,
    ) -> Result<Sending, Status> {
        if let Some(called) = &self.head.called {
            called.set(attempt.instance());
        }
        let request = self.head.request(headers, &self.calls.config, attempt.connection(), late)?;
        Ok(slot.send(request, body, self.head.deadline.map(|deadline| deadline.at)))
    }

    fn respond(self, response: Response<ResponseBody>, mut attempt: Attempt) -> Response<Body> {
        if response.body().is_end_stream() {
            attempt.ended_with(response.headers());
        }
        let request = self.content.commit();
        response.map(|body| Body::new(CallBody::new(body, request, attempt, self.timer)))
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
