//! One accepted connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::cut_stream::CutStream;
use super::plain::{Plain, PlainConfig};
#[cfg(feature = "tls")]
use super::tls::TlsConnection;

/// A connection that the [`Lifecycle`](crate::Lifecycle) can cut. `Request::remote_addr` works as usual.
///
/// It also makes requests acceptable to hyper whose `:authority` was percent-encoded by a client written in Go; see
/// [`rewrite_authority`](crate::LifecycleBuilder::rewrite_authority).
#[derive(Debug)]
pub struct Connection(Kind);

#[derive(Debug)]
enum Kind {
    Plain(Box<Plain<CutStream>>),
    #[cfg(feature = "tls")]
    Tls(Box<TlsConnection>),
}

impl Connection {
    pub(super) fn new(stream: CutStream, config: PlainConfig) -> Self {
        let state = stream.state();
        Self(Kind::Plain(Box::new(Plain::new(stream, state, config))))
    }

    #[cfg(feature = "tls")]
    pub(super) fn tls(connection: TlsConnection) -> Self {
        Self(Kind::Tls(Box::new(connection)))
    }
}

/// Does the same with the stream, whichever it is.
macro_rules! delegate {
    ($connection:expr, $stream:ident => $does:expr) => {
        match $connection {
            Kind::Plain($stream) => $does,
            #[cfg(feature = "tls")]
            Kind::Tls($stream) => $does,
        }
    };
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match &self.0 {
            Kind::Plain(stream) => stream.connect_info(),
            #[cfg(feature = "tls")]
            Kind::Tls(stream) => stream.connect_info().get_ref().clone(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(&mut self.0, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(&mut self.0, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(&mut self.0, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        delegate!(&self.0, stream => stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(&mut self.0, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(&mut self.0, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
