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
use super::send_error::SendError;

/// The body of a response. Dropping it before its end cancels the call.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    /// `None` at its end.
    stream: Option<(RecvStream, Slot)>,
    data_ended: bool,
    /// How much was read whose window was not given back yet.
    unreleased: usize,
}

impl ResponseBody {
    pub(super) fn begin(response: Response<RecvStream>, slot: Slot) -> Result<Response<Self>, SendError> {
        slot.shared().peer.on_answer();
        let (head, stream) = response.into_parts();
        if let Err(status) = slot.connection().check_headers(&head.headers) {
            reset(stream, slot);
            return Err(SendError::Failed(status));
        }
        let data_ended = stream.is_end_stream();
        let stream = (!data_ended).then_some((stream, slot));
        Ok(Response::from_parts(head, Self { stream, data_ended, unreleased: 0 }))
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
            if this.data_ended {
                match ready!(stream.poll_trailers(cx)) {
                    Ok(None) => {
                        this.end();
                        return Poll::Ready(None);
                    }
                    Ok(Some(trailers)) => {
                        if let Err(status) = slot.connection().check_headers(&trailers) {
                            this.end();
                            return Poll::Ready(Some(Err(status)));
                        }
                        this.end();
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    Err(error) => break error,
                }
            }
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    slot.shared().peer.on_answer();
                    this.unreleased += data.len();
                    if this.unreleased >= slot.connection().release_after {
                        // An error means that the stream is closed: there is nothing to give back then.
                        let _ = stream.flow_control().release_capacity(std::mem::take(&mut this.unreleased));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                None => this.data_ended = true,
                // The response is complete, and the server does not want the rest of the request.
                Some(Err(error)) if error.is_reset() && error.reason() == Some(Reason::NO_ERROR) => {
                    this.end();
                    return Poll::Ready(None);
                }
                Some(Err(error)) => break error,
            }
        };
        let status = slot.connection().status_of(&failed);
        this.end();
        Poll::Ready(Some(Err(status)))
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
