//! A response's body: the call is in flight until its end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tonic::{Code, Status};

use super::attempt::{Attempt, code_of};
use super::deadline::Timer;
use crate::client::telemetry::CallTelemetry;
use crate::client::transport::{ReplayBody, ResponseBody};

/// The deadline is looked at when there is no frame, and for each of so many frames.
const TIMER_EVERY: u8 = 32;

/// The body of a response. Dropping it before its end cancels the call.
pub(super) struct CallBody(Option<Open>);

/// What is held until the end.
struct Open {
    body: ResponseBody,
    /// The status in the headers, which counts where there are no trailers.
    code: Option<Code>,
    /// Sending the request ends with the call, as in gRPC.
    request: Option<ReplayBody>,
    attempt: Attempt,
    timer: Option<Timer>,
    frames: u8,
    has_data: bool,
    telemetry: Option<CallTelemetry>,
}

impl Open {
    /// Returns the status if the deadline has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        if self.timer.as_mut()?.poll(cx).is_pending() { None } else { self.exceeded() }
    }

    /// The deadline has passed: returns the status.
    fn exceeded(&mut self) -> Option<Status> {
        let timer = self.timer.as_ref()?;
        let progress = format_args!("the response of {} had begun", self.attempt.peer());
        let status = timer.deadline().exceeded(progress);
        self.ended(status.code());
        Some(status)
    }

    /// A part of the messages has come.
    fn received(&mut self, data: &Bytes) {
        self.attempt.telemetry.received(data);
        if !self.has_data
            && let Some(first) = data.first()
        {
            self.has_data = true;
            // A message begins with 1 if it is compressed, and else with 0. With anything else the decoder fails and drops the
            // body, which would look like a call that was given up.
            if *first > 1 {
                self.ended(Code::Internal);
            }
        }
    }

    /// It has ended with these trailers; with an error instead if it was cancelled because its time was over.
    fn trailed(&mut self, trailers: &mut HeaderMap) -> Result<(), Status> {
        let code = code_of(trailers);
        if code == Code::Cancelled
            && self.timer.as_ref().is_some_and(|timer| timer.deadline().has_passed())
            && let Some(status) = self.exceeded()
        {
            return Err(status);
        }
        self.attempt.ended_as(code, trailers);
        self.call_ended(code);
        // Tonic clones trailers, and to clone a value that was read from a connection is an allocation.
        if code == Code::Ok
            && trailers.len() == 1
            && let Some(value) = trailers.values_mut().next()
        {
            *value = HeaderValue::from_static("0");
        }
        Ok(())
    }

    /// It has ended with an error. Returns the status.
    fn failed(&mut self, status: &Status) -> Status {
        if let Some(failed) = self.request.as_ref().and_then(ReplayBody::failed) {
            self.ended(Code::Cancelled);
            return failed;
        }
        let status = self.attempt.failed(status, self.timer.as_ref().map(Timer::deadline));
        if self.body.was_lost() {
            self.attempt.lost(status.code());
        }
        self.ended(status.code());
        status
    }

    fn ended(&mut self, code: Code) {
        self.attempt.ended(code);
        self.call_ended(code);
    }

    fn call_ended(&mut self, code: Code) {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.ended(code);
        }
    }
}

impl CallBody {
    pub(super) fn new(
        body: ResponseBody,
        code: Option<Code>,
        request: Option<ReplayBody>,
        attempt: Attempt,
        timer: Option<Timer>,
        telemetry: Option<CallTelemetry>,
    ) -> Self {
        if body.is_end_stream() {
            return Self(None);
        }
        Self(Some(Open { body, code, request, attempt, timer, frames: 0, has_data: false, telemetry }))
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(open) = &mut self.0 else {
            return Poll::Ready(None);
        };
        // A stream that always has a frame must end in time, too.
        open.frames = open.frames.wrapping_add(1);
        if open.frames % TIMER_EVERY == 0
            && let Some(status) = open.poll_deadline(cx)
        {
            self.0 = None;
            return Poll::Ready(Some(Err(status)));
        }
        // Looked at where it is, as it is large.
        let mut polled = Pin::new(&mut open.body).poll_frame(cx);
        match &mut polled {
            Poll::Pending => {
                if let Some(status) = open.poll_deadline(cx) {
                    self.0 = None;
                    return Poll::Ready(Some(Err(status)));
                }
                open.attempt.responding();
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    open.received(data);
                } else if let Some(trailers) = frame.trailers_mut() {
                    let ended = open.trailed(trailers);
                    self.0 = None;
                    if let Err(status) = ended {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
            }
            Poll::Ready(Some(Err(status))) => {
                let status = open.failed(status);
                self.0 = None;
                return Poll::Ready(Some(Err(status)));
            }
            Poll::Ready(None) => {
                let code = open.code.unwrap_or(Code::Unknown);
                open.ended(code);
                self.0 = None;
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|open| open.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |open| open.body.size_hint())
    }
}
