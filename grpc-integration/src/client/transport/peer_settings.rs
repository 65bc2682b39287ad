//! What a server announces in its SETTINGS and h2 does not report.

/// SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113, section 6.5.2).
const MAX_HEADER_LIST_SIZE: u16 = 6;
/// The length of one setting: an identifier and a value.
const ENTRY: usize = 6;

/// Reads the payloads of SETTINGS frames, however they are cut.
#[derive(Debug)]
pub(super) struct PeerSettings {
    entry: [u8; ENTRY],
    gathered: usize,
    max_header_list: u32,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self { entry: [0; ENTRY], gathered: 0, max_header_list: u32::MAX }
    }
}

impl PeerSettings {
    /// Returns the largest header list that the peer accepts; `u32::MAX`, the largest that can be announced, if it has
    /// announced none.
    pub(super) fn max_header_list(&self) -> u32 {
        self.max_header_list
    }

    /// A frame begins.
    pub(super) fn begin(&mut self) {
        self.gathered = 0;
    }

    /// Reads a part of the present frame's payload.
    pub(super) fn read(&mut self, part: &[u8]) {
        for byte in part {
            if let Some(free) = self.entry.get_mut(self.gathered) {
                *free = *byte;
            }
            self.gathered += 1;
            if self.gathered == ENTRY {
                self.gathered = 0;
                let [id @ .., a, b, c, d] = self.entry;
                if u16::from_be_bytes(id) == MAX_HEADER_LIST_SIZE {
                    self.max_header_list = u32::from_be_bytes([a, b, c, d]);
                }
            }
        }
    }
}
