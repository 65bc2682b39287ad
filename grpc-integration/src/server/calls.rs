//! The calls of a connection, counted by the frames that pass.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cutter::ConnectionState;
use crate::http2::frame::{DATA, END_STREAM, FrameHeader, HEADERS, RST_STREAM};
use crate::http2::frames::Frames;

/// Follows both directions of one connection. What is not HTTP/2 in plain text counts as one call for as long as the
/// connection is open, because it cannot be seen when it ends.
#[derive(Debug)]
pub(super) struct CallCounter {
    connection: Arc<ConnectionState>,
    read: Frames,
    written: Frames,
    streams: Streams,
    is_other: bool,
}

/// The streams that are open: requests that have begun, and whose responses have not ended.
#[derive(Debug)]
struct Streams {
    /// The highest id. Ids only grow, so HEADERS of a lower one are trailers.
    last: u32,
    /// The highest id that is served: those above the last stream of the server's GOAWAY get no answer.
    served: u32,
    open: BTreeSet<u32>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { last: 0, served: u32::MAX, open: BTreeSet::new() }
    }
}

impl CallCounter {
    pub(super) fn new(connection: Arc<ConnectionState>) -> Self {
        Self {
            connection,
            read: Frames::of_client(),
            written: Frames::of_server(),
            streams: Streams::default(),
            is_other: false,
        }
    }

    pub(super) fn on_read(&mut self, bytes: &[u8]) {
        let Self { streams, connection, .. } = self;
        self.read.follow(bytes, |frame| {
            if streams.on_read(frame) {
                connection.set_calls(streams.open.len());
            }
        });
        if self.read.is_other() && !std::mem::replace(&mut self.is_other, true) {
            self.connection.set_calls(1);
        }
    }

    pub(super) fn on_written(&mut self, bytes: &[u8]) {
        let Self { streams, connection, .. } = self;
        self.written.follow(bytes, |frame| {
            if streams.on_written(frame) {
                connection.set_calls(streams.open.len());
            }
        });
        if self.written.last_stream().is_some_and(|last| streams.on_goaway(last)) {
            connection.set_calls(streams.open.len());
        }
    }

    /// How many bytes the server is to write before a further frame could be put in; see [`Frames::until_boundary`].
    pub(super) fn until_boundary(&self) -> Option<usize> {
        self.written.until_boundary()
    }

    /// Whether the client does not speak HTTP/2 in plain text.
    pub(super) fn is_other(&self) -> bool {
        self.is_other
    }

    pub(super) fn calls(&self) -> usize {
        self.streams.open.len()
    }
}

impl Streams {
    /// Returns whether the open ones have changed.
    fn on_read(&mut self, frame: FrameHeader) -> bool {
        match frame.kind {
            HEADERS if frame.stream > self.last => {
                self.last = frame.stream;
                frame.stream <= self.served && self.open.insert(frame.stream)
            }
            RST_STREAM => self.open.remove(&frame.stream),
            _ => false,
        }
    }

    fn on_written(&mut self, frame: FrameHeader) -> bool {
        let ends = match frame.kind {
            DATA | HEADERS => frame.has(END_STREAM),
            kind => kind == RST_STREAM,
        };
        ends && self.open.remove(&frame.stream)
    }

    /// Forgets those above the last stream of a GOAWAY; they may have been read before it was written.
    fn on_goaway(&mut self, last: u32) -> bool {
        if last >= self.served {
            return false;
        }
        self.served = last;
        !self.open.split_off(&(last + 1)).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::cutter::{Cutter, Open};
    use super::*;
    use crate::http2::frame::{END_HEADERS, GOAWAY, PREFACE, SETTINGS, frame};

    /// A counter and the cutter that it reports to.
    fn counter() -> (CallCounter, Cutter) {
        let cutter = Cutter::default();
        let (_, state) = cutter.switch().add();
        (CallCounter::new(state), cutter)
    }

    fn calls(cutter: &Cutter) -> usize {
        let Open { connections, calls } = cutter.open();
        assert_eq!(connections, 1);
        calls
    }

    #[test]
    fn a_call_lasts_from_its_headers_to_the_end_of_its_response() {
        let (mut counter, cutter) = counter();
        let begin = |stream| frame(HEADERS, END_HEADERS, stream, b"h");
        counter.on_read(PREFACE);
        counter.on_read(&frame(SETTINGS, 0, 0, &[]));
        counter.on_written(&frame(SETTINGS, 0, 0, &[]));
        assert_eq!(calls(&cutter), 0);
        for stream in [1, 3, 5, 7] {
            counter.on_read(&begin(stream));
        }
        assert_eq!(calls(&cutter), 4);
        // Its request ends, also with trailers; its response has only begun.
        counter.on_read(&frame(DATA, END_STREAM, 1, b""));
        counter.on_read(&frame(HEADERS, END_STREAM | END_HEADERS, 3, b"t"));
        counter.on_written(&frame(HEADERS, END_HEADERS, 1, b"h"));
        counter.on_written(&frame(DATA, 0, 1, b"d"));
        assert_eq!(calls(&cutter), 4);
        // By trailers, by an empty DATA frame, reset by the client, and by the server.
        counter.on_written(&frame(HEADERS, END_STREAM | END_HEADERS, 1, b"t"));
        assert_eq!(calls(&cutter), 3);
        counter.on_written(&frame(DATA, END_STREAM, 3, b""));
        assert_eq!(calls(&cutter), 2);
        counter.on_read(&frame(RST_STREAM, 0, 5, &[0; 4]));
        assert_eq!(calls(&cutter), 1);
        // A second reset of the same stream ends no other one.
        counter.on_written(&frame(RST_STREAM, 0, 5, &[0; 4]));
        assert_eq!(calls(&cutter), 1);
        counter.on_written(&frame(RST_STREAM, 0, 7, &[0; 4]));
        assert_eq!(calls(&cutter), 0);
        // Trailers of a request that was answered early begin no call.
        counter.on_read(&frame(HEADERS, END_STREAM | END_HEADERS, 7, b"t"));
        assert_eq!(calls(&cutter), 0);
    }

    /// h2 reads on after its GOAWAY, and skips what is above its last stream.
    #[test]
    fn calls_above_the_last_stream_of_goaway_are_not_counted() {
        let (mut counter, cutter) = counter();
        let begin = |stream| frame(HEADERS, END_HEADERS, stream, b"h");
        let goaway = |last: u32| frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat());
        counter.on_read(PREFACE);
        counter.on_read(&[frame(SETTINGS, 0, 0, &[]), begin(1)].concat());
        counter.on_written(&[frame(SETTINGS, 0, 0, &[]), goaway(0x7fff_ffff)].concat());
        counter.on_read(&[begin(3), begin(5)].concat());
        assert_eq!(calls(&cutter), 3, "the first GOAWAY of a graceful end refuses nothing");
        // The last of them had arrived, and was not looked at.
        counter.on_written(&goaway(3));
        assert_eq!(calls(&cutter), 2);
        counter.on_read(&begin(7));
        assert_eq!(calls(&cutter), 2);
        counter.on_written(&frame(HEADERS, END_STREAM | END_HEADERS, 1, b"t"));
        counter.on_written(&frame(HEADERS, END_STREAM | END_HEADERS, 3, b"t"));
        assert_eq!(calls(&cutter), 0);
    }

    #[test]
    fn what_cannot_be_followed_counts_as_one_call() {
        let (mut counter, cutter) = counter();
        counter.on_read(b"GET / HTTP/1.1\r\n");
        counter.on_written(b"HTTP/1.1 200 OK\r\n\r\n");
        counter.on_read(b"GET / HTTP/1.1\r\n");
        assert_eq!(calls(&cutter), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_idle_after_a_whole_quiet_time_without_a_call() {
        use std::time::Duration;
        use tokio::time::{Instant, sleep};
        const QUIET: Duration = Duration::from_secs(2);

        let (mut counter, cutter) = counter();
        counter.on_read(
            &[&PREFACE[..], &frame(SETTINGS, 0, 0, &[])[..], &frame(HEADERS, END_HEADERS, 1, b"h")].concat(),
        );
        counter.on_written(&frame(SETTINGS, 0, 0, &[]));
        let began = Instant::now();
        let mut idle = std::pin::pin!(cutter.idle(QUIET));
        let calls = async {
            sleep(QUIET * 5 / 2).await;
            counter.on_written(&frame(HEADERS, END_STREAM, 1, b"t"));
            sleep(QUIET).await;
            // A short one that is over when it is looked at.
            counter.on_read(&frame(HEADERS, END_HEADERS, 3, b"h"));
            counter.on_written(&frame(HEADERS, END_STREAM, 3, b"t"));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = &mut idle => {}
            () = calls => {}
        }
        assert_eq!(began.elapsed(), QUIET * 5);
    }
}
