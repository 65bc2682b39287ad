//! HTTP/2 frames (RFC 9113, section 4.1) in a stream of bytes that arrives in pieces of any size.

/// The type of a frame with data.
const DATA: u8 = 0;

/// What a client sends before its first frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Splits the bytes of one side of a connection into frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The header of the next frame, as far as it has arrived.
    header: Vec<u8>,
    /// The bytes that are missing of the payload, or of the preface.
    payload: usize,
}

#[derive(Debug)]
pub(crate) enum Piece<'a> {
    Header(Header),
    /// A part of the payload of the last header, or of the preface.
    Payload(&'a [u8]),
}

/// A whole header: length, type, flags and stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header(pub(crate) [u8; 9]);

impl Header {
    /// The length of the payload.
    pub(crate) fn length(self) -> usize {
        let [high, middle, low, ..] = self.0;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }

    pub(crate) fn is_data(self) -> bool {
        self.0[3] == DATA
    }

    pub(crate) fn stream(self) -> u32 {
        let [.., a, b, c, d] = self.0;
        u32::from_be_bytes([a & 0x7f, b, c, d])
    }
}

impl Frames {
    /// The frames of a client, which sends the preface first.
    pub(crate) fn of_client() -> Self {
        Self { payload: PREFACE.len(), ..Self::default() }
    }

    /// Takes the next piece off `bytes`; `None` once nothing whole is left. An unfinished header is kept for the next bytes.
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        if self.payload > 0 && !bytes.is_empty() {
            let payload = bytes.split_off(..self.payload.min(bytes.len()))?;
            self.payload -= payload.len();
            return Some(Piece::Payload(payload));
        }
        let missing = 9 - self.header.len();
        self.header.extend(bytes.split_off(..missing.min(bytes.len()))?);
        let header = Header(self.header.as_slice().try_into().ok()?);
        self.header.clear();
        self.payload = header.length();
        Some(Piece::Header(header))
    }
}
