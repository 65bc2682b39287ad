//! Sending a request's body.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use super::request_body::{RequestBody, StreamedBody};

/// Sends the body on a new stream: what is there at once. Returns the rest.
pub(super) fn begin(mut stream: SendStream<Bytes>, body: RequestBody) -> Option<Upload> {
    match body {
        RequestBody::Complete(data) if data.is_empty() => {}
        // An error ends the stream, and the response is the one to report it.
        RequestBody::Complete(data) => drop(stream.send_data(data, true)),
        RequestBody::Streamed(body) => return Some(Upload { stream, body, next: None }),
    }
    None
}

/// A body that is being sent.
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: StreamedBody,
    /// The data that waits for capacity. It is asked for only now: capacity that an idle stream holds is missing to the
    /// other streams of the connection (hyperium/hyper#4003).
    next: Option<Bytes>,
}

impl Upload {
    /// Sends it by a task of its own, which ends with the call.
    pub(super) fn start(mut self) {
        tokio::spawn(async move { poll_fn(|cx| self.poll(cx)).await });
    }

    /// Sends what the body yields while the peer has capacity for it. Ready at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // The call is over, the stream was reset by the peer, or the connection is gone. Of a call that is over the
            // stream is reset when its last handle is dropped, which may not be this one.
            if self.body.poll_over(cx).is_ready() || self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            let sent = match self.next.take() {
                Some(data) => {
                    if !data.is_empty() && self.stream.capacity() == 0 {
                        self.stream.reserve_capacity(data.len());
                        self.next = Some(data);
                        match ready!(self.stream.poll_capacity(cx)) {
                            Some(Ok(_)) => continue,
                            Some(Err(_)) | None => return Poll::Ready(()),
                        }
                    }
                    // What exceeds the capacity is buffered by h2: less than one frame of the body.
                    let end = self.body.is_end_stream();
                    self.stream.send_data(data, end).map(|()| end)
                }
                None => match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    None => {
                        let _ = self.stream.send_data(Bytes::new(), true);
                        return Poll::Ready(());
                    }
                    // The call gets the error from the body.
                    Some(Err(_)) => {
                        self.stream.send_reset(Reason::CANCEL);
                        return Poll::Ready(());
                    }
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => {
                            self.next = Some(data);
                            continue;
                        }
                        Err(frame) => match frame.into_trailers() {
                            Ok(trailers) => self.stream.send_trailers(trailers).map(|()| true),
                            Err(_) => Ok(false),
                        },
                    },
                },
            };
            if !matches!(sent, Ok(false)) {
                return Poll::Ready(());
            }
        }
    }
}
