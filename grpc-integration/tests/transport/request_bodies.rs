//! What a server receives of a request's body: the beginning of what the caller's body has yielded, and its end only if it
//! has ended.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hither_tonic::DiscoveryChannel;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use tokio::sync::Notify;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt;

use super::raw::{
    CANCEL, Conn, DATA, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, Peer, REFUSED_STREAM, RST_STREAM,
};
use super::{channel, soon};

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

/// A body of the program's own. Its functions are given the number of the poll, and of the question for its end.
struct Own<P, E> {
    poll: P,
    is_end: E,
    polls: usize,
    asked: AtomicUsize,
}

impl<P, E> http_body::Body for Own<P, E>
where
    P: FnMut(usize) -> Polled + Unpin,
    E: Fn(usize) -> bool + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.polls += 1;
        let number = self.polls;
        let polled = (self.poll)(number);
        if polled.is_pending() {
            cx.waker().wake_by_ref();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        (self.is_end)(self.asked.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

fn body(
    poll: impl FnMut(usize) -> Polled + Send + Unpin + 'static,
    is_end: impl Fn(usize) -> bool + Send + Unpin + 'static,
) -> Body {
    Body::new(Own { poll, is_end, polls: 0, asked: AtomicUsize::new(0) })
}

fn data(data: impl Into<Bytes>) -> Polled {
    Poll::Ready(Some(Ok(Frame::data(data.into()))))
}

async fn call(channel: DiscoveryChannel, body: Body) -> Result<Response<Body>, Status> {
    let request = Request::post("/test.Echo/Length").body(body).unwrap();
    soon("the call", channel.oneshot(request)).await
}

/// A peer that refuses the first attempt of a call while the caller's body is polled for it, lets the poll return when the
/// second has begun, and goes on with that.
async fn refuses_while_polled<F, Fut>(second: F) -> (Peer, impl Fn() + Send + Unpin + 'static)
where
    F: Fn(Conn, u32) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let polled = Arc::<Notify>::default();
    let (release, released) = mpsc::channel();
    let peer = {
        let polled = Arc::clone(&polled);
        Peer::start(move |mut conn: Conn| {
            let (polled, release, second) = (Arc::clone(&polled), release.clone(), second.clone());
            async move {
                conn.greet(&[(INITIAL_WINDOW_SIZE, 1 << 20)]).await?;
                conn.window(0, 1 << 20).await?;
                let first = conn.headers().await?;
                polled.notified().await;
                conn.reset(first, REFUSED_STREAM).await?;
                let stream = conn.headers().await?;
                release.send(()).unwrap();
                second(conn, stream).await
            }
        })
        .await
    };
    let wait = move || {
        polled.notify_one();
        tokio::task::block_in_place(|| released.recv().unwrap());
    };
    (peer, wait)
}

/// The first attempt's task has read a message, more than is buffered, when the second one begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_was_read_for_a_refused_attempt_is_sent_by_the_next() {
    let (peer, wait) = refuses_while_polled(|mut conn, stream| async move {
        let mut received = Vec::new();
        loop {
            let frame = conn.frame().await?;
            if frame.is(DATA) && frame.stream == stream {
                received.extend_from_slice(&frame.payload);
                if frame.has(END_STREAM) {
                    break;
                }
            }
        }
        received.dedup();
        assert_eq!(String::from_utf8(received).unwrap(), "abc");
        conn.answer(stream, "whole").await?;
        conn.drain().await
    })
    .await;
    let body = body(
        move |poll| match poll {
            1 => data("a"),
            // All that is there at once.
            2 => Poll::Pending,
            3 => {
                wait();
                data("b".repeat(100_000))
            }
            4 => data("c"),
            _ => Poll::Ready(None),
        },
        |_| false,
    );
    let (_registry, builder) = channel(&[&peer.address]).await;
    call(builder.connect().await.unwrap(), body).await.unwrap();
    assert_eq!(peer.seen.headers(), 2);
}

/// The first attempt's task reads the caller's error when the second one has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_fails_while_its_call_is_made_again_is_never_ended_as_a_whole_one() {
    let (peer, wait) = refuses_while_polled(|mut conn, stream| async move {
        loop {
            let frame = conn.frame().await?;
            if frame.is(RST_STREAM) && frame.stream == stream {
                return conn.drain().await;
            }
            if frame.has(END_STREAM) && (frame.is(DATA) || frame.is(HEADERS)) {
                conn.answer(stream, "as if that were all").await?;
            }
        }
    })
    .await;
    let body = body(
        move |poll| match poll {
            1 => data("a"),
            2 => Poll::Pending,
            _ => {
                wait();
                Poll::Ready(Some(Err(Status::data_loss("the caller's"))))
            }
        },
        |_| false,
    );
    let (_registry, builder) = channel(&[&peer.address]).await;
    let status = call(builder.connect().await.unwrap(), body).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "the caller's"));
    assert_eq!(peer.seen.headers(), 2);
}

/// A peer that waits for the end of a request, which must be RST_STREAM.
async fn expects_a_reset() -> (Peer, Arc<Notify>) {
    let reset = Arc::<Notify>::default();
    let seen = Arc::clone(&reset);
    let peer = Peer::start(move |mut conn: Conn| {
        let seen = Arc::clone(&seen);
        async move {
            conn.greet(&[]).await?;
            loop {
                let frame = conn.frame().await?;
                assert!(frame.is(RST_STREAM) || !frame.has(END_STREAM), "{frame:?}");
                if frame.is(RST_STREAM) {
                    assert_eq!(frame.payload, CANCEL.to_be_bytes());
                    seen.notify_one();
                }
            }
        }
    })
    .await;
    (peer, reset)
}

#[tokio::test]
async fn trailers_that_http2_forbids_end_their_call_with_the_reason() {
    let (peer, reset) = expects_a_reset().await;
    let trailers = HeaderMap::from_iter([(http::header::CONNECTION, HeaderValue::from_static("close"))]);
    let body = body(
        move |poll| match poll {
            1 => data("a"),
            _ => Poll::Ready(Some(Ok(Frame::trailers(trailers.clone())))),
        },
        |_| false,
    );
    let (_registry, builder) = channel(&[&peer.address]).await;
    let status = call(builder.connect().await.unwrap(), body).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert!(status.message().starts_with("the request body cannot be sent: "), "{status:?}");
    soon("the reset", reset.notified()).await;
}

#[tokio::test]
async fn a_panic_in_the_question_for_the_end_ends_its_call() {
    let (peer, reset) = expects_a_reset().await;
    let body = body(
        |poll| match poll {
            2 => Poll::Pending,
            _ => data("a"),
        },
        |asked| {
            // By tonic, when the call begins, and after the second message.
            assert!(asked < 3, "a bug of the caller's");
            false
        },
    );
    let (_registry, builder) = channel(&[&peer.address]).await;
    let status = call(builder.connect().await.unwrap(), body).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert!(status.message().contains("the request stream panicked: "), "{status:?}");
    soon("the reset", reset.notified()).await;
}

/// h2 takes less than 2 GiB at once.
#[tokio::test]
async fn messages_of_2_gib_are_sent() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            let stream = conn.headers().await?;
            let mut received = 0;
            while received < 65_535 {
                let frame = conn.frame().await?;
                received += if frame.is(DATA) && frame.stream == stream { frame.payload.len() } else { 0 };
            }
            conn.window(0, 65_535).await?;
            // Before its end, which would take long.
            conn.answer(stream, "begun").await?;
        }
    })
    .await;
    let (_registry, builder) = channel(&[&peer.address]).await;
    let channel = builder.connect().await.unwrap();
    for ends in [true, false] {
        let mut large = vec![0; 1 << 31];
        // One message, and not millions of empty ones.
        large[..5].copy_from_slice(&[0, 0x7f, 0xff, 0xff, 0xfb]);
        let mut large = Some(Bytes::from(large));
        // Tonic asks before the first poll.
        let body = body(move |_| large.take().map_or(Poll::Pending, data), move |asked| ends && asked > 1);
        call(channel.clone(), body).await.unwrap();
    }
    assert_eq!((peer.seen.headers(), peer.seen.accepted()), (2, 1));
}
