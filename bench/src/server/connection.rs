//! One connection: answers each request as it asks to be answered.
//!
//! It decodes no headers and has no task per stream: a server that costs as much as the client would hide half of what
//! the client costs.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frames::{self, Frame};

/// The window that the client has, for each stream and for all of them.
const WINDOW: u32 = 1 << 30;
const STREAMS: u32 = 1000;
/// How much is written at a time.
const CHUNK: usize = 256 * 1024;

/// A connection, and what it still has to answer.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    output: Vec<u8>,
    /// Requests that have not arrived as a whole.
    requests: Vec<Request>,
    responses: Vec<Response>,
    /// What the client takes on this connection, and on each new stream.
    window: i64,
    initial_window: i64,
    /// What was received since the last WINDOW_UPDATE.
    received: u32,
}

#[derive(Debug)]
struct Request {
    stream: u32,
    /// The prefix, then how to answer: the size of a message, and how many.
    start: [u8; 13],
    length: usize,
}

#[derive(Debug)]
struct Response {
    stream: u32,
    window: i64,
    size: u32,
    messages: u32,
    /// How much of the first of these messages was sent.
    offset: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            output: Vec::new(),
            requests: Vec::new(),
            responses: Vec::new(),
            window: 65_535,
            initial_window: 65_535,
            received: 0,
        }
    }

    /// Answers requests until the client closes the connection.
    pub(super) async fn serve(mut self) -> io::Result<()> {
        let mut preface = [0; frames::PREFACE];
        self.stream.read_exact(&mut preface).await?;
        frames::settings(&mut self.output, WINDOW, STREAMS);
        frames::window_update(&mut self.output, WINDOW);
        let mut input = BytesMut::with_capacity(64 * 1024);
        loop {
            self.write().await?;
            if self.stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
            let mut rest = &input[..];
            while let Some((frame, after)) = Frame::split(rest) {
                self.receive(&frame);
                rest = after;
            }
            let consumed = input.len() - rest.len();
            input.advance(consumed);
        }
    }

    fn receive(&mut self, frame: &Frame<'_>) {
        let ends = frame.flags & frames::END_STREAM != 0;
        match frame.kind {
            frames::HEADERS => {
                self.requests.push(Request { stream: frame.stream, start: [0; 13], length: 0 });
            }
            frames::DATA => {
                self.received += u32::try_from(frame.payload.len()).unwrap_or(0);
                if self.received > WINDOW / 2 {
                    frames::window_update(&mut self.output, self.received);
                    self.received = 0;
                }
                let stream = frame.stream;
                let Some(at) = self.requests.iter().rposition(|request| request.stream == stream) else {
                    return;
                };
                self.requests[at].append(frame.payload);
                if ends {
                    let request = self.requests.swap_remove(at);
                    self.answer(&request);
                }
            }
            frames::RST_STREAM => {
                self.requests.retain(|request| request.stream != frame.stream);
                self.responses.retain(|response| response.stream != frame.stream);
            }
            frames::SETTINGS if !ends => {
                if let Some(window) = frame.initial_window() {
                    let change = window - self.initial_window;
                    self.responses.iter_mut().for_each(|response| response.window += change);
                    self.initial_window = window;
                }
                frames::ack(&mut self.output, frames::SETTINGS, &[]);
            }
            frames::PING if !ends => frames::ack(&mut self.output, frames::PING, frame.payload),
            frames::WINDOW_UPDATE if frame.stream == 0 => self.window += frame.increment(),
            frames::WINDOW_UPDATE => {
                let mut responses = self.responses.iter_mut();
                if let Some(response) = responses.find(|response| response.stream == frame.stream) {
                    response.window += frame.increment();
                }
            }
            _ => {}
        }
    }

    fn answer(&mut self, request: &Request) {
        let [_, _, _, _, _, s0, s1, s2, s3, m0, m1, m2, m3] = request.start;
        frames::response(&mut self.output, request.stream);
        let mut response = Response {
            stream: request.stream,
            window: self.initial_window,
            size: u32::from_be_bytes([s0, s1, s2, s3]),
            messages: u32::from_be_bytes([m0, m1, m2, m3]),
            offset: 0,
        };
        // Behind others it takes its turn.
        if !self.responses.is_empty() || !response.send(&mut self.output, &mut self.window) {
            self.responses.push(response);
        }
    }

    /// Writes as much of all responses as the client takes.
    async fn write(&mut self) -> io::Result<()> {
        loop {
            let (output, window) = (&mut self.output, &mut self.window);
            self.responses.retain_mut(|response| !response.send(output, window));
            if output.is_empty() {
                return Ok(());
            }
            self.stream.write_all(output).await?;
            self.stream.flush().await?;
            output.clear();
        }
    }
}

impl Request {
    fn append(&mut self, payload: &[u8]) {
        for (byte, value) in self.start.iter_mut().skip(self.length).zip(payload) {
            *byte = *value;
        }
        self.length += payload.len();
    }
}

impl Response {
    /// Writes what fits into the windows and into one write; returns whether that was all.
    fn send(&mut self, output: &mut Vec<u8>, window: &mut i64) -> bool {
        let length = usize::try_from(self.size).unwrap_or(0) + 5;
        while self.messages > 0 {
            let allowed = usize::try_from(self.window.min(*window)).unwrap_or(0);
            let payload = (length - self.offset).min(allowed).min(frames::MAX_PAYLOAD);
            if payload == 0 || output.len() > CHUNK {
                return false;
            }
            frames::data(output, self.stream, self.size, self.offset, self.offset + payload);
            let sent = i64::try_from(payload).unwrap_or(0);
            self.window -= sent;
            *window -= sent;
            self.offset += payload;
            if self.offset == length {
                self.offset = 0;
                self.messages -= 1;
            }
        }
        frames::trailers(output, self.stream);
        true
    }
}
