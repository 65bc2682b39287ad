//! Sending a request's body.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;
use tonic::Status;

use super::request_body::{RequestBody, StreamedBody};

/// The most data that h2 takes at once: HTTP/2's largest window. gRPC's messages may be twice as large.
const AT_ONCE: usize = (1 << 31) - 1;

/// Sends the body on a new stream: what is there at once. Returns the rest.
pub(super) fn begin(mut stream: SendStream<Bytes>, body: RequestBody) -> Option<Upload> {
    match body {
        RequestBody::Complete(mut data) => {
            while !data.is_empty() {
                let part = data.split_to(data.len().min(AT_ONCE));
                // An error means that the stream has ended before: the call gets its error.
                if stream.send_data(part, data.is_empty()).is_err() {
                    break;
                }
            }
        }
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
                Some(mut data) => {
                    if !data.is_empty() && self.stream.capacity() == 0 {
                        self.stream.reserve_capacity(data.len());
                        self.next = Some(data);
                        match ready!(self.stream.poll_capacity(cx)) {
                            Some(Ok(_)) => continue,
                            Some(Err(_)) | None => return Poll::Ready(()),
                        }
                    }
                    // What exceeds the capacity is buffered by h2: less than one frame of the body.
                    let part = data.split_to(data.len().min(AT_ONCE));
                    let end = data.is_empty() && self.body.is_end_stream();
                    if !data.is_empty() {
                        self.next = Some(data);
                    }
                    #[cfg(feature = "metrics")]
                    self.body.sent(&part);
                    self.stream.send_data(part, end).map(|()| end)
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
            match sent {
                Ok(false) => {}
                Ok(true) => return Poll::Ready(()),
                Err(refused) => {
                    // The stream has ended before, or h2 does not send this: the call would wait for an answer to a
                    // request that never ends.
                    if self.stream.poll_reset(cx).is_pending() {
                        self.body
                            .fail(Status::internal(format!("the request body cannot be sent: {refused}")));
                        self.stream.send_reset(Reason::CANCEL);
                    }
                    return Poll::Ready(());
                }
            }
        }
    }
}
