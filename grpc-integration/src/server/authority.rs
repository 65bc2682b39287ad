//! What Go's clients send as `:authority`, made acceptable to Rust's servers.
//!
//! A Go client that dials `etcd:///a/b` sends the authority `a%2Fb`, and an older one `a/b`. To the `http` crate
//! neither is an authority, so hyper refuses the stream with PROTOCOL_ERROR before anybody sees the request
//! (hyperium/h2#525), and no Go client could call a Rust server whose service has a slash in its name.
//!
//! Here `%` and `/` in an authority become `.` on their way in. All three have Huffman codes of six bits, so nothing
//! changes its length, neither encoded nor decoded, and the two sides' compression tables stay in step.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What stands in front of every frame: length, kind, flags, stream.
const HEADER: usize = 9;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;
/// The largest frame that a server takes unless it says otherwise. Larger ones are left alone.
const LARGEST: usize = 16 * 1024;
/// `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;

/// A byte stream whose authorities are mended.
#[derive(Debug, Default)]
pub(super) struct AuthorityRewriter {
    frames: Frames,
    /// Read, but not yet complete enough to be looked at.
    held: Vec<u8>,
    /// Looked at, and to be handed out before anything else.
    ready: Vec<u8>,
}

impl AuthorityRewriter {
    /// Fills `buf` by `read`. Nearly always that is all; only while the frame that opens a call has not come in
    /// whole are its bytes held.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        mut read: impl FnMut(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.ready.is_empty() {
                let rest = self.ready.split_off(self.ready.len().min(buf.remaining()));
                buf.put_slice(&std::mem::replace(&mut self.ready, rest));
                return Poll::Ready(Ok(()));
            }
            if self.held.is_empty() {
                let before = buf.filled().len();
                ready!(read(cx, buf))?;
                let new = buf.filled_mut().get_mut(before..).unwrap_or_default();
                let passed = self.frames.mend(new);
                if passed == new.len() {
                    return Poll::Ready(Ok(()));
                }
                self.held.extend_from_slice(new.get(passed..).unwrap_or_default());
                buf.set_filled(before + passed);
                if passed > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut bytes = [0; 4096];
                let mut more = ReadBuf::new(&mut bytes);
                ready!(read(cx, &mut more))?;
                self.held.extend_from_slice(more.filled());
                // At the end of the stream it will never be complete.
                let passed =
                    if more.filled().is_empty() { self.held.len() } else { self.frames.mend(&mut self.held) };
                let rest = self.held.split_off(passed);
                self.ready = std::mem::replace(&mut self.held, rest);
            }
        }
    }
}

/// Where in the stream of frames it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Frames {
    /// Before the client has said that it speaks HTTP/2.
    #[default]
    Greeting,
    /// Before a frame.
    Between,
    /// So much of a frame's payload is still to pass.
    Passing(usize),
    /// It is not HTTP/2, as with TLS: nothing is touched.
    Blind,
}

impl Frames {
    /// Mends what is complete, and says how many bytes that is. The others are to be brought again, with more.
    fn mend(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let step = match *self {
                Self::Blind => rest.len(),
                Self::Passing(left) => {
                    let step = left.min(rest.len());
                    *self = if step == left { Self::Between } else { Self::Passing(left - step) };
                    step
                }
                Self::Greeting => {
                    let known = rest.len().min(PREFACE.len());
                    if rest[..known] != PREFACE[..known] {
                        *self = Self::Blind;
                        0
                    } else if known < PREFACE.len() {
                        return at;
                    } else {
                        *self = Self::Between;
                        known
                    }
                }
                Self::Between => {
                    let Some((&mut [a, b, c, kind, flags, ..], payload)) =
                        rest.split_first_chunk_mut::<HEADER>()
                    else {
                        return at;
                    };
                    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                    // A block of headers that comes in several frames is too rare and too large to wait for.
                    if kind == HEADERS && flags & END_HEADERS != 0 && length <= LARGEST {
                        let Some(payload) = payload.get_mut(..length) else { return at };
                        if let Some(block) = block(payload, flags) {
                            mend_block(block);
                        }
                        HEADER + length
                    } else {
                        *self = if length == 0 { Self::Between } else { Self::Passing(length) };
                        HEADER
                    }
                }
            };
            at += step;
        }
        bytes.len()
    }
}

/// The compressed headers among the payload of a HEADERS frame.
fn block(payload: &mut [u8], flags: u8) -> Option<&mut [u8]> {
    let mut from = 0;
    let mut to = payload.len();
    if flags & PADDED != 0 {
        to = to.checked_sub(usize::from(*payload.first()?))?;
        from += 1;
    }
    if flags & PRIORITY != 0 {
        from += 5;
    }
    payload.get_mut(from..to)
}

/// Goes through the fields as HPACK (RFC 7541) writes them. What it cannot follow is left to hyper to refuse.
fn mend_block(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while let Some(first) = block.get(at) {
        let (prefix, has_value) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let name = integer(block, &mut at, prefix)?;
        if !has_value {
            continue;
        }
        if name == 0 {
            string(block, &mut at)?;
        }
        let (value, compressed) = string(block, &mut at)?;
        if name == AUTHORITY {
            if compressed { mend_compressed(value) } else { mend_plain(value) }
        }
    }
    Some(())
}

fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & mask;
    *at += 1;
    if value < mask {
        return Some(value);
    }
    // More than any frame is long.
    for shift in [0, 7, 14] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A string, and whether it is Huffman coded.
fn string<'a>(block: &'a mut [u8], at: &mut usize) -> Option<(&'a mut [u8], bool)> {
    let compressed = block.get(*at)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let from = *at;
    *at = from.checked_add(length)?;
    Some((block.get_mut(from..*at)?, compressed))
}

fn mend_plain(value: &mut [u8]) {
    for byte in value {
        if matches!(*byte, b'%' | b'/') {
            *byte = b'.';
        }
    }
}

/// How many of HPACK's Huffman codes have each length. The code is canonical, so this is enough to tell where one
/// ends.
const CODES: [(u32, u32); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];
const PERCENT: u32 = 0b01_0101;
const SLASH: u32 = 0b01_1000;
const DOT: u32 = 0b01_0111;

fn mend_compressed(value: &mut [u8]) {
    let mut at = 0;
    while let Some((length, code)) = code(value, at) {
        if length == 6 && (code == PERCENT || code == SLASH) {
            for bit in 0..6 {
                set(value, at + bit, DOT >> (5 - bit) & 1 == 1);
            }
        }
        at += length;
    }
}

/// The code that begins at this bit: its length and its bits. `None` at the end, in the padding.
fn code(value: &[u8], at: usize) -> Option<(usize, u32)> {
    // The first code of each length follows from the codes before, as the numbers of a canonical code do.
    let (mut length, mut first, mut bits) = (0, 0_u32, 0_u32);
    for (longer, count) in CODES {
        first <<= longer - length;
        while length < longer {
            bits = bits << 1 | u32::from(get(value, at + usize::try_from(length).ok()?)?);
            length += 1;
        }
        if bits < first + count {
            return Some((usize::try_from(length).ok()?, bits));
        }
        first += count;
    }
    None
}

fn get(value: &[u8], bit: usize) -> Option<bool> {
    value.get(bit / 8).map(|byte| byte >> (7 - bit % 8) & 1 == 1)
}

fn set(value: &mut [u8], bit: usize, to: bool) {
    if let Some(byte) = value.get_mut(bit / 8) {
        let mask = 1 << (7 - bit % 8);
        if to { *byte |= mask } else { *byte &= !mask }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Go's encoder writes `grpc-demo%2Fgrpc%2Fdiscover-demo` and `/run/greeter.sock`.
    const ESCAPED: &str = "9acac8b485a4ea8b0cd656454586432087ee5b1690b49f";
    const PATH: &str = "62cb6a626b0a5496c5d07275";
    /// And the whole block of a request with the first of them.
    const BLOCK: &str = "8386459662432087ee5b17be6410fdcb65f2d2762f99043f72d941979acac8b485a4ea8b0cd656454586432087ee5b16\
                         90b49f5f8b1d75d0620d263d4c4d65647a8a9acac8b4c7602bbcdae040027465864d833505b11f";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// For the letters of these tests.
    fn decode(value: &[u8]) -> String {
        let letters: [(&[u8], usize); 3] = [
            (b"012aceiost", 5),
            (b" %-./3456789=A_bdfghlmnpru", 6),
            (b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz", 7),
        ];
        let firsts = [0, 0x14, 0x5c];
        let (mut at, mut text) = (0, String::new());
        while let Some((length, bits)) = code(value, at) {
            text.push(char::from(letters[length - 5].0[usize::try_from(bits).unwrap() - firsts[length - 5]]));
            assert_eq!(letters[length - 5].1, length);
            at += length;
        }
        text
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn the_codes_are_complete() {
        let sum: u64 = CODES.iter().map(|(length, count)| u64::from(*count) << (30 - length)).sum();
        assert_eq!((sum, CODES.iter().map(|(_, count)| count).sum::<u32>()), (1 << 30, 257));
    }

    #[test]
    fn an_authority_keeps_its_length_and_loses_what_none_may_have() {
        for (hex, before, after) in [
            (ESCAPED, "grpc-demo%2Fgrpc%2Fdiscover-demo", "grpc-demo.2Fgrpc.2Fdiscover-demo"),
            (PATH, "/run/greeter.sock", ".run.greeter.sock"),
        ] {
            let mut value = bytes(hex);
            assert_eq!(decode(&value), before);
            mend_compressed(&mut value);
            assert_eq!(decode(&value), after);
            let mut value = before.as_bytes().to_vec();
            mend_plain(&mut value);
            assert_eq!(value, after.as_bytes());
        }
    }

    #[test]
    fn however_the_stream_is_cut_only_the_authority_changes() {
        let block = bytes(BLOCK);
        let padded = [&[3, 0, 0, 0, 0, 9][..], &block, &[b'%'; 3]].concat();
        let settings = frame(4, 0, &[0, 3, 0, 0, 0, 9]);
        let data = frame(0, 1, b"100 % / as it is");
        let stream = [
            PREFACE.to_vec(),
            settings,
            frame(HEADERS, END_HEADERS, &block),
            data.clone(),
            frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &padded),
            frame(6, 0, &[]),
            data,
        ]
        .concat();
        let mut expected = stream.clone();
        assert_eq!(Frames::default().mend(&mut expected), stream.len());
        let changed: Vec<_> = (0..stream.len()).filter(|i| stream[*i] != expected[*i]).collect();
        assert!((4..=8).contains(&changed.len()), "two characters in each of two blocks: {changed:?}");

        for cut in 1..stream.len() {
            let (mut frames, mut held, mut out) = (Frames::default(), Vec::new(), Vec::new());
            for piece in stream.chunks(cut) {
                held.extend_from_slice(piece);
                let passed = frames.mend(&mut held);
                out.extend(held.drain(..passed));
            }
            out.extend(held);
            assert_eq!(out, expected, "in pieces of {cut}");
        }
    }

    #[test]
    fn what_is_not_http2_is_not_touched() {
        let hello = [&[0x16, 3, 1, 0, 5][..], b"%/%/%"].concat();
        let mut bytes = hello.clone();
        assert_eq!(Frames::default().mend(&mut bytes), hello.len());
        assert_eq!(bytes, hello);
    }

    #[test]
    fn nonsense_does_no_harm() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..2000 {
            let mut nonsense: Vec<u8> = (0..random.usize(..200)).map(|_| random.u8(..)).collect();
            mend_block(&mut nonsense);
            mend_compressed(&mut nonsense);
            let length = u8::try_from(nonsense.len()).unwrap();
            let header = [0, 0, length, HEADERS, random.u8(..), 0, 0, 0, 1];
            let mut stream = [&PREFACE[..], &header, &nonsense].concat();
            assert_eq!(Frames::default().mend(&mut stream), stream.len());
        }
    }
}
