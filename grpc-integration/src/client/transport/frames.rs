//! The little of HTTP/2's framing that is needed to hear what a peer says about the connection itself.

/// What stands in front of every frame: length, kind, flags, stream.
const HEADER: usize = 9;
/// One entry of SETTINGS: its id and its value.
const SETTING: usize = 6;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];

/// What a peer says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Its settings, and the stream limit if they have one.
    Settings { max_streams: Option<u32> },
    /// It takes nothing new.
    GoAway,
}

/// Follows the frames through a byte stream, however it is cut into pieces.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// A frame's header, or one entry of SETTINGS, as far as it has come.
    partial: [u8; HEADER],
    gathered: usize,
    /// What is still to come of the present frame's payload.
    payload: usize,
    /// Inside SETTINGS: the stream limit, once it was seen.
    settings: Option<Option<u32>>,
}

impl Frames {
    /// Takes the next bytes, and tells what they complete.
    pub(crate) fn look_at(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Heard)) {
        while !bytes.is_empty() {
            if self.payload == 0 {
                bytes = self.header(bytes, &mut tell);
            } else if self.settings.is_some() {
                bytes = self.setting(bytes, &mut tell);
            } else {
                let passed = self.payload.min(bytes.len());
                self.payload -= passed;
                bytes = bytes.get(passed..).unwrap_or_default();
            }
        }
    }

    fn header<'a>(&mut self, bytes: &'a [u8], tell: &mut impl FnMut(Heard)) -> &'a [u8] {
        let (whole, rest) = self.gather(bytes, HEADER);
        if whole {
            let [a, b, c, kind, flags, ..] = self.partial;
            self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            match kind {
                GOAWAY => tell(Heard::GoAway),
                SETTINGS if flags & ACK == 0 && self.payload == 0 => {
                    tell(Heard::Settings { max_streams: None });
                }
                SETTINGS if flags & ACK == 0 => self.settings = Some(None),
                _ => {}
            }
        }
        rest
    }

    fn setting<'a>(&mut self, bytes: &'a [u8], tell: &mut impl FnMut(Heard)) -> &'a [u8] {
        // A payload that is no multiple of an entry is an error that the HTTP/2 implementation deals with.
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
            tell(Heard::Settings { max_streams });
        }
        rest
    }

    /// Fills `partial` up to `wanted` bytes; whether it is full, and what was not taken.
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

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    }

    fn heard(bytes: &[u8], piece: usize) -> Vec<Heard> {
        let (mut frames, mut heard) = (Frames::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            frames.look_at(piece, |what| heard.push(what));
        }
        heard
    }

    #[test]
    fn what_is_said_is_heard_however_the_bytes_are_cut() {
        let header_table = [0, 1, 0, 0, 16, 0];
        let limit = [0, 3, 0, 0, 1, 2];
        let bytes = [
            frame(SETTINGS, 0, &[header_table, limit, header_table].concat()),
            frame(SETTINGS, ACK, &[]),
            frame(0, 0, &[SETTINGS; 1000]),
            frame(0, 0, &[]),
            frame(6, 0, &[0; 8]),
            frame(SETTINGS, 0, &header_table),
            frame(SETTINGS, 0, &[]),
            frame(GOAWAY, 0, &[0; 30]),
            frame(SETTINGS, 0, &limit),
        ]
        .concat();
        let expected = [
            Heard::Settings { max_streams: Some(258) },
            Heard::Settings { max_streams: None },
            Heard::Settings { max_streams: None },
            Heard::GoAway,
            Heard::Settings { max_streams: Some(258) },
        ];
        for piece in 1..bytes.len() {
            assert_eq!(heard(&bytes, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_not_http2_does_no_harm() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..2000).map(|_| random.u8(..8)).collect();
            assert_eq!(heard(&bytes, 1), heard(&bytes, 2000));
        }
        // Not a whole number of entries.
        heard(&[frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 1, 9]), frame(SETTINGS, 0, &[1; 5])].concat(), 1);
    }
}
