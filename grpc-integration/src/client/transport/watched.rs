//! A byte stream that is scanned for what the peer announces about the connection.
//!
//! Three facts decide which connection a call may take, and hyper reports none of them in time: that the peer has
//! sent its SETTINGS, how many streams it allows, and that it has sent GOAWAY. All are found in the frames that are
//! read here on their way to hyper.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use super::frames::FrameScanner;
use super::peer::Peer;
use crate::client::connector::BoxedIo;

/// How long is waited for what can still be read from a peer after writing to it has failed. A broken socket nearly
/// always has something to read at once, if only its end.
const READ_AFTER_BROKEN_WRITE: Duration = Duration::from_secs(1);

/// A byte stream whose incoming frames are scanned, and that can be cut.
pub(crate) struct Watched {
    io: BoxedIo,
    frames: FrameScanner,
    peer: Arc<Peer>,
    /// Writing has failed, with this error; how long to wait for what can still be read.
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
    /// Completes when the stream was dropped. Not to be called again after that.
    pub(crate) async fn released(&mut self) {
        // There is never a value: the sender is dropped with the stream.
        let _ = (&mut self.alive).await;
    }
}

impl Watched {
    pub(crate) fn new(io: BoxedIo, peer: Arc<Peer>) -> (Self, Cut) {
        let (_cut, cut) = oneshot::channel();
        let (_alive, alive) = oneshot::channel();
        let cut = Some(cut);
        (Self { io, frames: FrameScanner::default(), peer, broken: None, cut, _alive }, Cut { _cut, alive })
    }

    /// An error once the stream was cut.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(cut) = &mut self.cut
            && Pin::new(cut).poll(cx).is_pending()
        {
            return Ok(());
        }
        self.cut = None;
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was dropped"))
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
        self.check(cx)?;
        if self.broken.is_some() {
            return Poll::Ready(Ok(length));
        }
        match write(Pin::new(&mut self.io), cx) {
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
        frames.scan(read, |event| peer.on_event(event));
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
