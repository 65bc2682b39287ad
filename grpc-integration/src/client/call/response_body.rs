//! A response's body: the call is in flight until its end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};
use tonic::{Code, Status};

use super::attempt::Attempt;
use super::deadline::Deadline;
use crate::client::transport::{ReplayBody, ResponseBody, status_of};

pin_project! {
    /// The body of a response. Dropping it before its end cancels the call.
    pub(super) struct CallBody {
        open: Option<Open>,
        deadline: Option<Deadline>,
        #[pin]
        sleep: Option<Sleep>,
    }
}

/// What is held until the end. The order matters: the stream is dropped before its capacity is released.
struct Open {
    body: ResponseBody,
    /// Sending the request ends with the call, as in gRPC.
    _request: ReplayBody,
    attempt: Attempt,
}

impl CallBody {
    pub(super) fn new(
        body: ResponseBody,
        request: ReplayBody,
        mut attempt: Attempt,
        deadline: Option<Deadline>,
    ) -> Self {
        if http_body::Body::is_end_stream(&body) {
            attempt.ended(Code::Unknown);
        }
        let sleep = deadline.map(|deadline| sleep_until(deadline.at));
        Self { open: Some(Open { body, _request: request, attempt }), deadline, sleep }
    }
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let Some(open) = this.open else {
            return Poll::Ready(None);
        };
        // Checked first: a stream that always has a frame must end in time, too.
        if let (Some(sleep), Some(deadline)) = (this.sleep.as_pin_mut(), this.deadline)
            && sleep.poll(cx).is_ready()
        {
            let status = deadline.exceeded(format_args!("the response of {} had begun", open.attempt.peer()));
            open.attempt.ended(status.code());
            *this.open = None;
            return Poll::Ready(Some(Err(status)));
        }
        let frame = ready!(Pin::new(&mut open.body).poll_frame(cx));
        match frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    open.attempt.ended_with(trailers);
                    *this.open = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let status = open.attempt.at_peer(&status_of(&error));
                open.attempt.ended(status.code());
                *this.open = None;
                Poll::Ready(Some(Err(status)))
            }
            None => {
                open.attempt.ended(Code::Unknown);
                *this.open = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.open.as_ref().map_or(SizeHint::with_exact(0), |open| open.body.size_hint())
    }
}
