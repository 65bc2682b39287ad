//! The body of a stream, between its call and the tasks that send it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use loom::future::block_on;
use loom::sync::Mutex;
use loom::thread;
use tonic::Status;
use tonic::body::Body;

use crate::model;
use crate::request_body::{ReplayBody, StreamedBody};

/// What a caller's stream yields: it comes from another thread.
#[derive(Clone, Default)]
struct Source(Arc<Mutex<Messages>>);

#[derive(Default)]
struct Messages {
    queue: VecDeque<Bytes>,
    end: Option<End>,
    waker: Option<Waker>,
}

/// What a caller's stream ends with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Failed,
}

impl Source {
    fn send(&self, message: &'static str) {
        self.change(|messages| messages.queue.push_back(Bytes::from_static(message.as_bytes())));
    }

    fn end(&self, end: End) {
        self.change(|messages| messages.end = Some(end));
    }

    fn change(&self, change: impl FnOnce(&mut Messages)) {
        let waker = {
            let mut messages = self.0.lock().unwrap();
            change(&mut messages);
            messages.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl http_body::Body for Source {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut messages = self.0.lock().unwrap();
        match (messages.queue.pop_front(), messages.end) {
            (Some(message), _) => Poll::Ready(Some(Ok(Frame::data(message)))),
            (None, Some(End::Complete)) => Poll::Ready(None),
            (None, Some(End::Failed)) => Poll::Ready(Some(Err(Status::data_loss("the caller's")))),
            (None, None) => {
                messages.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The end of an attempt by its server, of which h2 tells the task that sends its body.
#[derive(Default)]
struct Reset(Mutex<(bool, Option<Waker>)>);

impl Reset {
    fn reset(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap();
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap();
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Sends an attempt's body as its task does (`client/transport/upload.rs`); returns what was sent, and whether that was
/// all.
async fn upload(body: StreamedBody, reset: &Reset) -> (String, bool) {
    let (mut body, mut sent) = (pin!(body), String::new());
    let all = poll_fn(|cx| {
        loop {
            if body.poll_over(cx).is_ready() || reset.poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    sent.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
                    if body.is_end_stream() {
                        return Poll::Ready(true);
                    }
                }
                Some(Err(_)) => return Poll::Ready(false),
                None => return Poll::Ready(true),
            }
        }
    });
    let all = all.await;
    (sent, all)
}

#[test]
fn the_upload_of_a_call_that_ends_ends_and_drops_the_stream() {
    model(|| {
        let source = Source::default();
        let body = ReplayBody::new([], Some(Body::new(source.clone())));
        let attempt = body.attempt().unwrap();
        let task = thread::spawn(move || block_on(upload(attempt, &Reset::default())));
        let caller = {
            let source = source.clone();
            thread::spawn(move || source.send("a"))
        };
        drop(body);
        task.join().unwrap();
        caller.join().unwrap();
        assert_eq!(Arc::strong_count(&source.0), 1);
    });
}

/// A response has come while the stream was still open, and its call waits before the next attempt.
#[test]
fn the_upload_of_an_attempt_that_has_failed_ends_and_the_next_one_sends_all() {
    model(|| {
        let source = Source::default();
        let body = ReplayBody::new([], Some(Body::new(source.clone())));
        let attempt = body.attempt().unwrap();
        let task = thread::spawn(move || block_on(upload(attempt, &Reset::default())));
        let caller = {
            let source = source.clone();
            thread::spawn(move || source.send("a"))
        };
        assert!(body.rewind());
        let (sent, all) = task.join().unwrap();
        assert!("a".starts_with(&sent) && !all);
        caller.join().unwrap();
        source.end(End::Complete);
        let second = body.attempt().unwrap();
        assert_eq!(block_on(upload(second, &Reset::default())), ("a".to_owned(), true));
    });
}

/// More than is buffered.
const LARGE: &str = const {
    const X: &[u8] = &[b'x'; 64 * 1024 + 1];
    match std::str::from_utf8(X) {
        Ok(text) => text,
        Err(_) => panic!(),
    }
};

/// Refuses the first attempt of a body while its task sends it, and sends a second one, which may be answered while it does.
/// What a server gets is the beginning of what the caller's stream has yielded, and it is ended as a whole only if it is.
fn retried(message: &'static str, end: End, answered: bool) {
    model(move || {
        let source = Source::default();
        source.send("a");
        let body = ReplayBody::new([], Some(Body::new(source.clone())));
        let refusal = Arc::<Reset>::default();
        let first = {
            let (attempt, refusal) = (body.attempt().unwrap(), Arc::clone(&refusal));
            thread::spawn(move || block_on(upload(attempt, &refusal)))
        };
        let caller = thread::spawn(move || {
            source.send(message);
            source.end(end);
        });
        refusal.reset();
        let expected = ["a", message].concat();
        let judge = |(sent, all): (String, bool)| {
            assert!(expected.starts_with(&sent), "{} bytes with a hole", sent.len());
            assert!(
                !all || end == End::Complete && sent.len() == expected.len(),
                "{} bytes as all",
                sent.len()
            );
            all
        };
        // `None`: the first has read more than is buffered, or the caller's error.
        if let Some(second) = body.attempt() {
            if answered {
                body.commit();
            }
            let all = judge(block_on(upload(second, &Reset::default())));
            assert_eq!(all, end == End::Complete);
            assert_eq!(body.failed().is_some(), end == End::Failed);
        }
        caller.join().unwrap();
        judge(first.join().unwrap());
    });
}

/// The task of the attempt that was refused may be reading from the stream at that moment.
#[test]
fn a_second_attempt_sends_all_from_the_beginning() {
    retried("b", End::Complete, false);
}

#[test]
fn a_second_attempt_sends_what_the_first_has_read_of_more_than_is_buffered() {
    retried(LARGE, End::Complete, false);
}

#[test]
fn a_second_attempt_that_is_answered_sends_what_the_first_has_read() {
    retried("b", End::Complete, true);
}

#[test]
fn a_second_attempt_never_sends_a_stream_that_has_failed_as_a_whole_one() {
    retried("b", End::Failed, false);
}

/// A caller's code that looks at its call.
#[derive(Clone, Default)]
struct Looks(Arc<OnceLock<StreamedBody>>);

impl Looks {
    fn look(&self) {
        if let Some(attempt) = self.0.get() {
            attempt.is_end_stream();
        }
    }
}

impl AsRef<[u8]> for Looks {
    fn as_ref(&self) -> &[u8] {
        b"a"
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.look();
    }
}

/// A stream of such messages.
struct Looking(Looks);

impl http_body::Body for Looking {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(self.0.clone())))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.look();
        false
    }
}

/// Its messages are dropped when the call is over, and before that when it is answered.
#[test]
fn the_code_of_a_caller_runs_without_the_lock() {
    for answered in [false, true] {
        model(move || {
            let looks = Looks::default();
            let body = ReplayBody::new([], Some(Body::new(Looking(looks.clone()))));
            assert!(looks.0.set(body.attempt().unwrap()).is_ok());
            let mut attempt = body.attempt().unwrap();
            let mut poll = || {
                let polled = Pin::new(&mut attempt).poll_frame(&mut Context::from_waker(Waker::noop()));
                assert!(matches!(polled, Poll::Ready(Some(Ok(_)))));
                attempt.is_end_stream();
            };
            poll();
            if answered {
                body.commit();
                poll();
            }
            drop(body);
        });
    }
}
