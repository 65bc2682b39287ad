//! Follows one direction of a connection from frame to frame.

use super::frame::{
    CONTINUATION, END_HEADERS, FrameHeader, GOAWAY, HEADER_LEN, HEADERS, PREFACE, PUSH_PROMISE, SETTINGS,
};

/// The largest frame that a peer accepts unless it announces another limit.
const LARGEST: usize = 16 * 1024;
/// The length of the last stream, with which GOAWAY begins.
const LAST_STREAM_LEN: usize = 4;

/// A position in what one side sends.
#[derive(Debug)]
pub(crate) struct Frames {
    position: Position,
    /// No frame was seen yet; the first one of a server is SETTINGS, or it does not speak HTTP/2.
    is_first: bool,
    /// A header block goes on in the next frame, and no other one may come between (RFC 9113, section 4.3).
    in_block: bool,
    last_stream: Option<u32>,
}

#[derive(Debug)]
enum Position {
    /// So many bytes of the client's connection preface were seen.
    Preface(usize),
    /// So many bytes of a frame header were seen.
    Header([u8; HEADER_LEN], usize),
    /// So many bytes of a payload are still to come.
    Payload(usize),
    /// So many bytes of the last stream of GOAWAY were seen, and so many of its payload are still to come.
    LastStream([u8; LAST_STREAM_LEN], usize, usize),
    NotHttp2,
}

impl Frames {
    /// What a client sends.
    pub(crate) fn of_client() -> Self {
        Self::at(Position::Preface(0))
    }

    /// What a server sends.
    pub(crate) fn of_server() -> Self {
        Self::at(Position::Header([0; HEADER_LEN], 0))
    }

    fn at(position: Position) -> Self {
        Self { position, is_first: true, in_block: false, last_stream: None }
    }

    /// Whether what was seen cannot be HTTP/2 in plain text.
    pub(crate) fn is_other(&self) -> bool {
        matches!(self.position, Position::NotHttp2)
    }

    /// The last stream that the latest GOAWAY has named.
    pub(crate) fn last_stream(&self) -> Option<u32> {
        self.last_stream
    }

    /// Returns how many bytes are to come at least before a further frame could be put in: 0 where it could be now, which is
    /// between two frames, and not inside a header block. `None` before the first frame, and where there are none.
    pub(crate) fn until_boundary(&self) -> Option<usize> {
        match self.position {
            _ if self.is_first => None,
            Position::Header(_, 0) if !self.in_block => Some(0),
            Position::Header(_, seen) => Some(HEADER_LEN - seen),
            Position::Payload(left) | Position::LastStream(_, _, left) => Some(left),
            Position::Preface(_) | Position::NotHttp2 => None,
        }
    }

    /// Follows `bytes`, and calls `on_frame` with each frame header that is complete.
    pub(crate) fn follow(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(FrameHeader)) {
        while let Some(first) = bytes.first() {
            let step = match &mut self.position {
                Position::NotHttp2 => return,
                Position::Payload(left) => {
                    let step = bytes.len().min(*left);
                    self.position = Position::payload(*left - step);
                    step
                }
                Position::LastStream(last, seen, left) => {
                    let step = bytes.len().min(LAST_STREAM_LEN - *seen);
                    last[*seen..*seen + step].copy_from_slice(&bytes[..step]);
                    *seen += step;
                    *left -= step;
                    if *seen == LAST_STREAM_LEN {
                        self.last_stream = Some(u32::from_be_bytes(*last) & 0x7fff_ffff);
                        self.position = Position::payload(*left);
                    }
                    step
                }
                Position::Preface(seen) => {
                    if PREFACE.get(*seen) != Some(first) {
                        self.position = Position::NotHttp2;
                        return;
                    }
                    *seen += 1;
                    if *seen == PREFACE.len() {
                        self.position = Position::Header([0; HEADER_LEN], 0);
                    }
                    1
                }
                Position::Header(header, seen) => {
                    let step = bytes.len().min(HEADER_LEN - *seen);
                    header[*seen..*seen + step].copy_from_slice(&bytes[..step]);
                    *seen += step;
                    if *seen == HEADER_LEN {
                        let header = FrameHeader::parse(header);
                        self.position = self.after(header);
                        if !self.is_other() {
                            on_frame(header);
                        }
                    }
                    step
                }
            };
            bytes = bytes.get(step..).unwrap_or_default();
        }
    }

    /// The position after a header.
    fn after(&mut self, header: FrameHeader) -> Position {
        let is_first = std::mem::take(&mut self.is_first);
        if is_first && (header.kind != SETTINGS || header.stream != 0 || header.length > LARGEST) {
            return Position::NotHttp2;
        }
        if matches!(header.kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
            self.in_block = !header.has(END_HEADERS);
        }
        match header.length {
            length @ LAST_STREAM_LEN.. if header.kind == GOAWAY => {
                Position::LastStream([0; LAST_STREAM_LEN], 0, length)
            }
            length => Position::payload(length),
        }
    }
}

impl Position {
    fn payload(left: usize) -> Self {
        if left == 0 { Self::Header([0; HEADER_LEN], 0) } else { Self::Payload(left) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frame::{DATA, frame};

    fn follow(frames: &mut Frames, bytes: &[u8], chunk: usize) -> Vec<(u8, u32)> {
        let mut seen = Vec::new();
        for chunk in bytes.chunks(chunk) {
            frames.follow(chunk, |header| seen.push((header.kind, header.stream)));
        }
        seen
    }

    #[test]
    fn every_frame_is_seen_however_the_bytes_arrive() {
        let sent = [
            frame(SETTINGS, 0, 0, &[0; 6]),
            frame(HEADERS, 4, 1, &[0; 70]),
            frame(DATA, 1, 1, &[]),
            frame(DATA, 1, 3, b"a"),
        ];
        let sent = sent.concat();
        let seen = [(SETTINGS, 0), (HEADERS, 1), (DATA, 1), (DATA, 3)];
        for chunk in [1, 2, 8, 9, 10, sent.len()] {
            assert_eq!(follow(&mut Frames::of_server(), &sent, chunk), seen, "{chunk}");
            let of_client = [&PREFACE[..], &sent].concat();
            assert_eq!(follow(&mut Frames::of_client(), &of_client, chunk), seen, "{chunk}");
        }
    }

    #[test]
    fn the_boundary_is_where_the_frame_ends() {
        let sent = [frame(SETTINGS, 0, 0, &[0; 6]), frame(DATA, 1, 3, b"abc")].concat();
        let mut frames = Frames::of_server();
        let mut boundaries = vec![frames.until_boundary()];
        for byte in sent {
            frames.follow(&[byte], |_| {});
            boundaries.push(frames.until_boundary());
        }
        let expected = [
            &[None; 9][..], // Not before SETTINGS.
            &[6, 5, 4, 3, 2, 1, 0].map(Some),
            &[8, 7, 6, 5, 4, 3, 2, 1].map(Some),
            &[3, 2, 1, 0].map(Some),
        ];
        assert_eq!(boundaries, expected.concat());
    }

    #[test]
    fn there_is_no_boundary_inside_a_header_block() {
        let mut frames = Frames::of_server();
        follow(&mut frames, &frame(SETTINGS, 0, 0, &[]), 9);
        for (kind, flags, until) in [
            (HEADERS, END_HEADERS, 0),
            (HEADERS, 0, HEADER_LEN),
            (CONTINUATION, 0, HEADER_LEN),
            (CONTINUATION, END_HEADERS, 0),
            (PUSH_PROMISE, 0, HEADER_LEN),
            (CONTINUATION, END_HEADERS, 0),
            // Its flag of the same number means nothing.
            (DATA, END_HEADERS, 0),
        ] {
            for payload in [&b"block"[..], &[]] {
                follow(&mut frames, &frame(kind, flags, 1, payload), 4);
                assert_eq!(frames.until_boundary(), Some(until), "{kind} {flags}");
            }
        }
        follow(&mut frames, &frame(HEADERS, 0, 1, b"block"), 14);
        follow(&mut frames, &frame(CONTINUATION, END_HEADERS, 1, b"block")[..2], 2);
        assert_eq!(frames.until_boundary(), Some(HEADER_LEN - 2));
    }

    #[test]
    fn the_last_stream_of_goaway_is_read() {
        let mut frames = Frames::of_server();
        follow(&mut frames, &frame(SETTINGS, 0, 0, &[]), 9);
        let goaway = |last: u32| frame(GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &[0; 4], b"why"].concat());
        for (last, chunk) in [(0x7fff_ffff, 1), (301, 11), (7, 100)] {
            assert_eq!(
                follow(&mut frames, &[goaway(last), frame(DATA, 0, 1, b"d")].concat(), chunk),
                [(GOAWAY, 0), (DATA, 1)]
            );
            assert_eq!((frames.last_stream(), frames.until_boundary()), (Some(last), Some(0)));
        }
        // Too short for one.
        follow(&mut frames, &[frame(GOAWAY, 0, 0, &[1; 3]), frame(DATA, 0, 1, &[])].concat(), 5);
        assert_eq!((frames.last_stream(), frames.until_boundary()), (Some(7), Some(0)));
    }

    #[test]
    fn other_protocols_are_left_alone() {
        // HTTP/1, and a record of TLS whose fourth byte is the number of SETTINGS.
        for sent in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[0x16, 3, 3, 4, 0, 0, 0, 0, 0, 0]] {
            let mut frames = Frames::of_server();
            assert_eq!(follow(&mut frames, sent, 4), []);
            assert!(frames.is_other());
            assert_eq!(frames.until_boundary(), None);
        }
        let mut frames = Frames::of_client();
        assert_eq!(follow(&mut frames, b"PRI * HTTP/1.1\r\n\r\n", 5), []);
        assert!(frames.is_other());
    }
}
