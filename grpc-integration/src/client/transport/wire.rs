//! The byte stream under a connection, and what h2 does not report about it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hither_core::contain::contain;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::empty_frames::EmptyFrames;
use super::stream_waker::StreamWaker;
use crate::client::connector::BoxedIo;

/// How long is waited for what can still be read from a peer after writing to it has failed. A broken socket nearly
/// always has something to read at once, if only its end.
const READ_AFTER_BROKEN_WRITE: Duration = Duration::from_secs(1);
/// How much of what a peer sends first is kept, to name its protocol if it is not HTTP/2.
const FIRST_BYTES: usize = 64;

/// What is known about the byte stream of a connection. Only the connection's task writes it.
#[derive(Debug)]
pub(super) struct WireFacts {
    read: AtomicU64,
    written: AtomicU64,
    blocked: AtomicBool,
    /// SETTINGS or GOAWAY may have been read.
    control: AtomicBool,
    max_request_headers: AtomicU32,
    first: OnceLock<Box<[u8]>>,
}

impl WireFacts {
    fn new() -> Self {
        Self {
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            control: AtomicBool::new(false),
            max_request_headers: AtomicU32::new(u32::MAX),
            first: OnceLock::new(),
        }
    }

    /// Returns how many bytes were read.
    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Returns how many bytes were written.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Returns whether the peer takes no more bytes at the moment.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Returns whether SETTINGS or GOAWAY may have been read since the last time. It saves asking h2 after each read.
    pub(super) fn take_control(&self) -> bool {
        let control = self.control.load(Ordering::Relaxed);
        if control {
            self.control.store(false, Ordering::Relaxed);
        }
        control
    }

    /// Returns the largest size of a request's headers that the peer accepts, as HTTP/2 counts it.
    pub(super) fn max_request_headers(&self) -> u32 {
        self.max_request_headers.load(Ordering::Relaxed)
    }

    /// Returns the beginning of what the peer has sent.
    pub(super) fn first(&self) -> &[u8] {
        self.first.get().map_or(&[], |first| first)
    }

    fn on_read(&self, bytes: &[u8]) {
        let read = self.read();
        if read == 0 && !bytes.is_empty() {
            let first = bytes.get(..FIRST_BYTES).unwrap_or(bytes);
            let _ = self.first.set(first.into());
        }
        // There is one writer, so this need not be one atomic operation.
        self.read.store(read.wrapping_add(bytes.len() as u64), Ordering::Relaxed);
    }

    fn on_write(&self, written: &Poll<io::Result<usize>>) {
        self.blocked.store(written.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Ok(count)) = written {
            self.written.store(self.written().wrapping_add(*count as u64), Ordering::Relaxed);
        }
    }
}

/// The byte stream of a connection.
pub(super) struct Wire {
    io: BoxedIo,
    facts: Arc<WireFacts>,
    empty_frames: EmptyFrames,
    /// Whether something was written since it was flushed.
    unflushed: bool,
    /// What `io` wakes.
    waker: (Arc<StreamWaker>, Waker),
    /// Writing has failed, with this error; how long to wait for what can still be read.
    broken: Option<(io::Error, Pin<Box<Sleep>>)>,
}

impl Wire {
    pub(super) fn new(io: BoxedIo) -> (Self, Arc<WireFacts>) {
        let facts = Arc::new(WireFacts::new());
        let wire = Self {
            io,
            facts: Arc::clone(&facts),
            empty_frames: EmptyFrames::default(),
            unflushed: false,
            waker: StreamWaker::new(Waker::noop()),
            broken: None,
        };
        (wire, facts)
    }

    /// Writes until that fails. What is written later is discarded, and the error is returned by reading, once there
    /// is nothing else to read.
    ///
    /// A server that shuts down sends GOAWAY and closes. Requests that cross it on the wire are answered with a TCP
    /// reset, and then writing fails while the GOAWAY, by which they may be retried, is still to be read.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        write: impl FnOnce(Pin<&mut BoxedIo>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.broken.is_some() {
            return Poll::Ready(Ok(length));
        }
        self.unflushed = true;
        renew(&mut self.waker, cx);
        let Self { io, waker: (_, waker), .. } = self;
        let written = match contain(|| write(Pin::new(io), &mut Context::from_waker(waker))) {
            Ok(written) => written,
            // Nothing of the stream can be relied on.
            Err(panic) => return Poll::Ready(Err(panicked(&panic))),
        };
        self.facts.on_write(&written);
        match written {
            Poll::Ready(Err(error)) => {
                self.broken = Some((error, Box::pin(sleep(READ_AFTER_BROKEN_WRITE))));
                // So that it is read from.
                cx.waker().wake_by_ref();
                Poll::Ready(Ok(length))
            }
            written => written,
        }
    }
}

/// Makes `waker` wake the task that polls with `cx`. If it is another task than before, that has to read first.
#[inline(always)]
fn renew((known, waker): &mut (Arc<StreamWaker>, Waker), cx: &Context<'_>) {
    if !known.is_of(cx) {
        (*known, *waker) = StreamWaker::new(cx.waker());
    }
}

/// A byte stream may be the program's own code: a panic that passed through h2 would end the connection's task without a
/// word of why.
fn contained<T>(poll: impl FnOnce() -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    contain(poll).unwrap_or_else(|panic| Poll::Ready(Err(panicked(&panic))))
}

fn panicked(panic: &str) -> io::Error {
    io::Error::other(format!("panic in the byte stream: {panic}"))
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        renew(&mut self.waker, cx);
        let Self { io, facts, empty_frames, waker: (stream, waker), broken, .. } = &mut *self;
        if !stream.begin() && broken.is_none() {
            return Poll::Pending;
        }
        let read = empty_frames.poll_read(&mut Context::from_waker(waker), buf, |cx, buf| {
            let before = buf.filled().len();
            match (contained(|| Pin::new(&mut *io).poll_read(cx, buf)), &mut *broken) {
                (Poll::Ready(read), _) => read?,
                (Poll::Pending, Some((error, waited))) => {
                    ready!(waited.as_mut().poll(cx));
                    return Poll::Ready(Err(io::Error::new(error.kind(), error.to_string())));
                }
                (Poll::Pending, None) => return Poll::Pending,
            }
            facts.on_read(buf.filled().get(before..).unwrap_or_default());
            Poll::Ready(Ok(()))
        });
        if empty_frames.take_control() {
            facts.max_request_headers.store(empty_frames.settings().max_header_list(), Ordering::Relaxed);
            facts.control.store(true, Ordering::Relaxed);
        }
        if read.is_ready() {
            stream.again();
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, buf.len(), |io, cx| io.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // h2 flushes each time that it is polled.
        if !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        let flushed = self.write(cx, 0, |io, cx| io.poll_flush(cx).map_ok(|()| 0)).map_ok(|_| ());
        self.unflushed = !matches!(flushed, Poll::Ready(Ok(())));
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        renew(&mut self.waker, cx);
        let Self { io, waker: (_, waker), .. } = &mut *self;
        contained(|| Pin::new(io).poll_shutdown(&mut Context::from_waker(waker)))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        self.write(cx, length, |io, cx| io.poll_write_vectored(cx, bufs))
    }
}
