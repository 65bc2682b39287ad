//! A response's body: the call is in flight until its end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::{Code, Status};

use super::attempt::Attempt;
use super::deadline::Timer;
use crate::client::transport::{ReplayBody, ResponseBody};

/// The deadline is looked at when there is no frame, and for each of so many frames.
const TIMER_EVERY: u8 = 32;

/// The body of a response. Dropping it before its end cancels the call.
pub(super) struct CallBody(Option<Open>);

/// What is held until the end.
struct Open {
    body: ResponseBody,
    /// Sending the request ends with the call, as in gRPC.
    request: Option<ReplayBody>,
    attempt: Attempt,
    timer: Option<Timer>,
    frames: u8,
}

impl CallBody {
    pub(super) fn new(
        body: ResponseBody,
        request: Option<ReplayBody>,
        attempt: Attempt,
        timer: Option<Timer>,
    ) -> Self {
        if body.is_end_stream() {
            return Self(None);
        }
        Self(Some(Open { body, request, attempt, timer, frames: 0 }))
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
        let overdue = |open: &mut Open, cx: &mut Context<'_>| {
            let timer = open.timer.as_mut()?;
            let exceeded = timer.poll(cx).is_ready();
            exceeded.then(|| {
                let progress = format_args!("the response of {} had begun", open.attempt.peer());
                let status = timer.deadline().exceeded(progress);
                open.attempt.ended(status.code());
                Poll::Ready(Some(Err(status)))
            })
        };
        if open.frames % TIMER_EVERY == 0
            && let Some(exceeded) = overdue(open, cx)
        {
            self.0 = None;
            return exceeded;
        }
        let Poll::Ready(frame) = Pin::new(&mut open.body).poll_frame(cx) else {
            if let Some(exceeded) = overdue(open, cx) {
                self.0 = None;
                return exceeded;
            }
            return Poll::Pending;
        };
        match frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    open.attempt.ended_with(trailers);
                    self.0 = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(status)) => {
                let failed = open.request.as_ref().and_then(ReplayBody::failed);
                let deadline = open.timer.as_ref().map(Timer::deadline);
                let status = match failed {
                    Some(failed) => {
                        open.attempt.ended(Code::Cancelled);
                        failed
                    }
                    None => {
                        let status = open.attempt.failed(&status, deadline);
                        open.attempt.ended(status.code());
                        status
                    }
                };
                self.0 = None;
                Poll::Ready(Some(Err(status)))
            }
            None => {
                open.attempt.ended(Code::Unknown);
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
