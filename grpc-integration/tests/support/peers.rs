//! Peers that behave as tonic's servers never do on demand.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use h2::Reason;
use hither_tonic::Connected;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::sleep;

use super::frame::{FrameHeader, HEADER_LEN, HEADERS, PREFACE};
use super::{Net, Server};

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Up to stream 0, with NO_ERROR.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Accepts connections and sends nothing, until it is dropped.
#[derive(Debug)]
pub(crate) struct Frozen {
    address: String,
    incoming: UnboundedReceiver<DuplexStream>,
}

impl Frozen {
    pub(crate) fn on(net: &Net, address: &str) -> Self {
        // Connections that stay in the queue are neither read nor closed.
        Self { address: address.to_owned(), incoming: net.listen(address) }
    }

    /// Becomes a server, with all connections that were opened meanwhile.
    pub(crate) fn thaw(self) -> Server {
        Server::taking(self.incoming, &self.address, |server| server)
    }
}

/// Reads each request to its end and refuses it; returns how many there were.
pub(crate) fn refusing(net: &Net, address: &str) -> Arc<AtomicUsize> {
    resetting(net, address, Reason::REFUSED_STREAM)
}

/// Reads each request to its end and resets the stream; returns how many there were.
pub(crate) fn resetting(net: &Net, address: &str, reason: Reason) -> Arc<AtomicUsize> {
    let (mut incoming, resets) = (net.listen(address), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&resets);
    tokio::spawn(async move {
        while let Some(io) = incoming.recv().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(io).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let count = Arc::clone(&count);
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                        }
                        count.fetch_add(1, Ordering::SeqCst);
                        respond.send_reset(reason);
                    });
                }
            });
        }
    });
    resets
}

/// Answers the first request of each connection with a GOAWAY by which it was not processed; returns how
/// many there were.
pub(crate) fn going_away(net: &Net, address: &str) -> Arc<AtomicUsize> {
    let (mut incoming, seen) = (net.listen(address), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Some(mut io) = incoming.recv().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                io.write_all(&SETTINGS).await?;
                io.read_exact(&mut [0; PREFACE.len()]).await?;
                loop {
                    let mut header = [0; HEADER_LEN];
                    io.read_exact(&mut header).await?;
                    let header = FrameHeader::parse(&header);
                    io.read_exact(&mut vec![0; header.length]).await?;
                    if header.kind == HEADERS {
                        count.fetch_add(1, Ordering::SeqCst);
                        io.write_all(&GOAWAY).await?;
                        return io.read_to_end(&mut Vec::new()).await;
                    }
                }
            });
        }
    });
    seen
}

/// Answers the preface of the next connection with its SETTINGS, GOAWAY and the end, as a proxy does that is replaced; all others
/// are taken by the server that is returned.
pub(crate) fn replacing(net: &Net, address: &str) -> Server {
    let mut incoming = net.listen(address);
    let (accept, others) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut first = incoming.recv().await.unwrap();
        first.write_all(&[&SETTINGS[..], &GOAWAY].concat()).await.unwrap();
        drop(first);
        while let Some(io) = incoming.recv().await {
            accept.send(io).unwrap();
        }
    });
    Server::taking(others, address, |server| server)
}

/// Takes so many requests on one connection, says that it takes no more, and then fails each of them with UNAVAILABLE, one
/// every ten milliseconds.
pub(crate) fn draining(net: &Net, address: &str, count: usize) {
    let mut incoming = net.listen(address);
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(incoming.recv().await.unwrap()).await.unwrap();
        let mut held = Vec::new();
        while held.len() < count {
            held.push(connection.accept().await.unwrap().unwrap());
        }
        connection.graceful_shutdown();
        tokio::spawn(async move {
            for (_request, mut respond) in held {
                sleep(Duration::from_millis(10)).await;
                let headers = http::Response::builder().header("content-type", "application/grpc");
                let headers = headers.header("grpc-status", "14").body(()).unwrap();
                let _: h2::SendStream<bytes::Bytes> = respond.send_response(headers, true).unwrap();
            }
        });
        while connection.accept().await.is_some() {}
    });
}

/// Accepts connections, sends its SETTINGS and nothing more.
pub(crate) fn silent(net: &Net, address: &str) {
    let mut incoming = net.listen(address);
    tokio::spawn(async move {
        while let Some(mut io) = incoming.recv().await {
            tokio::spawn(async move {
                io.write_all(&SETTINGS).await?;
                io.read_to_end(&mut Vec::new()).await
            });
        }
    });
}

/// Answers every request with an endless stream of messages, ten in a second, whatever its deadline; returns
/// how many are open.
pub(crate) fn streaming(net: &Net, address: &str) -> Arc<AtomicUsize> {
    const MESSAGE: &[u8] = &[0, 0, 0, 0, 0];
    let (mut incoming, open) = (net.listen(address), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&open);
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(incoming.recv().await.unwrap()).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                count.fetch_add(1, Ordering::SeqCst);
                let headers = http::Response::builder().header("content-type", "application/grpc").body(());
                let mut body = respond.send_response(headers.unwrap(), false).unwrap();
                while body.send_data(MESSAGE.into(), false).is_ok() {
                    sleep(Duration::from_millis(100)).await;
                }
                count.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    open
}

/// A connection to a peer that shuts down while a request crosses its GOAWAY: once `left` is set writing fails, and
/// a GOAWAY can be read by which the request was not processed.
pub(crate) fn parting(left: &Arc<AtomicBool>) -> Connected {
    let (io, peer) = tokio::io::duplex(1000);
    Connected::new(Parting { io, peer: Some(peer), left: Arc::clone(left), greeted: false })
}

struct Parting {
    io: DuplexStream,
    peer: Option<DuplexStream>,
    left: Arc<AtomicBool>,
    greeted: bool,
}

impl Parting {
    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        if let Some(peer) = &mut self.peer {
            let sent = Pin::new(peer).poll_write(cx, bytes);
            assert!(matches!(sent, Poll::Ready(Ok(length)) if length == bytes.len()));
        }
    }
}

impl AsyncRead for Parting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Parting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !std::mem::replace(&mut self.greeted, true) {
            self.send(cx, &SETTINGS);
        }
        if self.left.load(Ordering::SeqCst) {
            self.send(cx, &GOAWAY);
            self.peer = None;
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
