//! An eye on what the peer says about the connection itself.
//!
//! Three things decide which connection a call may take, and hyper tells none of them in time: that the peer
//! has spoken HTTP/2 at all, how many streams it allows, and that it is going away. All stand in the headers of
//! frames that pass by here on their way to hyper.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};

use super::BoxedIo;
use super::frames::{Frames, Heard};

/// How far a connection has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The peer has not sent its SETTINGS yet.
    Greeting,
    /// Requests are welcome.
    Open,
    /// The peer finishes what it has and takes nothing new.
    GoingAway,
    /// The connection is gone, for this reason.
    Closed(String),
}

/// What the peer has said.
#[derive(Debug)]
pub(crate) struct Peer {
    stage: watch::Sender<Stage>,
    /// The same as `stage` being `Open`, for calls: reading it takes no lock.
    open: AtomicBool,
    max_streams: AtomicU32,
}

impl Peer {
    pub(crate) fn new() -> Self {
        let max_streams = AtomicU32::new(u32::MAX);
        Self { stage: watch::Sender::new(Stage::Greeting), open: AtomicBool::new(false), max_streams }
    }

    pub(crate) fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// How many streams it allows at a time; as many as one likes if it did not say.
    pub(crate) fn max_streams(&self) -> u32 {
        self.max_streams.load(Ordering::SeqCst)
    }

    /// Nothing new is to be sent.
    pub(crate) fn retire(&self) {
        self.advance(|stage| (*stage == Stage::Open).then_some(Stage::GoingAway));
    }

    pub(crate) fn close(&self, reason: impl Into<String>) {
        self.advance(|stage| (!matches!(stage, Stage::Closed(_))).then(|| Stage::Closed(reason.into())));
    }

    fn hear(&self, heard: Heard) {
        match heard {
            Heard::Settings { max_streams } => {
                if let Some(max) = max_streams {
                    self.max_streams.store(max, Ordering::SeqCst);
                }
                self.advance(|stage| (*stage == Stage::Greeting).then_some(Stage::Open));
            }
            Heard::GoAway => self.retire(),
        }
    }

    fn advance(&self, next: impl FnOnce(&Stage) -> Option<Stage>) {
        self.stage.send_if_modified(|stage| {
            let Some(next) = next(stage) else { return false };
            self.open.store(next == Stage::Open, Ordering::SeqCst);
            *stage = next;
            true
        });
    }
}

/// A byte stream whose incoming frames are looked at, and that can be cut.
pub(crate) struct Watched {
    io: BoxedIo,
    frames: Frames,
    peer: Arc<Peer>,
    cut: oneshot::Receiver<()>,
    _alive: oneshot::Sender<()>,
}

/// The other end of a [`Watched`]: dropping it cuts the stream.
#[derive(Debug)]
pub(crate) struct Cut {
    _cut: oneshot::Sender<()>,
    alive: oneshot::Receiver<()>,
}

impl Cut {
    /// Completes when the stream was let go of.
    pub(crate) async fn released(&mut self) {
        // There is never a value: the sender goes with the stream.
        let _ = (&mut self.alive).await;
    }
}

impl Watched {
    pub(crate) fn new(io: BoxedIo, peer: Arc<Peer>) -> (Self, Cut) {
        let (_cut, cut) = oneshot::channel();
        let (_alive, alive) = oneshot::channel();
        (Self { io, frames: Frames::default(), peer, cut, _alive }, Cut { _cut, alive })
    }

    /// An error once the stream was cut.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match Pin::new(&mut self.cut).poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(_) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "given up")),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buf.filled().len();
        if let Err(error) = ready!(Pin::new(&mut self.io).poll_read(cx, buf)) {
            self.peer.close(error.to_string());
            return Poll::Ready(Err(error));
        }
        let read = buf.filled().get(before..).unwrap_or_default();
        if read.is_empty() && buf.remaining() > 0 {
            self.peer.close("the peer closed the connection");
        }
        let Self { frames, peer, .. } = &mut *self;
        frames.look_at(read, |heard| peer.hear(heard));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
