//! The frames of one HTTP/2 connection, as a proxy sees them pass that loses some.

const DATA: u8 = 0;

/// Follows what a server answers, however it is cut into pieces.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// The header of the next frame, as far as it has come.
    header: Vec<u8>,
    /// What is still to come of the present frame, and whether it is lost.
    payload: usize,
    lost: bool,
    newest: u32,
    /// The newest stream of those whose data are lost.
    deaf: Option<u32>,
}

impl Streams {
    /// What passes of the next bytes: all but the data of the streams that there were when it first was `deaf`.
    pub(crate) fn pass(&mut self, bytes: &[u8], deaf: bool) -> Vec<u8> {
        self.deaf = if deaf { self.deaf.or(Some(self.newest)) } else { None };
        let mut passed = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            if self.payload > 0 {
                let (now, later) = rest.split_at(self.payload.min(rest.len()));
                if !self.lost {
                    passed.extend_from_slice(now);
                }
                self.payload -= now.len();
                rest = later;
            } else {
                self.header.push(byte);
                rest = &rest[1..];
                self.begin(&mut passed);
            }
        }
        passed
    }

    /// Begins a frame once its header is whole.
    fn begin(&mut self, passed: &mut Vec<u8>) {
        let &[a, b, c, kind, _, s, t, r, m] = self.header.as_slice() else { return };
        self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let stream = u32::from_be_bytes([s & 0x7f, t, r, m]);
        self.lost = kind == DATA && self.deaf.is_some_and(|deaf| stream <= deaf);
        self.newest = self.newest.max(stream);
        if !self.lost {
            passed.extend_from_slice(&self.header);
        }
        self.header.clear();
    }
}
