//! The connections that a server is handed, and the switch that cuts them.

use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::authority::Mending;

/// How long accepting rests after an error that is not one connection's own, such as too many open files.
const REST: Duration = Duration::from_millis(100);

/// The connections that clients open, for tonic's `serve_with_incoming_shutdown`.
///
/// It has `TCP_NODELAY` set on each, yields no errors (those of a single connection are skipped, and a shortage
/// such as too many open files is waited out), and each [`Connection`] can be cut by the [`Lifecycle`]. Dropping
/// it closes the listening socket.
///
/// [`Lifecycle`]: crate::Lifecycle
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    switch: Arc<Switch>,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    pub(super) fn new(listener: TcpListener, cutter: &Cutter) -> Self {
        Self { listener, switch: Arc::clone(&cutter.0), rest: None }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
                self.rest = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, peer)) => {
                    // A server that cannot have it is slower, not wrong.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%peer, %error, "TCP_NODELAY was refused");
                    }
                    return Poll::Ready(Some(Ok(Connection::new(stream, peer, &self.switch))));
                }
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "a connection was gone before it was accepted");
                }
                Err(error) => {
                    // tonic's own loop would spin on this one.
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    self.rest = Some(Box::pin(sleep(REST)));
                }
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

/// A TCP connection that the [`Lifecycle`](crate::Lifecycle) can cut; `Request::remote_addr` works as always.
///
/// It also takes Go's clients of a service with a slash in its name, whom hyper refuses: they dial
/// `etcd:///team/greeter`, send the authority `team%2Fgreeter`, and the server sees `team.2Fgreeter`. Under TLS that
/// cannot be done here; such clients need `grpc.WithAuthority`.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    mending: Mending,
    peer: SocketAddr,
    wakers: Arc<Wakers>,
    switch: Arc<Switch>,
    key: u64,
}

impl Connection {
    fn new(stream: TcpStream, peer: SocketAddr, switch: &Arc<Switch>) -> Self {
        let (key, wakers) = switch.enter();
        Self { stream, mending: Mending::default(), peer, wakers, switch: Arc::clone(switch), key }
    }

    /// Does `io` on the stream unless the connection is cut, and sees to it that a cut wakes who waits.
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
            // Registered first and looked at after: a cut in between is not missed.
            waker(&self.wakers).register(cx.waker());
            if !self.switch.is_cut() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Err(io::Error::new(
            ErrorKind::ConnectionAborted,
            "cut: the server's time to finish is over",
        )))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.switch.connections().open.remove(&self.key);
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
        let mut mending = std::mem::take(&mut self.mending);
        let read = mending.poll_read(cx, buf, |cx, buf| {
            self.unless_cut(cx, |wakers| &wakers.read, |stream, cx| stream.poll_read(cx, buf))
        });
        self.mending = mending;
        read
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

/// Cuts all connections of one server at once, and those that come after too. Dropping it does so.
#[derive(Debug, Default)]
pub(super) struct Cutter(Arc<Switch>);

impl Cutter {
    /// Cuts, and says how many connections were open.
    pub(super) fn cut(&self) -> usize {
        self.0.cut()
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.0.cut();
    }
}

#[derive(Debug, Default)]
struct Switch {
    cut: AtomicBool,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    open: HashMap<u64, Arc<Wakers>>,
}

/// Who waits on one connection. Two, because reading and writing may be two tasks.
#[derive(Debug, Default)]
struct Wakers {
    read: AtomicWaker,
    write: AtomicWaker,
}

impl Switch {
    fn cut(&self) -> usize {
        self.cut.store(true, Ordering::SeqCst);
        let open: Vec<_> = self.connections().open.values().cloned().collect();
        for wakers in &open {
            wakers.read.wake();
            wakers.write.wake();
        }
        open.len()
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    fn enter(&self) -> (u64, Arc<Wakers>) {
        let wakers = Arc::<Wakers>::default();
        let mut connections = self.connections();
        let key = connections.next;
        connections.next += 1;
        connections.open.insert(key, Arc::clone(&wakers));
        (key, wakers)
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        // The map is whole whatever panicked while it was locked.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ready when the server should stop: it takes no new connections and calls from then on, and finishes those
/// that it has.
#[derive(Debug)]
pub struct Shutdown(oneshot::Receiver<()>);

impl Shutdown {
    /// The future, and what fires it; dropping that fires it too.
    pub(super) fn new() -> (oneshot::Sender<()>, Self) {
        let (fire, shutdown) = oneshot::channel();
        (fire, Self(shutdown))
    }
}

impl Future for Shutdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}
