//! One accepted TCP connection that can be cut.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::cutter::{Switch, Wakers};

/// A TCP connection that the server's switch cuts.
#[derive(Debug)]
pub(super) struct CutStream {
    stream: TcpStream,
    peer: SocketAddr,
    wakers: Arc<Wakers>,
    switch: Arc<Switch>,
    key: u64,
}

impl CutStream {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, switch: &Arc<Switch>) -> Self {
        let (key, wakers) = switch.add();
        Self { stream, peer, wakers, switch: Arc::clone(switch), key }
    }

    #[cfg(feature = "tls")]
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
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

impl Drop for CutStream {
    fn drop(&mut self) {
        self.switch.remove(self.key);
    }
}

impl Connected for CutStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.stream.local_addr().ok(), remote_addr: Some(self.peer) }
    }
}

impl AsyncRead for CutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.unless_cut(cx, |wakers| &wakers.read, |stream, cx| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for CutStream {
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
