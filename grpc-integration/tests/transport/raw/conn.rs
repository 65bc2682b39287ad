//! One connection of a peer made by hand.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hither_tonic::BoxedIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::windows::Windows;
use super::wire::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PADDED, PING, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, message, settings,
};
use super::{NO_ERROR, Seen};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest frame that a client takes by default.
const MAX_FRAME: usize = 16_384;

/// What a peer does on each of its connections.
pub(crate) trait Script: Send + 'static {
    fn run(&self, conn: Conn) -> impl Future<Output = io::Result<()>> + Send + 'static;
}

impl<F, Fut> Script for F
where
    F: Fn(Conn) -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    fn run(&self, conn: Conn) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self(conn)
    }
}

/// One connection. It answers SETTINGS and PING by itself while frames are read; dropping it closes the socket.
pub(crate) struct Conn {
    io: BoxedIo,
    /// 0 for the peer's first connection.
    pub(crate) number: usize,
    pub(crate) seen: Arc<Seen>,
    bytes: Vec<u8>,
    requests: VecDeque<u32>,
    /// Streams whose HEADERS have arrived and that were not answered.
    pub(crate) open: BTreeSet<u32>,
    /// The highest stream whose HEADERS have arrived.
    pub(crate) highest: u32,
    pub(crate) windows: Windows,
}

impl Conn {
    pub(super) fn new(io: BoxedIo, number: usize, seen: Arc<Seen>) -> Self {
        let windows = Windows::default();
        Self {
            io,
            number,
            seen,
            bytes: Vec::new(),
            requests: VecDeque::new(),
            open: BTreeSet::new(),
            highest: 0,
            windows,
        }
    }

    /// Sends SETTINGS and reads the client's preface.
    pub(crate) async fn greet(&mut self, entries: &[(u16, u32)]) -> io::Result<()> {
        self.send(SETTINGS, 0, 0, settings(entries)).await?;
        self.preface().await
    }

    /// Reads the client's preface.
    pub(crate) async fn preface(&mut self) -> io::Result<()> {
        while self.bytes.len() < PREFACE.len() {
            self.fill().await?;
        }
        assert_eq!(&self.bytes[..PREFACE.len()], PREFACE);
        self.bytes.drain(..PREFACE.len());
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<()> {
        // Cancel-safe, so that scripts may select.
        match self.io.read_buf(&mut self.bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Reads one frame, whatever it is, and answers nothing.
    ///
    /// # Cancellation
    /// Safe.
    pub(crate) async fn raw_frame(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = Frame::take(&mut self.bytes) {
                self.count(&frame);
                self.windows.note(&frame);
                if frame.has(END_STREAM) && (frame.is(HEADERS) || frame.is(DATA)) {
                    self.requests.push_back(frame.stream);
                }
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    fn count(&mut self, frame: &Frame) {
        match frame.kind {
            HEADERS => {
                self.open.insert(frame.stream);
                self.highest = frame.stream;
            }
            RST_STREAM => {
                self.open.remove(&frame.stream);
            }
            _ => {}
        }
        let counter = match frame.kind {
            HEADERS => &self.seen.headers,
            RST_STREAM => &self.seen.resets,
            PING if !frame.has(ACK) => &self.seen.pings,
            DATA => {
                self.seen.data.fetch_add(frame.payload.len(), Ordering::SeqCst);
                return;
            }
            _ => return,
        };
        counter.fetch_add(1, Ordering::SeqCst);
    }

    /// Reads the next frame that is neither SETTINGS nor PING; acknowledges those.
    pub(crate) async fn frame(&mut self) -> io::Result<Frame> {
        loop {
            let frame = self.raw_frame().await?;
            match frame.kind {
                SETTINGS if !frame.has(ACK) => self.send(SETTINGS, ACK, 0, []).await?,
                PING if !frame.has(ACK) => self.send(PING, ACK, 0, frame.payload).await?,
                SETTINGS => {}
                _ => return Ok(frame),
            }
        }
    }

    /// Reads until HEADERS have arrived; returns their stream.
    pub(crate) async fn headers(&mut self) -> io::Result<u32> {
        loop {
            let frame = self.frame().await?;
            if frame.is(HEADERS) {
                return Ok(frame.stream);
            }
        }
    }

    /// Reads until a request has ended; returns its stream.
    pub(crate) async fn request(&mut self) -> io::Result<u32> {
        loop {
            if let Some(stream) = self.requests.pop_front() {
                return Ok(stream);
            }
            self.frame().await?;
        }
    }

    /// Returns the stream of a request that has ended, if one was read.
    pub(crate) fn next_request(&mut self) -> Option<u32> {
        self.requests.pop_front()
    }

    /// Sends PING, and reads until it is acknowledged: all that was sent before has been read then.
    pub(crate) async fn ping_pong(&mut self) -> io::Result<()> {
        self.send(PING, 0, 0, *b"pingpong").await?;
        loop {
            let frame = self.frame().await?;
            if frame.is(PING) && frame.has(ACK) {
                return Ok(());
            }
        }
    }

    /// Reads `count` whole requests; returns their streams.
    pub(crate) async fn requests(&mut self, count: usize) -> io::Result<Vec<u32>> {
        let mut streams = Vec::new();
        for _ in 0..count {
            streams.push(self.request().await?);
        }
        Ok(streams)
    }

    pub(crate) async fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: impl Into<Vec<u8>>,
    ) -> io::Result<()> {
        self.write(&Frame::new(kind, flags, stream, payload).encode()).await
    }

    /// Writes bytes that may be no frame.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Sends HEADERS, and as many CONTINUATIONs as they need.
    pub(crate) async fn respond(
        &mut self,
        stream: u32,
        end: bool,
        fields: &[(&str, &str)],
    ) -> io::Result<()> {
        let block = block(fields);
        let end = if end { END_STREAM } else { 0 };
        let mut chunks = block.chunks(MAX_FRAME).peekable();
        let mut kind = (HEADERS, end);
        while let Some(chunk) = chunks.next() {
            let last = if chunks.peek().is_none() { END_HEADERS } else { 0 };
            self.send(kind.0, kind.1 | last, stream, chunk).await?;
            kind = (CONTINUATION, 0);
        }
        Ok(())
    }

    /// Sends the headers of a gRPC response.
    pub(crate) async fn accept(&mut self, stream: u32) -> io::Result<()> {
        self.respond(stream, false, &[(":status", "200"), ("content-type", "application/grpc")]).await
    }

    /// Answers a call with one message, once the windows allow it.
    pub(crate) async fn answer(&mut self, stream: u32, text: &str) -> io::Result<()> {
        let body = message(text);
        while self.windows.room(stream) < body.len() {
            self.frame().await?;
        }
        self.windows.take(stream, body.len());
        // In one write, as servers do.
        let head = block(&[(":status", "200"), ("content-type", "application/grpc")]);
        let frames = [
            Frame::new(HEADERS, END_HEADERS, stream, head),
            Frame::new(DATA, 0, stream, body),
            Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, block(&[("grpc-status", "0")])),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        self.write(&bytes).await?;
        self.open.remove(&stream);
        self.seen.answered.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Sends bytes of a response's body as fast as the client's windows, initially 65,535 bytes or what it said in its
    /// SETTINGS, allow.
    pub(crate) async fn send_message(&mut self, stream: u32, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.windows.room(stream).min(MAX_FRAME).min(bytes.len());
            if room == 0 {
                let frame = self.frame().await?;
                assert!(!frame.is(RST_STREAM), "the client has ended the call");
                continue;
            }
            let (chunk, rest) = bytes.split_at(room);
            self.data(stream, chunk).await?;
            bytes = rest;
        }
        Ok(())
    }

    /// Sends one DATA frame, whatever the windows are.
    pub(crate) async fn data(&mut self, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.windows.take(stream, payload.len());
        self.send(DATA, 0, stream, payload).await
    }

    /// Answers each call with `text`, until the client closes.
    pub(crate) async fn serve(&mut self, text: &str) -> io::Result<()> {
        loop {
            let stream = self.request().await?;
            self.answer(stream, text).await?;
        }
    }

    pub(crate) async fn goaway(&mut self, last: u32, code: u32, text: &str) -> io::Result<()> {
        let payload = [&last.to_be_bytes()[..], &code.to_be_bytes(), text.as_bytes()].concat();
        self.send(GOAWAY, 0, 0, payload).await
    }

    pub(crate) async fn reset(&mut self, stream: u32, code: u32) -> io::Result<()> {
        self.send(RST_STREAM, 0, stream, code.to_be_bytes()).await
    }

    pub(crate) async fn window(&mut self, stream: u32, by: u32) -> io::Result<()> {
        self.send(WINDOW_UPDATE, 0, stream, by.to_be_bytes()).await
    }

    /// Sends a DATA frame with padding, once the windows allow it.
    pub(crate) async fn padded(&mut self, stream: u32, data: &[u8], padding: u8) -> io::Result<()> {
        let payload = [&[padding][..], data, &vec![0; usize::from(padding)]].concat();
        while self.windows.room(stream) < payload.len() {
            self.frame().await?;
        }
        self.windows.take(stream, payload.len());
        self.send(DATA, PADDED, stream, payload).await
    }

    /// Sends FIN.
    pub(crate) async fn half_close(mut self) -> io::Result<Self> {
        self.io.shutdown().await?;
        Ok(self)
    }

    /// Sends FIN, and reads until the client has closed too.
    pub(crate) async fn close(self) -> io::Result<()> {
        self.half_close().await?.drain().await
    }

    /// Sends GOAWAY with NO_ERROR, serves what is in flight, and closes.
    pub(crate) async fn leave(mut self, last: u32) -> io::Result<()> {
        self.goaway(last, NO_ERROR, "").await?;
        self.close().await
    }

    /// Answers nothing but SETTINGS and PING, until the client closes.
    pub(crate) async fn answer_settings(mut self) -> io::Result<()> {
        while self.frame().await.is_ok() {}
        Ok(())
    }

    /// Reads until the client closes.
    pub(crate) async fn drain(mut self) -> io::Result<()> {
        while self.raw_frame().await.is_ok() {}
        Ok(())
    }
}
