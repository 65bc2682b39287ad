//! A response, from its headers on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::Response;
use http_body::{Frame, SizeHint};
use tonic::Status;

use super::connection::Slot;
use super::send_error::{self, SendError};

/// The body of a response. Dropping it before its end cancels the call.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    /// `None` at its end.
    stream: Option<(RecvStream, Slot)>,
    next: Next,
    /// How much was read whose window was not given back yet.
    unreleased: usize,
    /// Whether it has failed with its connection.
    was_lost: bool,
}

/// What is expected next of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    FirstData,
    /// Trailers follow the only message of a unary call. Where they have arrived, asking for them first saves asking for
    /// data in vain.
    TrailersOrData,
    Data,
    Trailers,
}

impl ResponseBody {
    pub(super) fn begin(response: Response<RecvStream>, slot: Slot) -> Result<Response<Self>, SendError> {
        slot.on_answer();
        let (head, stream) = response.into_parts();
        if let Err(status) = slot.connection().check_headers(&head.headers) {
            reset(stream, slot);
            return Err(SendError::Failed(status));
        }
        let stream = (!stream.is_end_stream()).then_some((stream, slot));
        Ok(Response::from_parts(head, Self { stream, next: Next::FirstData, unreleased: 0, was_lost: false }))
    }

    /// Returns whether it has failed with its connection.
    pub(crate) fn was_lost(&self) -> bool {
        self.was_lost
    }

    /// The response has ended, by itself or with an error.
    fn end(&mut self) {
        if let Some((stream, slot)) = self.stream.take() {
            slot.shared().queue.finish(stream);
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some((stream, slot)) = &mut this.stream else {
            return Poll::Ready(None);
        };
        let failed = loop {
            if matches!(this.next, Next::TrailersOrData | Next::Trailers) {
                match stream.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        let checked = trailers.map(|trailers| {
                            slot.connection().check_headers(&trailers).map(|()| Frame::trailers(trailers))
                        });
                        this.end();
                        return Poll::Ready(checked);
                    }
                    Poll::Ready(Err(error)) => break error,
                    Poll::Pending if this.next == Next::Trailers => return Poll::Pending,
                    // There is data, or nothing yet.
                    Poll::Pending => {}
                }
            }
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    slot.on_answer();
                    this.next = if this.next == Next::FirstData { Next::TrailersOrData } else { Next::Data };
                    this.unreleased += data.len();
                    if this.unreleased >= slot.connection().release_after {
                        // An error means that the stream is closed: there is nothing to give back then.
                        let _ = stream.flow_control().release_capacity(std::mem::take(&mut this.unreleased));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                None => this.next = Next::Trailers,
                Some(Err(error)) => break error,
            }
        };
        // Unless the response is complete, and the server does not want the rest of the request.
        let is_complete = failed.is_reset() && failed.reason() == Some(Reason::NO_ERROR);
        let status = (!is_complete).then(|| slot.connection().status_of(&failed));
        this.was_lost = send_error::is_loss(&failed);
        this.end();
        Poll::Ready(status.map(Err))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.stream {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some((stream, slot)) = self.stream.take() {
            if stream.is_end_stream() {
                return;
            }
            reset(stream, slot);
        }
    }
}

/// Drops the stream of a cancelled call: now, or as soon as the server has taken in what was reset before.
pub(super) fn reset(stream: impl Send + 'static, slot: Slot) {
    if slot.shared().reset_budget.take() {
        drop(stream);
        drop(slot);
    } else {
        let connection = Arc::clone(slot.connection());
        // The stream is dropped before its slot here, too.
        connection.shared().queue.cancel(Box::new((stream, slot)));
    }
}
