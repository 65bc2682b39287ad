//! The body of a stream, between its call and the tasks that send it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
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
    ended: bool,
    waker: Option<Waker>,
}

impl Source {
    fn send(&self, message: &'static str) {
        self.change(|messages| messages.queue.push_back(Bytes::from_static(message.as_bytes())));
    }

    fn end(&self) {
        self.change(|messages| messages.ended = true);
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
        match messages.queue.pop_front() {
            Some(message) => Poll::Ready(Some(Ok(Frame::data(message)))),
            None if messages.ended => Poll::Ready(None),
            None => {
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
                Some(Ok(frame)) => sent.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap()),
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

/// The task of the attempt that was refused may be reading from the stream at that moment.
#[test]
fn a_second_attempt_sends_all_from_the_beginning() {
    model(|| {
        let source = Source::default();
        source.send("a");
        let body = ReplayBody::new([], Some(Body::new(source.clone())));
        let refusal = Arc::<Reset>::default();
        let first = {
            let (attempt, refusal) = (body.attempt().unwrap(), Arc::clone(&refusal));
            thread::spawn(move || block_on(upload(attempt, &refusal)))
        };
        let caller = thread::spawn(move || {
            source.send("b");
            source.end();
        });
        refusal.reset();
        let second = body.attempt().unwrap();
        let sent = block_on(upload(second, &Reset::default()));
        assert_eq!(sent, ("ab".to_owned(), true));
        caller.join().unwrap();
        first.join().unwrap();
    });
}
