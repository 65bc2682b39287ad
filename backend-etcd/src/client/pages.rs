//! Reading a range of any size: in pages of one revision.

use std::time::Duration;

use etcd_client::GetOptions;
use etcd_client::proto::PbKeyValue;
use tokio::time::Instant;

use super::{Checkout, Failure, Position, Reason};

/// Large enough that most services are one page, small enough that a page is far from the largest message. Where it is
/// not, because there are large values among the instances, the pages become smaller, and larger again.
const PAGE: i64 = 2000;

/// What a listing may take, since `more` is a claim of the server: in pages, and in bytes of keys and values. Two
/// million instances, and half of etcd's default quota.
const MOST_PAGES: usize = 1000;
const MOST_BYTES: usize = 1 << 30;

/// ... and in time, in request timeouts.
pub(super) const MOST_TIMEOUTS: u32 = 10;

impl Checkout {
    /// Gives `each` record whose key begins with `prefix`, all as of the revision that is returned.
    ///
    /// # Errors
    /// Where the revision is before `since`, or of another history; and where the server breaks the rules of paging. What
    /// `each` was given then is not a whole listing.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        since: Option<Position>,
        mut each: impl FnMut(&PbKeyValue),
    ) -> Result<Position, Failure> {
        let end = prefix_end(prefix.as_bytes());
        let mut from = prefix.as_bytes().to_vec();
        if from.is_empty() {
            from.push(0);
        }
        let mut listed: Option<Position> = None;
        let mut limit = PAGE;
        let mut budget = Budget::new(self.endpoints.request_timeout());
        loop {
            budget.take_page().map_err(|what| self.protocol_violation(what))?;
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(limit);
            if let Some(listed) = listed {
                options = options.with_revision(listed.revision);
            }
            let page = match self.range(&from, options, listed.or(since)).await {
                Ok(page) => page,
                Err(failure) if failure.reason == Reason::TooLarge && limit > 1 => {
                    limit = (limit / 100).max(1);
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            limit = PAGE.min(2 * limit);
            let listed = *listed.get_or_insert(page.position);
            budget.take_records(&page.kvs).map_err(|what| self.protocol_violation(what))?;
            page.kvs.iter().for_each(&mut each);
            if !page.more {
                return Ok(listed);
            }
            from = next_page(&from, &end, &page.kvs).map_err(|what| self.protocol_violation(what))?;
        }
    }
}

/// Where the page after the one of `kvs` begins, which began at `from`.
fn next_page(from: &[u8], end: &[u8], kvs: &[PbKeyValue]) -> Result<Vec<u8>, &'static str> {
    let Some(last) = kvs.last() else { return Err("a page is empty although the listing has more") };
    if !kvs.is_sorted_by(|a, b| a.key < b.key) || *last.key < *from {
        return Err("a page has its keys out of order");
    }
    if end != [0] && *last.key >= *end {
        return Err("a page has a key outside its range");
    }
    let mut next = last.key.clone();
    next.push(0);
    Ok(next)
}

/// What a listing has left.
struct Budget {
    pages: usize,
    bytes: usize,
    deadline: Instant,
}

impl Budget {
    fn new(request_timeout: Duration) -> Self {
        let deadline = Instant::now() + request_timeout.saturating_mul(MOST_TIMEOUTS);
        Self { pages: MOST_PAGES, bytes: MOST_BYTES, deadline }
    }

    fn take_page(&mut self) -> Result<(), &'static str> {
        self.pages = self.pages.checked_sub(1).ok_or("the listing has too many pages")?;
        if Instant::now() >= self.deadline { Err("the listing exceeded its time limit") } else { Ok(()) }
    }

    fn take_records(&mut self, kvs: &[PbKeyValue]) -> Result<(), &'static str> {
        let bytes = kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        self.bytes = self.bytes.checked_sub(bytes).ok_or("the listing exceeded its size limit")?;
        Ok(())
    }
}

/// The first key after all that begin with `prefix`; `\0` means no end.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kvs(keys: &[&str]) -> Vec<PbKeyValue> {
        let kv = |key: &&str| PbKeyValue { key: key.as_bytes().to_vec(), ..PbKeyValue::default() };
        keys.iter().map(kv).collect()
    }

    #[test]
    fn a_range_ends_right_after_its_prefix() {
        assert_eq!(prefix_end(b"svc/"), b"svc0");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff\xff"), b"\0");
        assert_eq!(prefix_end(b""), b"\0");
    }

    #[test]
    fn the_next_page_begins_after_the_last_key() {
        assert_eq!(next_page(b"svc/", b"svc0", &kvs(&["svc/a", "svc/b"])), Ok(b"svc/b\0".to_vec()));
        assert_eq!(next_page(b"\0", b"\0", &kvs(&["z"])), Ok(b"z\0".to_vec()), "no end");
    }

    #[test]
    fn a_page_that_leads_nowhere_is_an_error() {
        for keys in
            [&[][..], &["svc/a", "svc/a"], &["svc/b", "svc/a"], &["svc"], &["svc0"], &["svc/a", "svd"]]
        {
            assert!(next_page(b"svc/", b"svc0", &kvs(keys)).is_err(), "{keys:?}");
        }
        assert!(next_page(b"svc/a\0", b"svc0", &kvs(&["svc/a"])).is_err(), "the same page again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_is_bounded_in_pages_bytes_and_time() {
        let mut budget = Budget::new(Duration::from_secs(3));
        assert_eq!((0..2 * MOST_PAGES).take_while(|_| budget.take_page().is_ok()).count(), MOST_PAGES);

        let mut budget = Budget::new(Duration::from_secs(3));
        let record = [PbKeyValue { value: vec![0; MOST_BYTES / 4], ..PbKeyValue::default() }];
        assert_eq!((0..10).take_while(|_| budget.take_records(&record).is_ok()).count(), 4);

        let mut budget = Budget::new(Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(budget.take_page().is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(budget.take_page().is_err());
    }
}
