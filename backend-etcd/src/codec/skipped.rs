//! Records that cannot be decoded: skipped, counted, and logged once each.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Undecodable;

/// How many versions of records are remembered as logged, at least; at most twice that many.
const REMEMBERED: usize = 32_768;

/// The records that one registry has skipped.
#[derive(Debug, Default)]
pub(crate) struct Skipped {
    count: AtomicU64,
    seen: Mutex<Seen>,
}

/// Two generations: the newer ones, and those before, which are forgotten as a whole.
#[derive(Debug, Default)]
struct Seen {
    new: HashSet<u64>,
    old: HashSet<u64>,
}

impl Seen {
    /// Returns whether it is seen for the first time, as far as that is remembered.
    fn insert(&mut self, hash: u64) -> bool {
        if self.new.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.new);
        }
        !self.old.contains(&hash) && self.new.insert(hash)
    }
}

impl Skipped {
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Notes that the version `mod_revision` of `key` was skipped.
    pub(crate) fn note(&self, key: &[u8], mod_revision: i64, why: &Undecodable) {
        let mut hasher = DefaultHasher::new();
        (key, mod_revision).hash(&mut hasher);
        let is_new = self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(hasher.finish());
        if is_new {
            self.count.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(key = %String::from_utf8_lossy(key), cause = %why, "undecodable record skipped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;
    use crate::codec::{Codec, Reading};

    #[test]
    fn each_version_of_a_record_counts_once() {
        let Reading::Undecodable(why) =
            Codec::new(Layout::EtcdNaming, "", false).read(&"svc".parse().unwrap(), b"a", b"{}")
        else {
            panic!("it has no address")
        };
        let skipped = Skipped::default();
        for (key, revision) in [("a", 1), ("a", 1), ("a", 2), ("b", 1)] {
            skipped.note(key.as_bytes(), revision, &why);
        }
        assert_eq!(skipped.count(), 3);
        // More than fit, listed again and again.
        for _ in 0..3 {
            for revision in 0..40_000 {
                skipped.note(b"c", revision, &why);
            }
        }
        assert_eq!(skipped.count(), 40_003);
    }
}
