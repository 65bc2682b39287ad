//! Sending a request's body.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use super::request_body::{RequestBody, StreamedBody};

/// Sends the body on a stream that was just opened: what is there at once, the rest by a task of its own, which ends
/// with the call.
pub(super) fn start(mut stream: SendStream<Bytes>, body: RequestBody) {
    match body {
        // An error ends the stream, and the response is the one to report it.
        RequestBody::Complete(Some(data)) => drop(stream.send_data(data, true)),
        RequestBody::Complete(None) => {}
        RequestBody::Streamed(mut body) => {
            tokio::spawn(async move { poll_fn(|cx| poll_upload(cx, &mut stream, &mut body)).await });
        }
    }
}

/// Sends what the body yields while the peer has capacity for it. At most one frame more is buffered.
fn poll_upload(cx: &mut Context<'_>, stream: &mut SendStream<Bytes>, body: &mut StreamedBody) -> Poll<()> {
    loop {
        // Reset by the peer, or the connection is gone.
        if stream.poll_reset(cx).is_ready() {
            return Poll::Ready(());
        }
        if stream.capacity() == 0 {
            stream.reserve_capacity(1);
            match ready!(stream.poll_capacity(cx)) {
                // It may have been taken away again by a change of the peer's window.
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
        let sent = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            None => {
                let _ = stream.send_data(Bytes::new(), true);
                return Poll::Ready(());
            }
            // The call knows the error from the body.
            Some(Err(_)) => {
                stream.send_reset(Reason::CANCEL);
                return Poll::Ready(());
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let end = body.is_end_stream();
                    stream.send_data(data, end).map(|()| end)
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => stream.send_trailers(trailers).map(|()| true),
                    Err(_) => Ok(false),
                },
            },
        };
        if !matches!(sent, Ok(false)) {
            return Poll::Ready(());
        }
    }
}
