//! One accepted connection that can be cut.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::cutter::{ConnectionState, Switch};
use super::metrics::OpenConnection;
use super::socket::{ByteStream, Peer};

/// A connection that the server's switch cuts.
#[derive(Debug)]
pub(super) struct CutStream {
    stream: ByteStream,
    peer: Peer,
    state: Arc<ConnectionState>,
    switch: Arc<Switch>,
    key: u64,
    _open: OpenConnection,
}

impl CutStream {
    pub(super) fn new(stream: ByteStream, peer: Peer, switch: &Arc<Switch>) -> Self {
        let (key, state) = switch.add();
        Self { stream, peer, state, switch: Arc::clone(switch), key, _open: OpenConnection::new() }
    }

    pub(super) fn state(&self) -> Arc<ConnectionState> {
        Arc::clone(&self.state)
    }

    #[cfg(feature = "tls")]
    pub(super) fn peer(&self) -> Peer {
        self.peer
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
        TcpConnectInfo { local_addr: self.stream.local_addr(), remote_addr: self.peer.tcp() }
    }
}

impl AsyncRead for CutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, state, switch, .. } = &mut *self;
        switch.unless_cut(cx, &state.read, |cx| Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for CutStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, state, switch, .. } = &mut *self;
        switch.unless_cut(cx, &state.write, |cx| Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, state, switch, .. } = &mut *self;
        switch.unless_cut(cx, &state.write, |cx| Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, state, switch, .. } = &mut *self;
        switch.unless_cut(cx, &state.write, |cx| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
