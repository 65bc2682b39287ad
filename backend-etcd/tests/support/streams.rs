//! The streams of one HTTP/2 connection, for a proxy that drops the data of some.

use super::frame::{Frames, Header, Piece};

/// Follows what a server sends, in pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    frames: Frames,
    /// Whether the present frame is dropped.
    drops: bool,
    newest: u32,
    /// The newest stream of those whose data are dropped.
    dropped_up_to: Option<u32>,
}

impl Streams {
    /// Returns what passes of `bytes`: all but, if `drop_data`, the data of the streams that were open when it first was.
    pub(crate) fn pass(&mut self, mut bytes: &[u8], drop_data: bool) -> Vec<u8> {
        self.dropped_up_to = if drop_data { self.dropped_up_to.or(Some(self.newest)) } else { None };
        let mut passed = Vec::with_capacity(bytes.len());
        while let Some(piece) = self.frames.next(&mut bytes) {
            let bytes = match &piece {
                Piece::Header(header) => {
                    self.begin(*header);
                    &header.0
                }
                Piece::Payload(payload) => *payload,
            };
            if !self.drops {
                passed.extend_from_slice(bytes);
            }
        }
        passed
    }

    fn begin(&mut self, header: Header) {
        self.drops = header.is_data() && self.dropped_up_to.is_some_and(|newest| header.stream() <= newest);
        self.newest = self.newest.max(header.stream());
    }
}
