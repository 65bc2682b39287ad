//! Drops empty DATA frames, which mean nothing, before h2 counts them, and passes SETTINGS on to those who read them.
//!
//! Jetty (jetty/jetty.project#2454), Bun (oven-sh/bun#37712) and older versions of Haskell's http2 send one before the
//! trailers of each response. h2 (hyperium/h2#935) ends a connection, and all calls on it, at the hundred and first, in
//! however long a time.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::peer_settings::PeerSettings;
use crate::http2::frame::{ACK, DATA, END_STREAM, FrameHeader, GOAWAY, HEADER_LEN, PADDED, SETTINGS};

/// Follows the frames that are read.
#[derive(Debug, Default)]
pub(super) struct EmptyFrames {
    /// How much of the present frame's payload is still to be read.
    payload: usize,
    /// A frame header that was split, as far as it was read.
    header: [u8; HEADER_LEN],
    gathered: usize,
    /// How much of it was handed on: nothing while the frame may turn out to be empty.
    handed: usize,
    /// There is no more to read.
    ended: bool,
    /// Whether there may have been SETTINGS or GOAWAY since this was reset.
    control: bool,
    /// Whether the present frame may be one of these.
    in_control: bool,
    settings: PeerSettings,
    in_settings: bool,
}

impl EmptyFrames {
    /// Returns what the peer has announced in its SETTINGS.
    pub(super) fn settings(&self) -> &PeerSettings {
        &self.settings
    }

    /// Returns whether SETTINGS or GOAWAY may have been read since the last time.
    pub(super) fn take_control(&mut self) -> bool {
        std::mem::take(&mut self.control)
    }

    /// Reads with `read`, and leaves out the empty frames.
    ///
    /// `read` is called again while it yields nothing else.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        mut read: impl FnMut(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.hand_on(buf) {
                return Poll::Ready(Ok(()));
            }
            if self.gathered == HEADER_LEN {
                self.begin(&FrameHeader::parse(&self.header));
                (self.gathered, self.handed) = (0, 0);
                (self.control, self.in_control) = (true, true);
            }
            if self.gathered == 0 {
                let before = buf.filled().len();
                ready!(read(cx, buf))?;
                let bytes = buf.filled_mut().get_mut(before..).unwrap_or_default();
                let end = bytes.is_empty();
                let kept = self.filter(bytes);
                buf.set_filled(before + kept);
                if kept > 0 || end {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut rest = ReadBuf::new(self.header.get_mut(self.gathered..).unwrap_or_default());
                ready!(read(cx, &mut rest))?;
                let count = rest.filled().len();
                self.gathered += count;
                self.ended = count == 0;
                if self.ended && self.handed == self.gathered {
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// A frame begins.
    fn begin(&mut self, header: &FrameHeader) {
        self.payload = header.length;
        self.in_settings = header.kind == SETTINGS && !header.has(ACK);
        if self.in_settings {
            self.settings.begin();
        }
    }

    /// Hands on the header as far as it was read, unless it may be that of an empty frame; returns whether there was
    /// anything to hand on.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.handed == self.gathered {
            return false;
        }
        let header = self.header.get(..self.gathered).unwrap_or_default();
        if may_be_empty_data(header) && !self.ended {
            return false;
        }
        let rest = header.get(self.handed..).unwrap_or_default();
        let now = rest.get(..buf.remaining()).unwrap_or(rest);
        buf.put_slice(now);
        self.handed += now.len();
        true
    }

    /// Moves what is to be handed on to the front of `bytes`, and returns its length.
    fn filter(&mut self, bytes: &mut [u8]) -> usize {
        // Nearly always that is all of it: whole frames, none of them empty, from one header to the next.
        let mut at = self.payload;
        self.control |= at > 0 && self.in_control;
        if at > 0 && self.in_settings {
            return self.filter_slowly(bytes);
        }
        while let Some(header) = bytes.get(at..).and_then(<[u8]>::first_chunk::<HEADER_LEN>) {
            if may_be_empty_data(header) {
                return self.filter_slowly(bytes);
            }
            let header = FrameHeader::parse(header);
            if header.kind == SETTINGS {
                return self.filter_slowly(bytes);
            }
            self.in_control = header.kind == GOAWAY;
            self.control |= self.in_control;
            // Or the rest of a frame whose end was not read yet would be taken for the rest of the SETTINGS before it.
            self.in_settings = false;
            at += HEADER_LEN + header.length;
        }
        if at < bytes.len() {
            // A part of a header.
            return self.filter_slowly(bytes);
        }
        self.payload = at - bytes.len();
        bytes.len()
    }

    fn filter_slowly(&mut self, bytes: &mut [u8]) -> usize {
        // Whatever was split may be one.
        (self.control, self.in_control) = (true, true);
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() {
            let mut length = self.payload.min(bytes.len() - at);
            self.payload -= length;
            if self.in_settings {
                self.settings.read(bytes.get(at..at + length).unwrap_or_default());
            }
            if length == 0 {
                let rest = bytes.get(at..).unwrap_or_default();
                if let Some(header) = rest.first_chunk::<HEADER_LEN>() {
                    if may_be_empty_data(header) {
                        at += HEADER_LEN;
                        continue;
                    }
                    self.begin(&FrameHeader::parse(header));
                    length = HEADER_LEN;
                } else {
                    for (header, byte) in self.header.iter_mut().zip(rest) {
                        *header = *byte;
                    }
                    self.gathered = rest.len();
                    if may_be_empty_data(rest) {
                        break;
                    }
                    // Less than a header suffices for h2 to find that a peer does not speak HTTP/2.
                    (length, self.handed) = (rest.len(), rest.len());
                }
            }
            if kept < at {
                bytes.copy_within(at..at + length, kept);
            }
            at += length;
            kept += length;
        }
        kept
    }
}

/// Whether this is, or begins, the header of a DATA frame of no length that does not end its stream.
fn may_be_empty_data(header: &[u8]) -> bool {
    match header {
        [0, 0, 0, DATA, flags, ..] => flags & (END_STREAM | PADDED) == 0,
        begun => begun.len() < 5 && begun.iter().all(|byte| *byte == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frame::{HEADERS, frame};

    /// What is handed on of `bytes`, which arrive in these pieces, to a reader with so much room.
    fn handed_on(bytes: &[u8], piece: impl FnMut() -> usize, room: impl FnMut() -> usize) -> Vec<u8> {
        follow(bytes, piece, room).0
    }

    fn follow(
        bytes: &[u8],
        mut piece: impl FnMut() -> usize,
        mut room: impl FnMut() -> usize,
    ) -> (Vec<u8>, EmptyFrames) {
        let (mut frames, mut rest, mut handed) = (EmptyFrames::default(), bytes, Vec::new());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            let mut space = vec![0; room()];
            let mut buf = ReadBuf::new(&mut space);
            let read = frames.poll_read(&mut cx, &mut buf, |_, buf| {
                let (now, later) = rest.split_at(piece().min(rest.len()).min(buf.remaining()));
                buf.put_slice(now);
                rest = later;
                Poll::Ready(Ok(()))
            });
            assert!(matches!(read, Poll::Ready(Ok(()))));
            if buf.filled().is_empty() {
                assert!(rest.is_empty());
                return (handed, frames);
            }
            handed.extend_from_slice(buf.filled());
        }
    }

    fn empty(stream: u32) -> Vec<u8> {
        frame(DATA, 0, stream, &[])
    }

    #[test]
    fn empty_frames_are_left_out_wherever_the_bytes_are_split() {
        let kept = [
            frame(4, 0, 0, &[0, 3, 0, 0, 0, 1]),
            frame(4, 1, 0, &[]),
            frame(HEADERS, 4, 1, &[0; 20]),
            // What looks like empty frames is in a payload.
            frame(DATA, 0, 1, &empty(3).repeat(3)),
            frame(DATA, END_STREAM, 1, &[]),
            frame(DATA, PADDED, 1, &[0]),
            // An error, for h2 to find.
            frame(DATA, PADDED, 1, &[]),
            frame(HEADERS, 5, 3, &[]),
        ];
        let bytes = [empty(1), kept.join(&empty(1).repeat(2)[..]), empty(5)].concat();
        let expected = kept.concat();
        for piece in 1..bytes.len() {
            for room in [1, 2, 8, 9, 10, 100, 1000] {
                assert_eq!(
                    handed_on(&bytes, || piece, || room),
                    expected,
                    "in pieces of {piece} into {room}"
                );
            }
        }
        let mut random = fastrand::Rng::with_seed(7);
        let mut other = random.fork();
        for _ in 0..500 {
            assert_eq!(handed_on(&bytes, || random.usize(1..30), || other.usize(1..30)), expected);
        }
    }

    #[test]
    fn settings_are_read_wherever_the_bytes_are_split() {
        let unlike = [0, 6, 0, 0, 0, 9];
        let bytes = [
            // Half an entry at its end.
            frame(SETTINGS, 0, 0, &[0, 6, 0, 0, 16, 0, 0, 6, 1]),
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1, 0, 6, 0, 0, 32, 2, 0, 1, 0, 0, 0, 6]),
            // What looks like settings and is none, from wherever a read ends within it.
            frame(DATA, 0, 1, &frame(SETTINGS, 0, 0, &unlike)),
            frame(DATA, 0, 1, &unlike.repeat(6)),
            frame(HEADERS, 4, 1, &unlike.repeat(6)),
            empty(1),
            frame(SETTINGS, ACK, 0, &unlike),
            frame(HEADERS, 4, 1, &unlike),
        ]
        .concat();
        for piece in 1..=bytes.len() {
            for room in [1, 7, 9, 10, 1000] {
                let frames = follow(&bytes, || piece, || room).1;
                assert_eq!(frames.settings().max_header_list(), 0x2002, "in pieces of {piece} into {room}");
            }
        }
        assert_eq!(EmptyFrames::default().settings().max_header_list(), u32::MAX);
    }

    #[test]
    fn a_stream_that_ends_in_the_middle_is_handed_on_to_its_end() {
        let bytes = [frame(HEADERS, 4, 1, &[7; 20]), empty(1)].concat();
        for end in 0..bytes.len() {
            let expected = &bytes[..end];
            assert_eq!(handed_on(expected, || 1000, || 1000), expected);
            assert_eq!(handed_on(expected, || 1, || 3), expected);
        }
        assert_eq!(handed_on(&bytes, || 1000, || 1000), frame(HEADERS, 4, 1, &[7; 20]));
    }

    #[test]
    fn what_is_not_http2_is_handed_on() {
        let page = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n";
        assert_eq!(handed_on(page, || 1000, || 1000), page);
        assert_eq!(handed_on(page, || 5, || 4), page);
        assert_eq!(handed_on(&[21, 3, 3, 0, 2, 2, 10], || 3, || 9), [21, 3, 3, 0, 2, 2, 10]);
    }

    #[test]
    fn less_than_a_header_is_handed_on_at_once_unless_the_frame_may_be_empty() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (bytes, at_once) in
            [(&[21, 3, 3][..], true), (&[0, 0, 12], true), (&[0, 0, 0, 4], true), (&[0, 0, 0], false)]
        {
            let (mut frames, mut rest) = (EmptyFrames::default(), Some(bytes));
            let mut space = [0; 100];
            let mut buf = ReadBuf::new(&mut space);
            let read = frames.poll_read(&mut cx, &mut buf, |_, buf| {
                let Some(bytes) = rest.take() else { return Poll::Pending };
                buf.put_slice(bytes);
                Poll::Ready(Ok(()))
            });
            assert_eq!((read.is_ready(), buf.filled() == bytes), (at_once, at_once), "{bytes:?}");
        }
    }

    #[test]
    fn reading_is_pending_while_there_is_nothing_else() {
        let mut frames = EmptyFrames::default();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut space = [0; 100];
        let mut buf = ReadBuf::new(&mut space);
        let mut reads = 0;
        let read = frames.poll_read(&mut cx, &mut buf, |_, buf| {
            reads += 1;
            if reads > 5 {
                return Poll::Pending;
            }
            buf.put_slice(&empty(1));
            Poll::Ready(Ok(()))
        });
        assert!(read.is_pending() && buf.filled().is_empty());
    }
}
