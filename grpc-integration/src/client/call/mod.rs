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
#[must_use = "a call is cancelled when its future is dropped"]
pub struct ResponseFuture(Stage);

#[allow(clippy::large_enum_variant, reason = "the large variant is nearly every call's")]
enum Stage {
    Sent {
        sending: Sending,
        /// These two are `None` once the response has begun.
        call: Option<Call>,
        attempt: Option<Attempt>,
    },
    /// There was no instance to send it to at once.
    Unpicked(Option<(Call, HeaderMap)>),
    Failed(Option<Status>),
    Remainder(Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>),
}

/// A call that was begun.
struct Call {
    calls: Arc<Calls>,
    head: Head,
    content: Content,
    /// One for the whole call, to the end of its response. Made when the call is awaited for the first time, because it
    /// needs a runtime.
    timer: Option<Timer>,
}

impl ResponseFuture {
    /// Begins the call: if there is an instance with capacity, it is sent.
    pub(crate) fn new(calls: Arc<Calls>, request: Request<Body>) -> Self {
        Self(Stage::begin(calls, request).unwrap_or_else(|status| Stage::Failed(Some(status))))
    }
}

impl Stage {
    fn begin(calls: Arc<Calls>, request: Request<Body>) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        let content = Content::begin(body)?;
        let (head, headers) = Head::of(parts, &calls.config);
        let call = Call { calls, head, content, timer: None };
        match call.picking(&headers).now(&mut Progress::Picking) {
            Some(picked) => {
                let (attempt, slot) = picked?;
                let Some(body) = call.content.attempt() else {
                    return Err(Status::internal("the request body was sent before"));
                };
                let sending = call.send(&attempt, slot, headers, body, false)?;
                Ok(Self::Sent { sending, call: Some(call), attempt: Some(attempt) })
            }
            None => Ok(Self::Unpicked(Some((call, headers)))),
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stage = &mut self.0;
        loop {
            let (call, first) = match stage {
                Stage::Sent { sending, call, attempt } => {
                    let Poll::Ready(ended) = Pin::new(sending).poll(cx) else {
                        let (Some(call), Some(attempt)) = (call, attempt) else { return Poll::Pending };
                        let Some(deadline) = call.head.deadline else { return Poll::Pending };
                        ready!(call.timer.get_or_insert_with(|| Timer::new(deadline)).poll(cx));
                        let status = attempt.exceeded(&deadline);
                        *stage = Stage::Failed(None);
                        return Poll::Ready(Err(status));
                    };
                    let (Some(call), Some(attempt)) = (call.take(), attempt.take()) else {
                        return Poll::Pending;
                    };
                    match ended {
                        Ok(response) if http_status::is_grpc(response.status(), response.headers()) => {
                            return Poll::Ready(Ok(call.respond(response, attempt)));
                        }
                        ended => (call, First::Ended(attempt, ended)),
                    }
                }
                Stage::Unpicked(unpicked) => match unpicked.take() {
                    Some((call, headers)) => (call, First::Unpicked(headers)),
                    None => return Poll::Pending,
                },
                Stage::Failed(status) => {
                    return status.take().map_or(Poll::Pending, |status| Poll::Ready(Err(status)));
                }
                Stage::Remainder(remainder) => return remainder.as_mut().poll(cx),
            };
            *stage = Stage::Remainder(Box::pin(Remainder::of(call).run(first)));
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
        Ok(Sending::new(slot, request, body, self.head.deadline.map(|deadline| deadline.at)))
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
