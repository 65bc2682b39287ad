//! An eye on what the peer says about the connection itself.
//!
//! Three things decide which connection a call may take, and hyper tells none of them in time: that the peer
//! has spoken HTTP/2 at all, how many streams it allows, and that it is going away. All stand in the headers
//! of frames that pass by here on their way to hyper.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};
use tokio::time::{Sleep, sleep};

use super::frames::{Frames, Heard};
use crate::client::connector::BoxedIo;

/// How long the last words of a peer that cannot be written to any more are waited for. A socket that broke
/// has nearly always something to read at once, if only its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    /// Writing has failed, for this reason; how long to wait for what is still to be read.
    broken: Option<(io::Error, Pin<Box<Sleep>>)>,
    /// `None` once it was cut.
    cut: Option<oneshot::Receiver<()>>,
    _alive: oneshot::Sender<()>,
}

/// The other end of a [`Watched`]: dropping it cuts the stream.
#[derive(Debug)]
pub(crate) struct Cut {
    _cut: oneshot::Sender<()>,
    alive: oneshot::Receiver<()>,
}

impl Cut {
    /// Completes when the stream was let go of. Not to be asked again after that.
    pub(crate) async fn released(&mut self) {
        // There is never a value: the sender goes with the stream.
        let _ = (&mut self.alive).await;
    }
}

impl Watched {
    pub(crate) fn new(io: BoxedIo, peer: Arc<Peer>) -> (Self, Cut) {
        let (_cut, cut) = oneshot::channel();
        let (_alive, alive) = oneshot::channel();
        let cut = Some(cut);
        (Self { io, frames: Frames::default(), peer, broken: None, cut, _alive }, Cut { _cut, alive })
    }

    /// An error once the stream was cut.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(cut) = &mut self.cut
            && Pin::new(cut).poll(cx).is_pending()
        {
            return Ok(());
        }
        self.cut = None;
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "given up"))
    }

    /// Writes, as long as that works. What is written later is swallowed, and it is reading that tells the
    /// error, when it has nothing else to tell.
    ///
    /// A server that leaves says GOAWAY and closes. Requests that cross it on their way are answered with a
    /// reset, and then writing fails while the GOAWAY, which says that they may be sent elsewhere, is still
    /// to be read.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        write: impl FnOnce(Pin<&mut BoxedIo>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        if self.broken.is_some() {
            return Poll::Ready(Ok(length));
        }
        match write(Pin::new(&mut self.io), cx) {
            Poll::Ready(Err(error)) => {
                self.broken = Some((error, Box::pin(sleep(LAST_WORDS))));
                // To be read from.
                cx.waker().wake_by_ref();
                Poll::Ready(Ok(length))
            }
            written => written,
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
        let read = match (Pin::new(&mut self.io).poll_read(cx, buf), &mut self.broken) {
            (Poll::Ready(read), _) => read,
            (Poll::Pending, Some((error, waited))) => {
                ready!(waited.as_mut().poll(cx));
                Err(io::Error::new(error.kind(), error.to_string()))
            }
            (Poll::Pending, None) => return Poll::Pending,
        };
        if let Err(error) = read {
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
        self.write(cx, buf.len(), |io, cx| io.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, 0, |io, cx| io.poll_flush(cx).map_ok(|()| 0)).map_ok(|_| ())
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
        let length = bufs.iter().map(|buf| buf.len()).sum();
        self.write(cx, length, |io, cx| io.poll_write_vectored(cx, bufs))
    }
}
