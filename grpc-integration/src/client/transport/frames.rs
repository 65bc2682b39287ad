//! Scans incoming frames for what a peer announces about the connection itself: SETTINGS and GOAWAY.

use crate::http2::frame::{ACK, FrameHeader, GOAWAY, HEADER_LEN, SETTINGS};

/// One entry of SETTINGS: its id and its value.
const SETTING: usize = 6;
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];

/// What a peer announces about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerEvent {
    /// SETTINGS, and MAX_CONCURRENT_STREAMS if it is among them.
    Settings { max_streams: Option<u32> },
    /// GOAWAY: it accepts no new streams.
    GoAway,
}

/// Follows the frames of a byte stream, wherever it is split.
#[derive(Debug, Default)]
pub(crate) struct FrameScanner {
    /// A frame header, or one entry of SETTINGS, as far as it was read.
    partial: [u8; HEADER_LEN],
    gathered: usize,
    /// How much of the present frame's payload is still to be read.
    payload: usize,
    /// Inside SETTINGS: the stream limit, once it was read.
    settings: Option<Option<u32>>,
}

impl FrameScanner {
    /// Scans the next bytes, and reports the events that they complete.
    pub(crate) fn scan(&mut self, mut bytes: &[u8], mut report: impl FnMut(PeerEvent)) {
        while !bytes.is_empty() {
            if self.payload == 0 {
                bytes = self.header(bytes, &mut report);
            } else if self.settings.is_some() {
                bytes = self.setting(bytes, &mut report);
            } else {
                let passed = self.payload.min(bytes.len());
                self.payload -= passed;
                bytes = bytes.get(passed..).unwrap_or_default();
            }
        }
    }

    fn header<'a>(&mut self, bytes: &'a [u8], report: &mut impl FnMut(PeerEvent)) -> &'a [u8] {
        let (whole, rest) = self.gather(bytes, HEADER_LEN);
        if whole {
            let header = FrameHeader::parse(&self.partial);
            self.payload = header.length;
            match header.kind {
                GOAWAY => report(PeerEvent::GoAway),
                SETTINGS if !header.has(ACK) && self.payload == 0 => {
                    report(PeerEvent::Settings { max_streams: None });
                }
                SETTINGS if !header.has(ACK) => self.settings = Some(None),
                _ => {}
            }
        }
        rest
    }

    fn setting<'a>(&mut self, bytes: &'a [u8], report: &mut impl FnMut(PeerEvent)) -> &'a [u8] {
        // A payload that is no multiple of an entry is an error for the HTTP/2 implementation to deal with.
        let (whole, rest) = self.gather(bytes, SETTING.min(self.payload + self.gathered));
        self.payload = self.payload.saturating_sub(bytes.len() - rest.len());
        if whole {
            let [high, low, a, b, c, d, ..] = self.partial;
            if [high, low] == MAX_CONCURRENT_STREAMS {
                self.settings = Some(Some(u32::from_be_bytes([a, b, c, d])));
            }
        }
        if self.payload == 0
            && let Some(max_streams) = self.settings.take()
        {
            report(PeerEvent::Settings { max_streams });
        }
        rest
    }

    /// Fills `partial` up to `wanted` bytes; returns whether it is full, and the rest of the bytes.
    fn gather<'a>(&mut self, bytes: &'a [u8], wanted: usize) -> (bool, &'a [u8]) {
        let missing = wanted.saturating_sub(self.gathered).min(bytes.len());
        let (taken, rest) = bytes.split_at(missing);
        for (slot, byte) in self.partial.iter_mut().skip(self.gathered).zip(taken) {
            *slot = *byte;
        }
        self.gathered += missing;
        let whole = self.gathered >= wanted;
        if whole {
            self.gathered = 0;
        }
        (whole, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frame::frame;

    fn events(bytes: &[u8], piece: usize) -> Vec<PeerEvent> {
        let (mut frames, mut events) = (FrameScanner::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            frames.scan(piece, |what| events.push(what));
        }
        events
    }

    #[test]
    fn events_are_found_wherever_the_bytes_are_split() {
        let header_table = [0, 1, 0, 0, 16, 0];
        let limit = [0, 3, 0, 0, 1, 2];
        let bytes = [
            frame(SETTINGS, 0, 0, &[header_table, limit, header_table].concat()),
            frame(SETTINGS, ACK, 0, &[]),
            frame(0, 0, 0, &[SETTINGS; 1000]),
            frame(0, 0, 0, &[]),
            frame(6, 0, 0, &[0; 8]),
            frame(SETTINGS, 0, 0, &header_table),
            frame(SETTINGS, 0, 0, &[]),
            frame(GOAWAY, 0, 0, &[0; 30]),
            frame(SETTINGS, 0, 0, &limit),
        ]
        .concat();
        let expected = [
            PeerEvent::Settings { max_streams: Some(258) },
            PeerEvent::Settings { max_streams: None },
            PeerEvent::Settings { max_streams: None },
            PeerEvent::GoAway,
            PeerEvent::Settings { max_streams: Some(258) },
        ];
        for piece in 1..bytes.len() {
            assert_eq!(events(&bytes, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn random_bytes_do_no_harm() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..2000).map(|_| random.u8(..8)).collect();
            assert_eq!(events(&bytes, 1), events(&bytes, 2000));
        }
        // Not a whole number of entries.
        events(&[frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1, 9]), frame(SETTINGS, 0, 0, &[1; 5])].concat(), 1);
    }
}
