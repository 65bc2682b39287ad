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
use crate::grpc_response::code_in;

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
    /// `None` until the call is handed to its caller.
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

    /// Sets what sees the end of the call; `headers` are all of the response if there is no body.
    pub(super) fn seen_by(mut self, telemetry: Option<CallTelemetry>, headers: &HeaderMap) -> Self {
        match (&mut self.0, telemetry) {
            (Some(open), mut telemetry) => {
                if let (Some(telemetry), Some(code)) =
                    (&mut telemetry, open.code.filter(|code| *code != Code::Ok))
                {
                    telemetry.ended(code);
                }
                open.telemetry = telemetry;
            }
            (None, Some(mut telemetry)) => telemetry.ended(code_of(headers)),
            (None, None) => {}
        }
        self
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
        let Poll::Ready(frame) = Pin::new(&mut open.body).poll_frame(cx) else {
            if let Some(status) = open.poll_deadline(cx) {
                self.0 = None;
                return Poll::Ready(Some(Err(status)));
            }
            open.attempt.responding();
            return Poll::Pending;
        };
        match frame {
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    open.attempt.telemetry.received(data);
                    if !open.has_data && !data.is_empty() {
                        open.has_data = true;
                        // A message begins with 1 if it is compressed, and else with 0. With anything else the decoder fails
                        // and drops the body, which would look like a call that was given up.
                        if data[0] > 1 {
                            open.ended(Code::Internal);
                        }
                    }
                }
                if let Some(trailers) = frame.trailers_mut() {
                    if let Some(timer) = &open.timer
                        && code_in(trailers) == Some(Code::Cancelled)
                        && timer.deadline().has_passed()
                    {
                        let status = open.exceeded();
                        self.0 = None;
                        return Poll::Ready(status.map(Err));
                    }
                    let code = open.attempt.ended_with(trailers);
                    open.call_ended(code);
                    // Tonic clones trailers, and to clone a value that was read from a connection is an allocation.
                    if code == Code::Ok
                        && trailers.len() == 1
                        && let Some(value) = trailers.values_mut().next()
                    {
                        *value = HeaderValue::from_static("0");
                    }
                    self.0 = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(status)) => {
                let failed = open.request.as_ref().and_then(ReplayBody::failed);
                let deadline = open.timer.as_ref().map(Timer::deadline);
                let status = match failed {
                    Some(failed) => {
                        open.ended(Code::Cancelled);
                        failed
                    }
                    None => {
                        let status = open.attempt.failed(&status, deadline);
                        if open.body.was_lost() {
                            open.attempt.lost(status.code());
                        }
                        open.ended(status.code());
                        status
                    }
                };
                self.0 = None;
                Poll::Ready(Some(Err(status)))
            }
            None => {
                let code = open.code.unwrap_or(Code::Unknown);
                open.ended(code);
                self.0 = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|open| open.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |open| open.body.size_hint())
    }
}
