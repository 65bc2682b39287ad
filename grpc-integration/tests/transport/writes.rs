//! What leaves together: the writes of the channel, each as the socket gets it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use async_trait::async_trait;
use hither_tonic::{Connected, Connector, Destination};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::raw::{DATA, END_STREAM, Frame, HEADERS};
use super::support::{Client, Server};
use super::{channel, soon, until};

/// TCP that records each write.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Vec<u8>>>>);

impl Recorder {
    fn writes(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl Connector for Recorder {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        let stream = TcpStream::connect(destination.address().to_string()).await?;
        stream.set_nodelay(true)?;
        Ok(Recorded { stream, writes: self.clone() }.into())
    }
}

#[derive(Debug)]
struct Recorded {
    stream: TcpStream,
    writes: Recorder,
}

impl Recorded {
    fn record<'a>(&self, written: &Poll<io::Result<usize>>, parts: impl Iterator<Item = &'a [u8]>) {
        if let Poll::Ready(Ok(count)) = written {
            self.writes.0.lock().unwrap().push(parts.flatten().copied().take(*count).collect());
        }
    }
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.record(&written, std::iter::once(buf));
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.record(&written, bufs.iter().map(|buf| &**buf));
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The frames of one write, none of which is cut.
fn frames(mut write: Vec<u8>) -> Vec<Frame> {
    let frames = std::iter::from_fn(|| Frame::take(&mut write)).collect();
    assert!(write.is_empty(), "a frame is cut");
    frames
}

#[tokio::test]
async fn headers_and_body_of_a_unary_call_leave_in_one_write() {
    let server = Server::start().await;
    let recorder = Recorder::default();
    let (_registry, builder) = channel(&[&server.address]).await;
    let client = Client::new(&builder.connector(recorder.clone()).connect().await.unwrap());
    // SETTINGS and what answers those of the server have left before.
    soon("a call", client.name()).await.unwrap();
    until("the server's window is known", || frames_of_settings(&recorder) >= 2).await;
    for size in [0, 1, 100, 255, 256, 1000, 1024, 8000] {
        let before = recorder.writes().len();
        soon("a call", client.call("Name", "x".repeat(size))).await.unwrap();
        let write = frames(recorder.writes()[before].clone());
        let kinds: Vec<_> = write.iter().map(|frame| (frame.kind, frame.has(END_STREAM))).collect();
        assert_eq!(kinds, [(HEADERS, false), (DATA, true)], "{size} bytes");
        assert!(write[1].payload.len() >= 5 + size);
    }
}

/// SETTINGS of the channel, and its acknowledgements.
fn frames_of_settings(recorder: &Recorder) -> usize {
    let mut all = recorder.writes().concat();
    all.drain(..24);
    frames(all).iter().filter(|frame| frame.is(super::raw::SETTINGS)).count()
}
