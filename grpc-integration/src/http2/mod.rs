//! The little of HTTP/2 that is parsed here and not by h2: frame headers, and header blocks as far as one field
//! needs it.

pub(crate) mod frame;
#[cfg(feature = "server")]
pub(crate) mod frames;
#[cfg(feature = "server")]
pub(crate) mod hpack;

#[cfg(test)]
mod tests {
    use super::frame::{END_HEADERS, FrameHeader, HEADERS, PADDED, PRIORITY, frame};

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let bytes = frame(HEADERS, END_HEADERS | PADDED, 0x8000_0003, &[0; 70_000]);
        let header = FrameHeader::parse(bytes.first_chunk().unwrap());
        assert_eq!(
            (header.length, header.kind, header.stream),
            (70_000, HEADERS, 3),
            "the first bit is reserved"
        );
        assert!(header.has(END_HEADERS) && header.has(PADDED) && !header.has(PRIORITY));
    }
}
