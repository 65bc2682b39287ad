//! Follows one direction of a connection from frame to frame.

use super::frame::{FrameHeader, HEADER_LEN, PREFACE, SETTINGS};

/// The largest frame that a peer accepts unless it announces another limit.
const LARGEST: usize = 16 * 1024;

/// A position in what one side sends.
#[derive(Debug)]
pub(crate) struct Frames {
    position: Position,
    /// No frame was seen yet; the first one of a server is SETTINGS, or it does not speak HTTP/2.
    is_first: bool,
}

#[derive(Debug)]
enum Position {
    /// So many bytes of the client's connection preface were seen.
    Preface(usize),
    /// So many bytes of a frame header were seen.
    Header([u8; HEADER_LEN], usize),
    /// So many bytes of a payload are still to come.
    Payload(usize),
    NotHttp2,
}

impl Frames {
    /// What a client sends.
    pub(crate) fn of_client() -> Self {
        Self { position: Position::Preface(0), is_first: true }
    }

    /// What a server sends.
    pub(crate) fn of_server() -> Self {
        Self { position: Position::Header([0; HEADER_LEN], 0), is_first: true }
    }

    /// Whether what was seen cannot be HTTP/2 in plain text.
    pub(crate) fn is_other(&self) -> bool {
        matches!(self.position, Position::NotHttp2)
    }

    /// Returns how many bytes are to come before a further frame could be put in: 0 between two frames. `None` before the
    /// first frame, and where there are none.
    pub(crate) fn until_boundary(&self) -> Option<usize> {
        match self.position {
            _ if self.is_first => None,
            Position::Header(_, 0) => Some(0),
            Position::Header(_, seen) => Some(HEADER_LEN - seen),
            Position::Payload(left) => Some(left),
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
                    *left -= step;
                    if *left == 0 {
                        self.position = Position::Header([0; HEADER_LEN], 0);
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
        match header.length {
            0 => Position::Header([0; HEADER_LEN], 0),
            length => Position::Payload(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frame::{DATA, HEADERS, frame};

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
