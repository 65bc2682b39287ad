//! Listening sockets, and the byte streams that they accept.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use hither_core::Address;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

#[cfg(unix)]
use super::socket_file::SocketFile;
#[cfg(feature = "memory-network")]
use crate::memory_network::{MemoryListener, MemoryStream};

/// A socket that listens already, for [`LifecycleBuilder::listen`](crate::LifecycleBuilder::listen): a `TcpListener` or
/// `UnixListener` of std or of Tokio, or a `MemoryListener` in tests.
#[derive(Debug)]
pub struct ListeningSocket(Given);

#[derive(Debug)]
enum Given {
    Tokio(Socket),
    StdTcp(std::net::TcpListener),
    #[cfg(unix)]
    StdUnix(std::os::unix::net::UnixListener),
}

impl ListeningSocket {
    /// Returns it as one of Tokio's, inside whose runtime it is called.
    pub(super) fn into_socket(self) -> io::Result<Socket> {
        match self.0 {
            Given::Tokio(socket) => Ok(socket),
            Given::StdTcp(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Socket::Tcp)
            }
            #[cfg(unix)]
            Given::StdUnix(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Socket::Unix { _file: None, listener: UnixListener::from_std(listener)? })
            }
        }
    }
}

impl From<TcpListener> for ListeningSocket {
    fn from(listener: TcpListener) -> Self {
        Self(Given::Tokio(Socket::Tcp(listener)))
    }
}

impl From<std::net::TcpListener> for ListeningSocket {
    fn from(listener: std::net::TcpListener) -> Self {
        Self(Given::StdTcp(listener))
    }
}

#[cfg(unix)]
impl From<UnixListener> for ListeningSocket {
    fn from(listener: UnixListener) -> Self {
        Self(Given::Tokio(Socket::Unix { _file: None, listener }))
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixListener> for ListeningSocket {
    fn from(listener: std::os::unix::net::UnixListener) -> Self {
        Self(Given::StdUnix(listener))
    }
}

#[cfg(feature = "memory-network")]
impl From<MemoryListener> for ListeningSocket {
    fn from(listener: MemoryListener) -> Self {
        Self(Given::Tokio(Socket::Memory(listener)))
    }
}

/// A listening socket. Dropping it closes it.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix {
        /// The file that is ours. Before the listener, because it is removed before that is closed.
        _file: Option<SocketFile>,
        listener: UnixListener,
    },
    #[cfg(feature = "memory-network")]
    Memory(MemoryListener),
}

impl Socket {
    /// Returns the address that it listens on.
    pub(super) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.into()),
            #[cfg(unix)]
            Self::Unix { listener, .. } => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().ok_or_else(|| {
                    io::Error::new(io::ErrorKind::Unsupported, "the Unix socket has no path (it is abstract)")
                })?;
                // A relative path that was bound by another process cannot be known here.
                Address::unix(path).map_err(|error| io::Error::new(io::ErrorKind::Unsupported, error))
            }
            #[cfg(feature = "memory-network")]
            Self::Memory(listener) => Ok(listener.host().address().clone()),
        }
    }

    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(ByteStream, Peer)>> {
        match self {
            Self::Tcp(listener) => {
                let accepted = listener.poll_accept(cx);
                accepted.map_ok(|(stream, peer)| (ByteStream::Tcp(stream), Peer::Tcp(peer)))
            }
            #[cfg(unix)]
            Self::Unix { listener, .. } => {
                listener.poll_accept(cx).map_ok(|(stream, _)| (ByteStream::Unix(stream), Peer::Unix))
            }
            #[cfg(feature = "memory-network")]
            Self::Memory(listener) => listener.poll_accept(cx).map(|stream| {
                let peer = Peer::Tcp(stream.client());
                Ok((ByteStream::Memory(stream), peer))
            }),
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix,
}

impl Peer {
    pub(super) fn tcp(self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(address),
            #[cfg(unix)]
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(super) enum ByteStream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    #[cfg(feature = "memory-network")]
    Memory(MemoryStream),
}

macro_rules! delegate {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            ByteStream::Tcp($inner) => $call,
            #[cfg(unix)]
            ByteStream::Unix($inner) => $call,
            #[cfg(feature = "memory-network")]
            ByteStream::Memory($inner) => $call,
        }
    };
}

impl ByteStream {
    /// Returns the address of this end, if it is one of TCP.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
            #[cfg(feature = "memory-network")]
            Self::Memory(stream) => stream.local_addr(),
        }
    }

    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            #[cfg(unix)]
            Self::Unix(_) => Ok(()),
            #[cfg(feature = "memory-network")]
            Self::Memory(_) => Ok(()),
        }
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(&mut *self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(&mut *self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(&mut *self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        delegate!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(&mut *self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(&mut *self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
