//! One accepted connection.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::authority::AuthorityRewriter;
use super::cutter::{Switch, Wakers};

/// A TCP connection that the [`Lifecycle`](crate::Lifecycle) can cut. `Request::remote_addr` works as usual.
///
/// It also makes requests acceptable to hyper whose `:authority` was percent-encoded by a client written in Go; see
/// [`rewrite_authority`](crate::LifecycleBuilder::rewrite_authority).
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    rewriter: Option<AuthorityRewriter>,
    peer: SocketAddr,
    wakers: Arc<Wakers>,
    switch: Arc<Switch>,
    key: u64,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        switch: &Arc<Switch>,
        rewrite_authority: bool,
    ) -> Self {
        let (key, wakers) = switch.add();
        Self {
            stream,
            rewriter: rewrite_authority.then(AuthorityRewriter::default),
            peer,
            wakers,
            switch: Arc::clone(switch),
            key,
        }
    }

    /// Does `io` on the stream unless the connection was cut, and registers the task to be woken by a cut.
    fn unless_cut<T>(
        &mut self,
        cx: &mut Context<'_>,
        waker: impl FnOnce(&Wakers) -> &AtomicWaker,
        io: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if !self.switch.is_cut() {
            let outcome = io(Pin::new(&mut self.stream), cx);
            if outcome.is_ready() {
                return outcome;
            }
            // Registered first and checked after: a cut in between is not missed.
            waker(&self.wakers).register(cx.waker());
            if !self.switch.is_cut() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Err(io::Error::new(
            ErrorKind::ConnectionAborted,
            "cut: the server's drain timeout is over",
        )))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.switch.remove(self.key);
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.stream.local_addr().ok(), remote_addr: Some(self.peer) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut rewriter = self.rewriter.take();
        let mut read = |cx: &mut Context<'_>, buf: &mut ReadBuf<'_>| {
            self.unless_cut(cx, |wakers| &wakers.read, |stream, cx| stream.poll_read(cx, buf))
        };
        let outcome = match &mut rewriter {
            Some(rewriter) => rewriter.poll_read(cx, buf, read),
            None => read(cx, buf),
        };
        self.rewriter = rewriter;
        outcome
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.unless_cut(cx, |wakers| &wakers.write, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unless_cut(cx, |wakers| &wakers.write, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unless_cut(cx, |wakers| &wakers.write, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
