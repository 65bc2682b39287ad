//! One end of a connection.

use std::fmt;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::watch;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How much is under way in one direction: then writing waits, as on a socket.
const BUFFER: usize = 64 * 1024;

/// The faults of one address.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) frozen: bool,
    pub(super) ignores_connects: bool,
    /// How often the connections that were open were reset.
    pub(super) resets: u64,
    /// The number of the latest listener that was killed; those before it are gone too.
    pub(super) killed: u64,
}

/// What the two ends of a connection have in common.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// The number of the listener that accepts it.
    pub(super) listener: u64,
    pub(super) faults: watch::Receiver<Faults>,
}

/// A connection on a [`MemoryNetwork`](crate::MemoryNetwork), as a server accepts it.
///
/// `Request::remote_addr` is an address of 127.0.0.1 with another port for each connection, and `local_addr` the one
/// that the server listens on, if that is an IP address.
pub struct MemoryStream {
    io: DuplexStream,
    /// Of the server.
    local_addr: Option<SocketAddr>,
    client: SocketAddr,
    reading: Follower,
    writing: Follower,
    end: End,
}

enum End {
    Client,
    /// The only one that a frozen server stops. It counts the open connections.
    Server {
        _open: Arc<()>,
    },
}

impl MemoryStream {
    /// Returns the ends of a new connection: the client's and the server's.
    pub(super) fn pair(
        link: &Link,
        local_addr: Option<SocketAddr>,
        client: SocketAddr,
        open: &Arc<()>,
    ) -> (Self, Self) {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let new = |io, end| Self {
            io,
            local_addr,
            client,
            reading: Follower::new(link),
            writing: Follower::new(link),
            end,
        };
        (new(ours, End::Client), new(theirs, End::Server { _open: Arc::clone(open) }))
    }
}

impl MemoryStream {
    /// Returns the address of the server, if it is an IP address.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    pub(crate) fn client(&self) -> SocketAddr {
        self.client
    }
}

impl End {
    /// Does `io` unless a fault keeps it from this end.
    fn unless_faulty<T>(
        &self,
        follower: &mut Follower,
        cx: &mut Context<'_>,
        io: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let faults = follower.faults(cx);
        if faults.resets != follower.resets || faults.killed >= follower.link.listener {
            return Poll::Ready(Err(io::Error::new(ErrorKind::ConnectionReset, "connection reset")));
        }
        match self {
            Self::Server { .. } if faults.frozen => Poll::Pending,
            _ => io(cx),
        }
    }
}

/// Follows the faults from functions that poll: one for each direction, because each may be polled by another task.
struct Follower {
    link: Link,
    changed: BoxFuture<'static, watch::Receiver<Faults>>,
    /// As it was when the connection was opened.
    resets: u64,
}

impl Follower {
    fn new(link: &Link) -> Self {
        let resets = link.faults.borrow().resets;
        Self { link: link.clone(), changed: Box::pin(changed(link.faults.clone())), resets }
    }

    /// Returns the present faults, and wakes the task at the next change.
    fn faults(&mut self, cx: &mut Context<'_>) -> Faults {
        while let Poll::Ready(faults) = self.changed.as_mut().poll(cx) {
            self.changed = Box::pin(changed(faults));
        }
        *self.link.faults.borrow()
    }
}

async fn changed(mut faults: watch::Receiver<Faults>) -> watch::Receiver<Faults> {
    if faults.changed().await.is_err() {
        // The network is gone, and nothing changes any more.
        pending::<()>().await;
    }
    faults
}

impl Connected for MemoryStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.local_addr, remote_addr: Some(self.client) }
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, reading, end, .. } = &mut *self;
        end.unless_faulty(reading, cx, |cx| Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { io, writing, end, .. } = &mut *self;
        end.unless_faulty(writing, cx, |cx| Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, writing, end, .. } = &mut *self;
        end.unless_faulty(writing, cx, |cx| Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, writing, end, .. } = &mut *self;
        end.unless_faulty(writing, cx, |cx| Pin::new(io).poll_shutdown(cx))
    }
}

impl fmt::Debug for MemoryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStream").field("client", &self.client).finish_non_exhaustive()
    }
}
