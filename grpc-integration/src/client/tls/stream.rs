//! An established TLS stream.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client;

use crate::client::connector::BoxedIo;
use crate::tls::{Peer, in_words};

/// A TLS stream whose errors are in words.
///
/// In TLS 1.3 a server refuses a client's certificate after the client has finished its handshake, so that error comes
/// with the first read (rustls/tokio-rustls#38).
pub(super) struct TlsStream(client::TlsStream<BoxedIo>);

impl TlsStream {
    pub(super) fn new(stream: client::TlsStream<BoxedIo>) -> Self {
        Self(stream)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf).map(|outcome| match outcome {
            // Many peers close without close_notify. HTTP/2 has lengths and ends of its own, so nothing that was cut off
            // passes for complete, and this is the end of the stream.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            outcome => outcome.map_err(|error| in_words(error, Peer::Server)),
        })
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
