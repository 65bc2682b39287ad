//! Request bodies. Those of streams can be replayed.

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hither_core::contain::{contain, drop_contained};
use http::HeaderMap;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use crate::client::sync::{Mutex, MutexGuard};
#[cfg(feature = "metrics")]
use crate::metrics::SentSizes;

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
            state.keep(&frame);
        }
        Self(Arc::new(Mutex::new(state)))
    }

    /// Returns the body from its beginning, if that is still buffered and the caller's body has not failed. It ends the
    /// body of the attempt before.
    pub(crate) fn attempt(&self) -> Option<StreamedBody> {
        let mut shared = lock(&self.0);
        if shared.phase != Phase::Buffering || shared.failed.is_some() {
            return None;
        }
        shared.attempt += 1;
        Some(StreamedBody {
            shared: Arc::clone(&self.0),
            attempt: shared.attempt,
            next: 0,
            #[cfg(feature = "metrics")]
            sizes: None,
        })
    }

    /// Ends the body of the attempt before, and returns whether there can be another.
    pub(crate) fn rewind(&self) -> bool {
        let mut shared = lock(&self.0);
        if shared.phase != Phase::Buffering || shared.failed.is_some() {
            return false;
        }
        shared.attempt += 1;
        let waker = shared.waker.take();
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
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
        let (source, buffered) = (shared.source.take(), mem::take(&mut shared.buffered));
        let waker = shared.waker.take();
        drop(shared);
        // This runs the caller's code, so no lock is held.
        drop_contained(source);
        drop_contained(buffered);
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
    #[cfg(feature = "metrics")]
    sizes: Option<SentSizes>,
}

#[derive(Debug)]
struct ReplayState {
    /// What was not read yet; `None` at its end, and while it is polled.
    source: Option<Body>,
    polled: bool,
    /// What the present attempt is to send before it polls the source.
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
    /// Buffers a frame that is about to be sent, if there is room for it.
    fn buffer(&mut self, frame: &Frame<Bytes>) {
        if self.size + length(frame) <= BUFFER {
            self.keep(frame);
        } else {
            self.phase = Phase::Committed;
        }
    }

    /// Buffers a frame whatever its size: it was not sent yet.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        self.size += length(frame);
        self.buffered.extend(Buffered::of(frame));
    }
}

impl StreamedBody {
    /// Measures what is sent of it.
    #[cfg(feature = "metrics")]
    pub(crate) fn measure(&mut self, sizes: SentSizes) {
        self.sizes = Some(sizes);
    }

    /// A part of it is sent.
    #[cfg(feature = "metrics")]
    pub(super) fn sent(&mut self, data: &[u8]) {
        if let Some(sizes) = &mut self.sizes {
            sizes.add(data);
        }
    }

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

    /// What was read from the caller's body cannot be sent: the call fails with this status, and is not made again.
    pub(super) fn fail(&self, status: Status) {
        let mut shared = lock(&self.shared);
        if shared.phase != Phase::Over && shared.attempt == self.attempt {
            shared.failed.get_or_insert(status);
        }
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
        // Also where another attempt has read it: what is buffered is no whole body.
        if let Some(status) = &shared.failed {
            return Poll::Ready(Some(Err(status.clone())));
        }
        if let Some(buffered) = shared.buffered.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(match buffered.clone() {
                Buffered::Data(data) => Frame::data(data),
                Buffered::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if shared.phase == Phase::Committed && !shared.buffered.is_empty() {
            // Its bytes may be the caller's: no lock is held when they are dropped.
            let sent = mem::take(&mut shared.buffered);
            this.next = 0;
            drop(shared);
            drop_contained(sent);
            return self.poll_frame(cx);
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
        let polled = contain(|| {
            let polled = Pin::new(&mut source).poll_frame(cx);
            let ended = match &polled {
                Poll::Pending => false,
                Poll::Ready(Some(Ok(_))) => source.is_end_stream(),
                Poll::Ready(None | Some(Err(_))) => true,
            };
            (polled, ended)
        });
        let (mut polled, ended) =
            polled.unwrap_or_else(|panic| (Poll::Ready(Some(Err(panicked(&panic)))), true));
        let mut source = Some(source);
        if ended
            && let Err(panic) = contain(|| drop(source.take()))
            && !matches!(polled, Poll::Ready(Some(Err(_))))
        {
            polled = Poll::Ready(Some(Err(panicked(&panic))));
        }
        let mut shared = lock(&this.shared);
        shared.polled = false;
        if shared.phase != Phase::Over {
            shared.source = source.take();
        }
        let is_present = shared.attempt == this.attempt;
        match &polled {
            // The stream of this attempt has ended: it is for the one that waits for this poll.
            Poll::Ready(Some(Ok(frame))) if !is_present && shared.phase != Phase::Over => shared.keep(frame),
            Poll::Ready(Some(Ok(frame))) if shared.phase == Phase::Buffering => {
                shared.buffer(frame);
                this.next = shared.buffered.len();
            }
            Poll::Ready(Some(Err(status))) => {
                shared.failed.get_or_insert(status.clone());
            }
            _ => {}
        }
        let next = if is_present { None } else { shared.waker.take() };
        drop(shared);
        // The call has ended in the meantime.
        drop_contained(source);
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
            && shared.failed.is_none()
            && shared.source.is_none()
    }
}

/// Returns the status of a call whose request stream has panicked.
pub(crate) fn panicked(panic: &str) -> Status {
    Status::internal(format!("the request stream panicked: {panic}"))
}

fn length(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

fn lock(shared: &Mutex<ReplayState>) -> MutexGuard<'_, ReplayState> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
