//! Frames and header blocks as bytes.

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    pub(crate) fn is(&self, kind: u8) -> bool {
        self.kind == kind
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes(), &self.payload[..]].concat()
    }

    /// Takes a whole frame from the beginning of `bytes`, if there is one.
    pub(crate) fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let header: [u8; 9] = bytes.get(..9)?.try_into().unwrap();
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        if bytes.len() < 9 + length {
            return None;
        }
        let payload = bytes[9..9 + length].to_vec();
        bytes.drain(..9 + length);
        let stream = u32::from_be_bytes(header[5..].try_into().unwrap()) & 0x7fff_ffff;
        Some(Self { kind: header[3], flags: header[4], stream, payload })
    }
}

/// The payload of SETTINGS.
pub(crate) fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let entry = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    entries.iter().flat_map(entry).collect()
}

/// A header block: literals that are not indexed, without Huffman coding.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return block.push(u8::try_from(length).unwrap());
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// A gRPC message that is a protobuf string.
pub(crate) fn message(text: &str) -> Vec<u8> {
    let mut protobuf = Vec::new();
    if !text.is_empty() {
        protobuf.push(0x0a);
        let mut rest = text.len();
        while rest >= 128 {
            protobuf.push(u8::try_from(rest % 128).unwrap() | 0x80);
            rest /= 128;
        }
        protobuf.push(u8::try_from(rest).unwrap());
        protobuf.extend_from_slice(text.as_bytes());
    }
    let length = u32::try_from(protobuf.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &protobuf[..]].concat()
}
