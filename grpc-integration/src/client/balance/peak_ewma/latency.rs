//! The latency of one instance.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Nanoseconds since the policy was made, and one: 0 is "never".
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> u64 {
        nanoseconds(self.0.elapsed()).saturating_add(1)
    }
}

/// The latency of one instance: an average that follows a peak at once.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// The average that falls with time, as one number: the logarithm of what it would have been when the clock began. 0
    /// before the first.
    average: AtomicU64,
    /// When it was changed last.
    changed: AtomicU64,
    /// Since when no call was answered while some were in flight; 0 if none is.
    unanswered: AtomicU64,
    /// How many of its calls in flight have a response that has begun.
    responding: AtomicUsize,
    /// When the pause that it has asked for ends.
    paused: AtomicU64,
}

impl Latency {
    /// Records that it was picked, with so many calls in flight. A pick may come to nothing, so one before counts only while
    /// there are any without a response.
    pub(super) fn asked(&self, now: u64, in_flight: usize) {
        if self.waiting(in_flight) == 0 || self.unanswered.load(Ordering::Relaxed) == 0 {
            self.unanswered.store(now, Ordering::Relaxed);
        }
    }

    /// Records that the response of one of its calls has begun, of so many.
    pub(super) fn responding(&self, now: u64, in_flight: usize) {
        self.responding.fetch_add(1, Ordering::Relaxed);
        self.answered(now, in_flight);
    }

    /// Records that a call whose response had begun has ended.
    pub(super) fn responded(&self) {
        self.responding.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records a sign of life. So many calls are in flight now, but for what has ended.
    pub(super) fn answered(&self, now: u64, in_flight: usize) {
        self.unanswered.store(if self.waiting(in_flight) > 0 { now } else { 0 }, Ordering::Relaxed);
    }

    /// How many of so many calls have no response yet.
    fn waiting(&self, in_flight: usize) -> usize {
        in_flight.saturating_sub(self.responding.load(Ordering::Relaxed))
    }

    /// Records the latency of a call.
    pub(super) fn record(&self, now: u64, latency: Duration, decay: Duration) {
        // At least one, whose logarithm is 0.
        let latency = nanoseconds(latency).max(1) as f64;
        let periods = periods(now, decay);
        let before = self.changed.swap(now, Ordering::Relaxed);
        let recency = -(-self::periods(now.saturating_sub(before), decay)).exp_m1();
        let _ = self.average.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |known| {
            let next = match at(known, periods) {
                Some(average) if average > latency => average + latency * recency,
                _ => latency,
            };
            Some((next.ln() + periods).to_bits())
        });
    }

    /// Returns the latency in nanoseconds that a call is to expect; `None` if nothing is known.
    pub(super) fn expected(&self, now: u64, decay: Duration, in_flight: usize) -> Option<f64> {
        let average = at(self.average.load(Ordering::Relaxed), periods(now, decay));
        let since = self.unanswered.load(Ordering::Relaxed);
        let waited = now.saturating_sub(since) as f64;
        if self.waiting(in_flight) == 0 || since == 0 || average.is_some_and(|average| average > waited) {
            return average;
        }
        Some(waited).filter(|waited| *waited > 0.0).or(average)
    }

    /// Whether calls were faster than this.
    pub(super) fn is_exceeded_by(&self, now: u64, latency: Duration, decay: Duration) -> bool {
        let average = self.expected(now, decay, 0).unwrap_or_default();
        average < nanoseconds(latency) as f64
    }

    pub(super) fn pause(&self, now: u64, pause: Duration) {
        self.paused.store(now.saturating_add(nanoseconds(pause)), Ordering::Relaxed);
    }

    pub(super) fn is_paused(&self, now: u64) -> bool {
        now < self.paused.load(Ordering::Relaxed)
    }
}

/// Returns an average as of a time.
fn at(average: u64, periods: f64) -> Option<f64> {
    (average != 0).then(|| (f64::from_bits(average) - periods).exp())
}

/// How often an average has fallen to 1/e since then.
fn periods(nanoseconds: u64, decay: Duration) -> f64 {
    nanoseconds as f64 / decay.as_nanos() as f64
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(10);
    const MS: u64 = 1_000_000;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn is_about(number: Option<f64>, expected: f64) {
        let number = number.unwrap();
        assert!((number - expected).abs() <= 1e-6 * expected, "{number}, not {expected}");
    }

    /// The formula of Finagle and tower, on plain numbers.
    #[derive(Default)]
    struct Model {
        average: f64,
        at: u64,
    }

    impl Model {
        fn record(&mut self, now: u64, latency: f64) {
            let kept = (-((now - self.at) as f64) / 1e10).exp();
            self.average =
                if latency > self.average { latency } else { self.average * kept + latency * (1.0 - kept) };
            self.at = now;
        }
    }

    #[test]
    fn it_is_towers_average_and_falls_while_nothing_is_recorded() {
        // From the beginning, and after a year.
        for mut now in [1, 365 * 24 * 3600 * 1000 * MS] {
            let (latency, mut model) = (Latency::default(), Model::default());
            let mut random = fastrand::Rng::with_seed(1);
            for _ in 0..10_000 {
                now += random.u64(1..200 * MS);
                let most = if random.u8(..20) == 0 { 5000 * MS } else { 50 * MS };
                let took = random.u64(1..most);
                latency.record(now, Duration::from_nanos(took), DECAY);
                model.record(now, took as f64);
                is_about(latency.expected(now, DECAY, 0), model.average);
            }
            is_about(latency.expected(now + 10_000 * MS, DECAY, 0), model.average / 1_f64.exp());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_is_never() {
        assert_eq!(Clock::start().now(), 1);
    }

    #[test]
    fn an_answer_that_does_not_come_counts_as_long_as_it_has_not() {
        let latency = Latency::default();
        assert_eq!(latency.expected(5 * MS, DECAY, 0), None);
        latency.record(10 * MS, ms(2), DECAY);
        latency.asked(10 * MS, 0);
        latency.asked(500 * MS, 1);
        assert_eq!(latency.expected(1010 * MS, DECAY, 2), Some(1e9));
        latency.answered(2000 * MS, 1);
        assert_eq!(latency.expected(2100 * MS, DECAY, 1), Some(1e8));
        latency.answered(2200 * MS, 0);
        assert!(latency.expected(9000 * MS, DECAY, 0) < Some(2e6));
    }

    #[test]
    fn a_response_that_has_begun_is_an_answer() {
        let latency = Latency::default();
        latency.record(10 * MS, ms(2), DECAY);
        latency.asked(10 * MS, 0);
        latency.asked(10 * MS, 1);
        assert_eq!(latency.expected(1010 * MS, DECAY, 2), Some(1e9));
        latency.responding(1010 * MS, 2);
        assert_eq!(latency.expected(1110 * MS, DECAY, 2), Some(1e8), "a sign of life");
        assert!(latency.expected(60_000 * MS, DECAY, 1) < Some(2e6));
        // The time of the next call counts from itself, and ends with it though the first is still in flight.
        latency.asked(60_000 * MS, 1);
        assert_eq!(latency.expected(61_000 * MS, DECAY, 2), Some(1e9));
        latency.answered(61_000 * MS, 1);
        assert!(latency.expected(90_000 * MS, DECAY, 1) < Some(2e6));
        latency.responded();
        latency.asked(90_000 * MS, 0);
        assert_eq!(latency.expected(91_000 * MS, DECAY, 1), Some(1e9));
    }

    #[test]
    fn a_pick_that_came_to_nothing_is_forgotten_with_the_next() {
        let latency = Latency::default();
        latency.record(10 * MS, ms(2), DECAY);
        latency.asked(20 * MS, 0);
        assert!(latency.expected(50_000 * MS, DECAY, 0) < Some(2e6));
        latency.asked(60_000 * MS, 0);
        assert_eq!(latency.expected(60_100 * MS, DECAY, 1), Some(1e8));
    }

    /// It was not asked then, so since when the call is not answered is not known.
    #[test]
    fn a_call_that_another_instance_has_left_to_it_counts_from_the_next_one_on() {
        let latency = Latency::default();
        assert_eq!(latency.expected(60_000 * MS, DECAY, 1), None);
        latency.record(10 * MS, ms(2), DECAY);
        latency.asked(10 * MS, 0);
        latency.answered(20 * MS, 0);
        assert!(latency.expected(60_000 * MS, DECAY, 1) < Some(2e6));
        latency.asked(60_000 * MS, 1);
        assert_eq!(latency.expected(61_000 * MS, DECAY, 2), Some(1e9));
    }

    #[test]
    fn a_pause_ends_and_no_time_is_too_long_or_out_of_order() {
        let latency = Latency::default();
        assert!(!latency.is_paused(1));
        latency.pause(1000, Duration::from_nanos(2000));
        assert!(latency.is_paused(2999) && !latency.is_paused(3000));
        latency.pause(1000, Duration::MAX);
        assert!(latency.is_paused(u64::MAX - 1));
        latency.record(1000 * MS, ms(80), DECAY);
        latency.record(900 * MS, ms(10), DECAY);
        assert!(latency.expected(950 * MS, DECAY, 0).unwrap() > 7e7);
        latency.record(1001 * MS, Duration::MAX, DECAY);
        assert!(latency.expected(990 * MS, DECAY, 0).unwrap().is_finite());
        let latency = Latency::default();
        latency.record(1, Duration::ZERO, DECAY);
        assert!(latency.expected(1, DECAY, 0).is_some_and(|average| average > 0.0));
    }
}
