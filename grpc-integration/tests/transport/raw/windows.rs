//! Flow control, as far as a sender has to obey it (RFC 9113, section 5.2).

use std::collections::BTreeMap;

use super::INITIAL_WINDOW_SIZE;
use super::wire::{ACK, Frame, SETTINGS, WINDOW_UPDATE};

/// How much the client allows to send.
#[derive(Debug)]
pub(crate) struct Windows {
    pub(crate) connection: i64,
    pub(crate) initial: i64,
    streams: BTreeMap<u32, i64>,
}

impl Windows {
    /// How much may be sent on this stream now.
    pub(crate) fn room(&self, stream: u32) -> usize {
        let of_stream = self.initial + self.streams.get(&stream).copied().unwrap_or(0);
        usize::try_from(self.connection.min(of_stream)).unwrap_or(0)
    }

    /// Takes `length` from both windows.
    pub(crate) fn take(&mut self, stream: u32, length: usize) {
        let length = i64::try_from(length).unwrap();
        self.connection -= length;
        *self.streams.entry(stream).or_default() -= length;
    }

    /// Takes up a frame of the client's.
    pub(super) fn note(&mut self, frame: &Frame) {
        if frame.is(WINDOW_UPDATE) {
            let by = i64::from(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
            match frame.stream {
                0 => self.connection += by,
                stream => *self.streams.entry(stream).or_default() += by,
            }
        } else if frame.is(SETTINGS) && !frame.has(ACK) {
            for entry in frame.payload.chunks(6) {
                if entry[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                    self.initial = i64::from(u32::from_be_bytes(entry[2..].try_into().unwrap()));
                }
            }
        }
    }
}

impl Default for Windows {
    fn default() -> Self {
        Self { connection: 65_535, initial: 65_535, streams: BTreeMap::new() }
    }
}
