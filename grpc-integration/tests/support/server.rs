//! Real tonic servers, over TCP or over a network in memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::server::Connected;

use super::Net;
use super::echo::Echo;

/// A server that is up. Dropping it kills it: its connections break.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: String,
    echo: Echo,
    connections: Arc<Connections>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Connections {
    accepted: AtomicUsize,
    open: AtomicUsize,
    broken: watch::Sender<()>,
}

type Describe = fn(tonic::transport::Server) -> tonic::transport::Server;

impl Server {
    /// A server on a free port of this machine.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self::serve(&address, TcpListenerStream::new(listener), |server| server)
    }

    /// A server on a socket in the file system.
    #[cfg(unix)]
    pub(crate) fn on_socket(path: &std::path::Path) -> Self {
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        Self::serve(&format!("unix://{}", path.display()), incoming, |server| server)
    }

    /// A server at an address of `net`.
    pub(crate) fn on(net: &Net, address: &str) -> Self {
        Self::described(net, address, |server| server)
    }

    /// A server at an address of `net`, that is as `describe` has it.
    pub(crate) fn described(net: &Net, address: &str, describe: Describe) -> Self {
        Self::taking(net.listen(address), address, describe)
    }

    /// A server that takes the connections which have been waiting for one.
    pub(crate) fn taking(
        incoming: UnboundedReceiver<DuplexStream>,
        address: &str,
        describe: Describe,
    ) -> Self {
        let incoming = stream::unfold(incoming, |mut incoming| async move {
            incoming.recv().await.map(|io| (Ok(io), incoming))
        });
        Self::serve(address, incoming, describe)
    }

    fn serve<IO>(
        address: &str,
        incoming: impl Stream<Item = io::Result<IO>> + Send + 'static,
        describe: Describe,
    ) -> Self
    where
        IO: AsyncRead + AsyncWrite + Connected + Send + Unpin + 'static,
    {
        let echo = Echo::new(address);
        let connections = Arc::<Connections>::default();
        let counted = {
            let connections = Arc::clone(&connections);
            incoming.map(move |io| {
                connections.accepted.fetch_add(1, Ordering::SeqCst);
                connections.open.fetch_add(1, Ordering::SeqCst);
                let mut broken = connections.broken.subscribe();
                let broken = Box::pin(async move { drop(broken.changed().await) });
                io.map(|io| Counted { io, broken, connections: Arc::clone(&connections) })
            })
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let router = describe(tonic::transport::Server::builder()).add_service(echo.clone());
        let served = tokio::spawn(async move {
            router.serve_with_incoming_shutdown(counted, async { drop(stopped.await) }).await.unwrap();
        });
        Self { address: address.to_owned(), echo, connections, stop: Some(stop), served }
    }

    /// Calls that have arrived.
    pub(crate) fn calls(&self) -> usize {
        self.echo.calls.load(Ordering::SeqCst)
    }

    /// Sets what `Slow` takes.
    pub(crate) fn set_delay(&self, milliseconds: u64) {
        self.echo.delay.store(milliseconds, Ordering::SeqCst);
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.connections.open.load(Ordering::SeqCst)
    }

    /// Connections that there ever were.
    pub(crate) fn accepted(&self) -> usize {
        self.connections.accepted.load(Ordering::SeqCst)
    }

    /// Lets the calls go on that wait.
    pub(crate) fn open_gate(&self) {
        self.echo.gate.send_replace(true);
    }

    /// Lets calls wait again.
    pub(crate) fn close_gate(&self) {
        self.echo.gate.send_replace(false);
    }

    /// Breaks all connections that are open now.
    pub(crate) fn break_connections(&self) {
        self.connections.broken.send_replace(());
    }

    /// Takes no new calls and connections from now on, and ends when those it has are done.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn ended(&mut self) {
        (&mut self.served).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.served.abort();
        self.break_connections();
    }
}

/// A byte stream that is counted while it is open, and can be broken.
struct Counted<IO> {
    io: IO,
    broken: Pin<Box<dyn Future<Output = ()> + Send>>,
    connections: Arc<Connections>,
}

impl<IO> Counted<IO> {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.broken.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<IO> Drop for Counted<IO> {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<IO: Connected> Connected for Counted<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> IO::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
