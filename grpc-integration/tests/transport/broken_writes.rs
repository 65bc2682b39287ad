//! Connections to which writing fails while a request is in flight.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use hither_tonic::{Connected, Connector, Destination};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::raw::{Conn, NO_ERROR, Peer};
use super::support::{Client, until};
use super::{SECOND, channel, soon, within};

/// TCP; writing to the first connection fails once that is broken.
#[derive(Debug, Clone, Default)]
struct Breakable {
    connected: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
    /// Writes that have failed.
    failed: Arc<AtomicUsize>,
}

#[async_trait]
impl Connector for Breakable {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        let stream = TcpStream::connect(destination.address().to_string()).await?;
        let is_first = !self.connected.swap(true, Ordering::SeqCst);
        let broken = if is_first { Arc::clone(&self.broken) } else { Arc::default() };
        Ok(Stream { stream, broken, failed: Arc::clone(&self.failed) }.into())
    }
}

#[derive(Debug)]
struct Stream {
    stream: TcpStream,
    broken: Arc<AtomicBool>,
    failed: Arc<AtomicUsize>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken.load(Ordering::SeqCst) {
            self.failed.fetch_add(1, Ordering::SeqCst);
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A call that the server has, and one that cannot be written. When both are made, the server sends GOAWAY or nothing.
/// Returns what became of the two.
async fn calls(goaway: bool) -> [Result<String, Status>; 2] {
    let made = watch::Sender::new(false);
    let of_peer = made.clone();
    let peer = Peer::start(move |mut conn: Conn| {
        let mut made = of_peer.subscribe();
        async move {
            conn.greet(&[]).await?;
            if conn.number > 0 {
                return conn.serve("the next connection").await;
            }
            conn.request().await?;
            let _ = made.wait_for(|made| *made).await;
            if goaway {
                conn.goaway(0, NO_ERROR, "").await?;
            }
            std::future::pending().await
        }
    })
    .await;
    let connector = Breakable::default();
    let (_registry, builder) = channel(&[&peer.address]).await;
    let client = Client::new(&builder.connector(connector.clone()).connect().await.unwrap());
    let call = || {
        let client = client.clone();
        tokio::spawn(
            async move { client.call("Name", within(9 * SECOND)).await.map(|name| name.into_inner()) },
        )
    };
    let first = call();
    until("the server has the first call", || peer.seen.headers() == 1).await;
    connector.broken.store(true, Ordering::SeqCst);
    let second = call();
    until("the second one cannot be written", || connector.failed.load(Ordering::SeqCst) > 0).await;
    made.send_replace(true);
    [soon("the first call", first).await.unwrap(), soon("the second call", second).await.unwrap()]
}

/// What a server sends while it closes is still read.
#[tokio::test]
async fn goaway_is_read_after_a_write_has_failed_and_its_calls_move_on() {
    for call in calls(true).await {
        assert_eq!(call.unwrap(), "the next connection");
    }
}

#[tokio::test]
async fn where_nothing_comes_any_more_the_call_that_was_not_written_alone_moves_on() {
    let began = Instant::now();
    let [first, second] = calls(false).await;
    let status = first.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(second.unwrap(), "the next connection");
    // A second is waited for what can still be read.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
