//! How many bytes of messages are in what is sent or received, without gRPC's framing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A flag, and the length of the message.
const PREFIX: usize = 5;

/// The size of all messages of one direction of a call, as far as its bytes have passed.
#[derive(Debug, Default)]
pub(crate) struct MessageSizes {
    total: u64,
    /// What is left of the present message.
    left: u64,
    prefix: [u8; PREFIX],
    /// How much of the next message's prefix has passed.
    read: usize,
}

impl MessageSizes {
    /// Takes in what comes next of the stream.
    pub(crate) fn add(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.left > 0 {
                let part = usize::try_from(self.left).map_or(data.len(), |left| left.min(data.len()));
                self.total += part as u64;
                self.left -= part as u64;
                data = &data[part..];
                continue;
            }
            let part = (PREFIX - self.read).min(data.len());
            self.prefix[self.read..self.read + part].copy_from_slice(&data[..part]);
            self.read += part;
            data = &data[part..];
            if self.read == PREFIX {
                let [_, length @ ..] = self.prefix;
                (self.left, self.read) = (u32::from_be_bytes(length).into(), 0);
            }
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

/// The sizes of what one attempt of a stream sends, for metrics.
#[derive(Debug)]
pub(crate) struct SentSizes {
    sizes: MessageSizes,
    total: Arc<AtomicU64>,
}

impl SentSizes {
    pub(crate) fn new(total: Arc<AtomicU64>) -> Self {
        Self { sizes: MessageSizes::default(), total }
    }

    pub(crate) fn add(&mut self, data: &[u8]) {
        self.sizes.add(data);
        self.total.store(self.sizes.total(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_measured_however_they_are_cut() {
        let mut stream = Vec::new();
        for length in [0_u32, 1, 300, 0, 7] {
            stream.push(0);
            stream.extend(length.to_be_bytes());
            stream.extend(std::iter::repeat_n(b'x', length as usize));
        }
        for part in 1..=stream.len() {
            let mut sizes = MessageSizes::default();
            stream.chunks(part).for_each(|data| sizes.add(data));
            assert_eq!(sizes.total(), 308, "cut at {part}");
        }
    }
}
