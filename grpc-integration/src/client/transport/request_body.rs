//! Request bodies. Those of streams can be replayed.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hither_core::contain::contain;
use http::HeaderMap;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use crate::client::sync::{Mutex, MutexGuard};

/// A request's body, for one attempt of its call.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// All of it, as in a unary call.
    Complete(Bytes),
    /// What a stream yields.
    Streamed(StreamedBody),
}

impl Default for RequestBody {
    fn default() -> Self {
        Self::Complete(Bytes::new())
    }
}

impl RequestBody {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Complete(data) if data.is_empty())
    }
}

/// How much of a body is buffered for a retry: HTTP/2's default window, so about as much as is sent before a server
/// can answer. A unary request is nearly always smaller.
const BUFFER: usize = 64 * 1024;

/// The body of a stream over all attempts of its call. Dropping it ends the body: sending stops.
#[derive(Debug)]
pub(crate) struct ReplayBody(Arc<Mutex<ReplayState>>);

impl ReplayBody {
    /// Returns the body that begins with `read`, which was read from `rest` already; `None`: there is no more.
    pub(crate) fn new(read: impl IntoIterator<Item = Frame<Bytes>>, rest: Option<Body>) -> Self {
        let mut state = ReplayState {
            source: rest,
            polled: false,
            buffered: Vec::new(),
            size: 0,
            phase: Phase::Buffering,
            attempt: 0,
            failed: None,
            waker: None,
        };
        for frame in read {
            // Kept whatever its size: it was not sent yet.
            state.size += frame.data_ref().map_or(0, Bytes::len);
            state.buffered.extend(Buffered::of(&frame));
        }
        Self(Arc::new(Mutex::new(state)))
    }

    /// Returns the body from its beginning, if that is still buffered. It ends the body of the attempt before.
    pub(crate) fn attempt(&self) -> Option<StreamedBody> {
        let mut shared = lock(&self.0);
        if shared.phase != Phase::Buffering {
            return None;
        }
        shared.attempt += 1;
        Some(StreamedBody { shared: Arc::clone(&self.0), attempt: shared.attempt, next: 0 })
    }

    /// There will be no other attempt, so nothing need be buffered.
    pub(crate) fn commit(&self) {
        let mut shared = lock(&self.0);
        if shared.phase == Phase::Buffering {
            shared.phase = Phase::Committed;
        }
    }

    /// Returns the error that the caller's body has ended with.
    pub(crate) fn failed(&self) -> Option<Status> {
        lock(&self.0).failed.clone()
    }
}

impl Drop for ReplayBody {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.phase = Phase::Over;
        shared.buffered.clear();
        let (source, waker) = (shared.source.take(), shared.waker.take());
        drop(shared);
        // This runs the caller's code, so no lock is held.
        let _ = contain(|| drop(source));
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The body of a stream for one attempt.
#[derive(Debug)]
pub(crate) struct StreamedBody {
    shared: Arc<Mutex<ReplayState>>,
    attempt: u32,
    /// The index of the next buffered frame.
    next: usize,
}

#[derive(Debug)]
struct ReplayState {
    /// What was not read yet; `None` at its end, and while it is polled.
    source: Option<Body>,
    polled: bool,
    buffered: Vec<Buffered>,
    size: usize,
    phase: Phase,
    attempt: u32,
    failed: Option<Status>,
    waker: Option<Waker>,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Everything read so far is buffered.
    Buffering,
    /// Nothing more is buffered; what is goes to the present attempt.
    Committed,
    /// The call is over.
    Over,
}

#[derive(Debug, Clone)]
enum Buffered {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Buffered {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Some(Self::Data(data.clone())),
            (None, Some(trailers)) => Some(Self::Trailers(trailers.clone())),
            (None, None) => None,
        }
    }
}

impl ReplayState {
    fn buffer(&mut self, frame: &Frame<Bytes>) {
        self.size += frame.data_ref().map_or(0, Bytes::len);
        if self.size <= BUFFER {
            self.buffered.extend(Buffered::of(frame));
        } else {
            self.phase = Phase::Committed;
        }
    }
}

impl StreamedBody {
    /// Ready once the call is over, or this attempt of it.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = lock(&self.shared);
        if shared.phase == Phase::Over || shared.attempt != self.attempt {
            return Poll::Ready(());
        }
        if !shared.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            shared.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl http_body::Body for StreamedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let mut shared = lock(&this.shared);
        if shared.phase == Phase::Over || shared.attempt != this.attempt {
            return Poll::Ready(Some(Err(Status::cancelled("the call is over"))));
        }
        if let Some(buffered) = shared.buffered.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(match buffered.clone() {
                Buffered::Data(data) => Frame::data(data),
                Buffered::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if shared.phase == Phase::Committed {
            shared.buffered = Vec::new();
        }
        if shared.polled {
            // By the attempt before, at this moment: it wakes this one.
            shared.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(mut source) = shared.source.take() else {
            return Poll::Ready(None);
        };
        // The caller's code runs without the lock: it may end its own call.
        shared.polled = true;
        shared.waker = Some(cx.waker().clone());
        drop(shared);
        let polled = match contain(|| Pin::new(&mut source).poll_frame(cx)) {
            Ok(polled) => polled,
            Err(panic) => Poll::Ready(Some(Err(panicked(&panic)))),
        };
        let ended = matches!(polled, Poll::Ready(None | Some(Err(_))));
        let mut source = Some(source);
        let dropped = if ended { contain(|| drop(source.take())) } else { Ok(()) };
        let mut shared = lock(&this.shared);
        shared.polled = false;
        if shared.phase != Phase::Over {
            shared.source = source.take();
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && shared.phase == Phase::Buffering
        {
            shared.buffer(frame);
            this.next = shared.buffered.len();
        }
        let polled = match (polled, dropped) {
            (Poll::Ready(None), Err(panic)) => Poll::Ready(Some(Err(panicked(&panic)))),
            (polled, _) => polled,
        };
        if let Poll::Ready(Some(Err(status))) = &polled {
            shared.failed = Some(status.clone());
        }
        let next = if shared.attempt == this.attempt { None } else { shared.waker.take() };
        drop(shared);
        // The call has ended in the meantime.
        let _ = contain(|| drop(source));
        if let Some(next) = next {
            next.wake();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        shared.attempt == self.attempt
            && shared.phase != Phase::Over
            && self.next >= shared.buffered.len()
            && !shared.polled
            && shared.source.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}

/// Returns the status of a call whose request stream has panicked.
pub(crate) fn panicked(panic: &str) -> Status {
    Status::internal(format!("the request stream panicked: {panic}"))
}

fn lock(shared: &Mutex<ReplayState>) -> MutexGuard<'_, ReplayState> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
