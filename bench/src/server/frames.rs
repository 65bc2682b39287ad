//! The frames of HTTP/2 that the server reads and writes (RFC 9113).

use bytes::BufMut;

pub(super) const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
pub(super) const HEAD: usize = 9;
/// The largest payload that a peer takes unless it says otherwise.
pub(super) const MAX_PAYLOAD: usize = 16_384;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;

/// Of DATA and HEADERS.
pub(super) const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
pub(super) const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// `:status 200` and `content-type: application/grpc`, without the dynamic table: what a client does with headers that
/// it has not seen before.
const RESPONSE_FIELDS: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`, without the dynamic table.
const TRAILER_FIELDS: &[u8] = b"\x00\x0bgrpc-status\x010";

/// The frames that a peer sent, as far as they are complete.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Returns the first frame and what follows, if it is complete.
    pub(super) fn split(input: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[a, b, c, kind, flags, s0, s1, s2, s3], rest) = input.split_first_chunk::<HEAD>()?;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let (payload, rest) = rest.split_at_checked(length)?;
        Some((Self { kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]), payload }, rest))
    }

    /// Returns the increment of a WINDOW_UPDATE.
    pub(super) fn increment(&self) -> i64 {
        self.payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes).into())
    }

    /// Returns the INITIAL_WINDOW_SIZE of SETTINGS.
    pub(super) fn initial_window(&self) -> Option<i64> {
        let settings = self.payload.chunks_exact(6);
        let mut values = settings.filter_map(|setting| match setting {
            [k0, k1, v0, v1, v2, v3] if u16::from_be_bytes([*k0, *k1]) == INITIAL_WINDOW_SIZE => {
                Some(u32::from_be_bytes([*v0, *v1, *v2, *v3]).into())
            }
            _ => None,
        });
        values.next_back()
    }
}

/// Our SETTINGS: a large window, and many streams.
pub(super) fn settings(output: &mut Vec<u8>, window: u32, streams: u32) {
    head(output, 12, SETTINGS, 0, 0);
    output.put_u16(INITIAL_WINDOW_SIZE);
    output.put_u32(window);
    output.put_u16(MAX_CONCURRENT_STREAMS);
    output.put_u32(streams);
}

/// Enlarges the connection's window.
pub(super) fn window_update(output: &mut Vec<u8>, increment: u32) {
    head(output, 4, WINDOW_UPDATE, 0, 0);
    output.put_u32(increment);
}

/// Answers SETTINGS or a PING with this payload.
pub(super) fn ack(output: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    head(output, payload.len(), kind, ACK, 0);
    output.put_slice(payload);
}

pub(super) fn response(output: &mut Vec<u8>, stream: u32) {
    head(output, RESPONSE_FIELDS.len(), HEADERS, END_HEADERS, stream);
    output.put_slice(RESPONSE_FIELDS);
}

pub(super) fn trailers(output: &mut Vec<u8>, stream: u32) {
    head(output, TRAILER_FIELDS.len(), HEADERS, END_HEADERS | END_STREAM, stream);
    output.put_slice(TRAILER_FIELDS);
}

/// The bytes from `offset` to `end` of a gRPC message, with its prefix, of `size` zeros.
pub(super) fn data(output: &mut Vec<u8>, stream: u32, size: u32, offset: usize, end: usize) {
    head(output, end - offset, DATA, 0, stream);
    let [s0, s1, s2, s3] = size.to_be_bytes();
    let prefix = [0, s0, s1, s2, s3];
    let from_prefix = prefix.get(offset..end.min(prefix.len())).unwrap_or_default();
    output.put_slice(from_prefix);
    output.put_bytes(0, end - offset - from_prefix.len());
}

fn head(output: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    output.put_uint(u64::try_from(length).unwrap_or(u64::MAX), 3);
    output.put_u8(kind);
    output.put_u8(flags);
    output.put_u32(stream);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_can_be_cut_anywhere() {
        let mut whole = Vec::new();
        data(&mut whole, 1, 8, 0, 13);
        assert_eq!(whole[HEAD..], [0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        for cut in 0..13 {
            let mut output = Vec::new();
            data(&mut output, 1, 8, 0, cut);
            data(&mut output, 1, 8, cut, 13);
            let (first, rest) = Frame::split(&output).unwrap();
            let (second, rest) = Frame::split(rest).unwrap();
            assert_eq!([first.payload, second.payload].concat(), whole[HEAD..], "{cut}");
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn an_incomplete_frame_is_none() {
        let mut output = Vec::new();
        settings(&mut output, 70_000, 10);
        for length in 0..output.len() {
            assert!(Frame::split(&output[..length]).is_none(), "{length}");
        }
        let (frame, rest) = Frame::split(&output).unwrap();
        assert_eq!((frame.kind, frame.initial_window(), rest.len()), (SETTINGS, Some(70_000), 0));
    }
}
