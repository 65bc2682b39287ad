//! A percentile of recent latencies, in bounded memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between a power of two and the next one: a bucket is 6 % of its value at most.
const PARTS: u64 = 16;
const PART_BITS: u32 = PARTS.ilog2();
/// Microseconds up to 2^32, which is 71 minutes; what is longer counts as that.
const LONGEST: u64 = u32::MAX as u64;
const BUCKETS: usize = (32 - PART_BITS as usize + 1) * PARTS as usize;
/// Fewer tell nothing.
const LEAST: u64 = 100;
/// All counts are halved at so many, and each minute.
const MOST: u64 = 4096;
const HALVED_EVERY: Duration = Duration::from_secs(60);
/// The percentile is computed anew when one in so many is new.
const COMPUTED_EVERY: u64 = 16;

/// The latencies of a method.
#[derive(Debug)]
pub(super) struct Latencies {
    share: f64,
    histogram: Mutex<Histogram>,
    /// In microseconds; 0: not known yet.
    percentile: AtomicU64,
}

impl Latencies {
    pub(super) fn new(share: f64) -> Self {
        Self { share, histogram: Mutex::new(Histogram::new()), percentile: AtomicU64::new(0) }
    }

    pub(super) fn percentile(&self) -> Option<Duration> {
        match self.percentile.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    pub(super) fn record(&self, latency: Duration) {
        let mut histogram = self.histogram.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.record(latency);
        if histogram.total >= LEAST && histogram.new * COMPUTED_EVERY >= histogram.total {
            histogram.new = 0;
            self.percentile.store(histogram.percentile(self.share), Ordering::Relaxed);
        }
    }
}

/// How many latencies were how long: log-linear buckets, of which old ones decay.
#[derive(Debug)]
struct Histogram {
    counts: Vec<u32>,
    total: u64,
    /// Those since the percentile was computed.
    new: u64,
    halved: Instant,
}

impl Histogram {
    fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, new: 0, halved: Instant::now() }
    }

    fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LONGEST).min(LONGEST);
        if let Some(count) = self.counts.get_mut(bucket(micros)) {
            *count += 1;
        }
        (self.total, self.new) = (self.total + 1, self.new + 1);
        // What is left must be enough.
        if self.total >= MOST || self.total >= 2 * LEAST && self.halved.elapsed() >= HALVED_EVERY {
            // What is left over by one goes to the next, so that rare long ones are neither kept nor forgotten.
            let mut over = 0;
            for count in &mut self.counts {
                (*count, over) = ((*count + over) / 2, (*count + over) % 2);
            }
            self.total /= 2;
            self.halved = Instant::now();
        }
    }

    /// Returns the microseconds within which this share of the latencies are.
    fn percentile(&self, share: f64) -> u64 {
        let within = (self.total as f64 * share).ceil() as u64;
        let mut passed = 0;
        let found = self.counts.iter().position(|count| {
            passed += u64::from(*count);
            passed >= within
        });
        end(found.unwrap_or(BUCKETS - 1))
    }
}

/// Returns the bucket of a latency.
fn bucket(micros: u64) -> usize {
    let exponent = (micros | 1).ilog2();
    let index = match exponent.checked_sub(PART_BITS) {
        None => micros,
        Some(shift) => u64::from(shift) * PARTS + (micros >> shift),
    };
    usize::try_from(index).unwrap_or(BUCKETS)
}

/// Returns the end of a bucket.
fn end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    match (bucket / PARTS).checked_sub(1) {
        None => bucket + 1,
        Some(shift) => (bucket % PARTS + PARTS + 1) << shift,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[test]
    fn buckets_are_six_percent_wide_and_cover_all_latencies() {
        let mut random = fastrand::Rng::with_seed(3);
        assert_eq!(bucket(LONGEST), BUCKETS - 1);
        for _ in 0..100_000 {
            let micros = u64::from(random.u32(..) >> random.u32(..32));
            let end = end(bucket(micros));
            assert!(micros < end, "{micros} is in a bucket that ends at {end}");
            assert!(end - 1 <= micros + micros / PARTS, "{micros} is in a bucket that ends at {end}");
        }
    }

    /// A uniform distribution, whose percentiles are known.
    fn record(latencies: &Latencies, random: &mut fastrand::Rng, count: usize, longest: Duration) {
        (0..count).for_each(|_| latencies.record(longest.mul_f64(random.f64())));
    }

    #[tokio::test(start_paused = true)]
    async fn the_percentile_is_that_of_the_distribution_and_is_not_known_before_a_hundred() {
        for share in [0.5_f64, 0.9, 0.95, 0.99] {
            let (latencies, mut random) = (Latencies::new(share), fastrand::Rng::with_seed(1));
            record(&latencies, &mut random, 99, Duration::from_secs(1));
            assert_eq!(latencies.percentile(), None);
            record(&latencies, &mut random, 10_000, Duration::from_secs(1));
            let percentile = latencies.percentile().unwrap().as_secs_f64();
            // Five standard deviations of a quantile of 2,000, and the width of a bucket.
            let deviation = 5.0 * (share * (1.0 - share) / 2000.0).sqrt();
            assert!(
                percentile > share - deviation && percentile < (share + deviation) * 1.07,
                "{percentile}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_latencies_that_change() {
        let (latencies, mut random) = (Latencies::new(0.95), fastrand::Rng::with_seed(1));
        record(&latencies, &mut random, 10_000, Duration::from_secs(1));
        record(&latencies, &mut random, 20_000, Duration::from_millis(10));
        let percentile = latencies.percentile().unwrap();
        assert!(percentile < Duration::from_millis(11), "{percentile:?}");
        // A method with few calls forgets by time.
        record(&latencies, &mut random, 3000, Duration::from_secs(1));
        for _ in 0..15 * 60 {
            advance(Duration::from_secs(1)).await;
            latencies.record(Duration::from_millis(random.u64(0..20)));
        }
        let percentile = latencies.percentile().unwrap();
        assert!(percentile < Duration::from_millis(22), "{percentile:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_of_whole_calls_and_computed_when_one_in_sixteen_is_new() {
        let (short, long) = (Duration::from_millis(1), Duration::from_secs(1));
        // One of a hundred is slow.
        for (share, is_slow) in [(0.99, false), (0.995, true)] {
            let latencies = Latencies::new(share);
            (0..99).for_each(|_| latencies.record(short));
            latencies.record(long);
            assert_eq!(latencies.percentile().unwrap() > long, is_slow, "{share}");
        }
        let latencies = Latencies::new(0.99);
        (0..100).for_each(|_| latencies.record(short));
        (0..6).for_each(|_| latencies.record(long));
        assert!(latencies.percentile().unwrap() < 2 * short, "six are less than one in sixteen");
        latencies.record(long);
        assert!(latencies.percentile().unwrap() > long);
    }

    #[tokio::test(start_paused = true)]
    async fn a_method_with_few_calls_keeps_enough_of_them() {
        let latencies = Latencies::new(0.95);
        let total = || latencies.histogram.lock().unwrap().total;
        (0..150).for_each(|_| latencies.record(Duration::from_millis(1)));
        advance(10 * HALVED_EVERY).await;
        (0..20).for_each(|_| latencies.record(Duration::from_secs(1)));
        assert!(latencies.percentile().unwrap() > Duration::from_secs(1), "it goes on being computed");
        assert_eq!(total(), 170);
        // Halved once for each minute, and not by each call after one.
        (0..1000).for_each(|_| latencies.record(Duration::from_secs(1)));
        assert_eq!(total(), 100 + 970);
    }

    #[tokio::test(start_paused = true)]
    async fn counts_and_times_are_bounded() {
        let latencies = Latencies::new(0.95);
        for latency in [Duration::ZERO, Duration::MAX, Duration::from_secs(1)] {
            (0..20_000).for_each(|_| latencies.record(latency));
        }
        assert!(latencies.histogram.lock().unwrap().total <= MOST);
        assert!(latencies.percentile().is_some());
    }
}
