//! Rewrites the `:authority` that Go's clients send into one that Rust's servers accept.
//!
//! A client written in Go that dials `etcd:///a/b` sends the authority `a%2Fb`, and an older one `a/b`. The `http`
//! crate accepts neither, so hyper refuses the stream with PROTOCOL_ERROR before any service sees the request
//! (hyperium/h2#525), and no Go client could call a Rust server whose service has a slash in its name. RFC 3986
//! allows percent-encoding there; this file can go once the `http` crate accepts it (hyperium/http#836, open).
//!
//! Here `%` and `/` in an authority become `.` as they are read. All three have Huffman codes of six bits, so no
//! length changes, neither encoded nor decoded, and the compression tables of both sides stay in step.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use crate::http2::frame::{END_HEADERS, FrameHeader, HEADER_LEN, HEADERS, PADDED, PREFACE, PRIORITY};
use crate::http2::hpack::{self, AUTHORITY};

/// The largest frame that a server accepts unless it announces another limit. Larger ones are not looked at.
const LARGEST: usize = 16 * 1024;

/// The state of rewriting what is read from one byte stream.
#[derive(Debug, Default)]
pub(super) struct AuthorityRewriter {
    position: RewritePosition,
    /// Read, but not complete enough to be scanned.
    held: Vec<u8>,
    /// Scanned, and to be returned before anything else.
    ready: Vec<u8>,
}

impl AuthorityRewriter {
    /// Fills `buf` by `read`, and rewrites what was read. Bytes are held back only while a HEADERS frame has not
    /// been read to its end.
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
                let passed = self.position.rewrite(new);
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
                // At the end of the stream it never gets complete.
                let passed = if more.filled().is_empty() {
                    self.held.len()
                } else {
                    self.position.rewrite(&mut self.held)
                };
                let rest = self.held.split_off(passed);
                self.ready = std::mem::replace(&mut self.held, rest);
            }
        }
    }
}

/// The position of the rewriter in the stream of frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum RewritePosition {
    /// Before or inside the client's connection preface.
    #[default]
    Preface,
    /// Before or inside a frame header.
    FrameHeader,
    /// So many bytes of a payload are to be passed on as they are.
    Payload(usize),
    /// The stream is not HTTP/2 in plain text (it may be TLS): everything is passed on as it is.
    NotHttp2,
}

impl RewritePosition {
    /// Rewrites what is complete and returns how many bytes that is. The rest has to be given again, with more
    /// after it.
    fn rewrite(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let step = match *self {
                Self::NotHttp2 => rest.len(),
                Self::Payload(left) => {
                    let step = left.min(rest.len());
                    *self = if step == left { Self::FrameHeader } else { Self::Payload(left - step) };
                    step
                }
                Self::Preface => {
                    let known = rest.len().min(PREFACE.len());
                    if rest[..known] != PREFACE[..known] {
                        *self = Self::NotHttp2;
                        0
                    } else if known < PREFACE.len() {
                        return at;
                    } else {
                        *self = Self::FrameHeader;
                        known
                    }
                }
                Self::FrameHeader => {
                    let Some((header, payload)) = rest.split_first_chunk_mut::<HEADER_LEN>() else {
                        return at;
                    };
                    let header = FrameHeader::parse(header);
                    let length = header.length;
                    // A header block in several frames (CONTINUATION) is too rare and too large to wait for.
                    if header.kind == HEADERS && header.has(END_HEADERS) && length <= LARGEST {
                        let Some(payload) = payload.get_mut(..length) else { return at };
                        if let Some(block) = block(payload, header) {
                            rewrite_block(block);
                        }
                        HEADER_LEN + length
                    } else {
                        *self = if length == 0 { Self::FrameHeader } else { Self::Payload(length) };
                        HEADER_LEN
                    }
                }
            };
            at += step;
        }
        bytes.len()
    }
}

/// The header block in the payload of a HEADERS frame.
fn block(payload: &mut [u8], header: FrameHeader) -> Option<&mut [u8]> {
    let mut from = 0;
    let mut to = payload.len();
    if header.has(PADDED) {
        to = to.checked_sub(usize::from(*payload.first()?))?;
        from += 1;
    }
    if header.has(PRIORITY) {
        from += 5;
    }
    payload.get_mut(from..to)
}

/// Rewrites the authorities of a header block. What cannot be followed is left for hyper to refuse.
fn rewrite_block(block: &mut [u8]) {
    hpack::literals(block, |name, value| {
        if name == AUTHORITY {
            if value.huffman { rewrite_huffman(value.bytes) } else { rewrite_plain(value.bytes) }
        }
    });
}

fn rewrite_plain(value: &mut [u8]) {
    for byte in value {
        if matches!(*byte, b'%' | b'/') {
            *byte = b'.';
        }
    }
}

/// Huffman codes, all of six bits.
const PERCENT: u32 = 0b01_0101;
const SLASH: u32 = 0b01_1000;
const DOT: u32 = 0b01_0111;

fn rewrite_huffman(value: &mut [u8]) {
    let mut at = 0;
    while let Some((length, code)) = hpack::huffman_code(value, at) {
        if length == 6 && (code == PERCENT || code == SLASH) {
            for bit in 0..6 {
                hpack::set_bit(value, at + bit, DOT >> (5 - bit) & 1 == 1);
            }
        }
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frame::frame;

    /// As Go's encoder writes `grpc-demo%2Fgrpc%2Fdiscover-demo` and `/run/greeter.sock`.
    const ESCAPED: &str = "9acac8b485a4ea8b0cd656454586432087ee5b1690b49f";
    const PATH: &str = "62cb6a626b0a5496c5d07275";
    /// The whole header block of a request with the first of them.
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
        while let Some((length, bits)) = hpack::huffman_code(value, at) {
            text.push(char::from(letters[length - 5].0[usize::try_from(bits).unwrap() - firsts[length - 5]]));
            assert_eq!(letters[length - 5].1, length);
            at += length;
        }
        text
    }

    #[test]
    fn percent_signs_and_slashes_in_an_authority_become_dots_and_its_length_stays() {
        for (hex, before, after) in [
            (ESCAPED, "grpc-demo%2Fgrpc%2Fdiscover-demo", "grpc-demo.2Fgrpc.2Fdiscover-demo"),
            (PATH, "/run/greeter.sock", ".run.greeter.sock"),
        ] {
            let mut value = bytes(hex);
            assert_eq!(decode(&value), before);
            rewrite_huffman(&mut value);
            assert_eq!(decode(&value), after);
            let mut value = before.as_bytes().to_vec();
            rewrite_plain(&mut value);
            assert_eq!(value, after.as_bytes());
        }
    }

    #[test]
    fn only_the_authority_changes_wherever_the_stream_is_split() {
        let block = bytes(BLOCK);
        let padded = [&[3, 0, 0, 0, 0, 9][..], &block, &[b'%'; 3]].concat();
        let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 9]);
        let data = frame(0, 1, 1, b"100 % / as it is");
        let stream = [
            PREFACE.to_vec(),
            settings,
            frame(HEADERS, END_HEADERS, 1, &block),
            data.clone(),
            frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 3, &padded),
            frame(6, 0, 0, &[]),
            data,
        ]
        .concat();
        let mut expected = stream.clone();
        assert_eq!(RewritePosition::default().rewrite(&mut expected), stream.len());
        let changed: Vec<_> = (0..stream.len()).filter(|i| stream[*i] != expected[*i]).collect();
        assert!((4..=8).contains(&changed.len()), "two characters in each of two blocks: {changed:?}");

        for cut in 1..stream.len() {
            let (mut position, mut held, mut out) = (RewritePosition::default(), Vec::new(), Vec::new());
            for piece in stream.chunks(cut) {
                held.extend_from_slice(piece);
                let passed = position.rewrite(&mut held);
                out.extend(held.drain(..passed));
            }
            out.extend(held);
            assert_eq!(out, expected, "in pieces of {cut}");
        }
    }

    #[test]
    fn a_stream_that_is_not_http2_passes_unchanged() {
        let hello = [&[0x16, 3, 1, 0, 5][..], b"%/%/%"].concat();
        let mut bytes = hello.clone();
        assert_eq!(RewritePosition::default().rewrite(&mut bytes), hello.len());
        assert_eq!(bytes, hello);
    }

    #[test]
    fn random_header_blocks_do_no_harm() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..2000 {
            let mut block: Vec<u8> = (0..random.usize(..200)).map(|_| random.u8(..)).collect();
            rewrite_block(&mut block);
            rewrite_huffman(&mut block);
            let mut stream = [&PREFACE[..], &frame(HEADERS, random.u8(..), 1, &block)].concat();
            assert_eq!(RewritePosition::default().rewrite(&mut stream), stream.len());
        }
    }
}
