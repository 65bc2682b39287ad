//! The retry budget: how many of a channel's calls may be sent again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a call counts, and the time for which the minimum can be saved up: Finagle's default.
const WINDOW: Duration = Duration::from_secs(10);

/// How many retries and hedges all calls of a channel may cost: a share of the calls, and a few each second. Of
/// [`ChannelBuilder::retry_budget`](crate::ChannelBuilder::retry_budget).
///
/// It is what keeps retries from finishing off a service that is overloaded: when every call fails, five attempts for
/// each would be five times the load, and with the budget it is 1.2 times. The default is that of Finagle and Linkerd, 20 %
/// of the calls of the last ten seconds or so and 10 per second, and there is no channel that retries without one.
///
/// ```text
/// retries and hedges  <=  ratio × calls + min_per_second × (seconds + 10)
/// ```
///
/// A channel that makes 1,000 calls per second to three servers loses one: a third of the calls in flight fail at once,
/// and all of them can be sent again. One whose calls all fail sends 210 more each second, not 2,000 or more.
///
/// Calls count whose method has a [`RetryPolicy`](crate::RetryPolicy) or a [`HedgingPolicy`](crate::HedgingPolicy). Calls and what is left of
/// the minimum are forgotten exponentially, with a time constant of ten seconds: a quiet hour saves nothing up for an
/// outage. Transparent retries are free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    ratio: f64,
    min_per_second: f64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { ratio: 0.2, min_per_second: 10.0 }
    }
}

impl RetryBudget {
    /// Sets how many retries and hedges each call adds to the budget. At least 0 and at most 1000; default 0.2.
    #[must_use]
    pub fn with_ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets how many retries and hedges each second adds to the budget, so that channels with few calls can retry at all.
    /// At least 0 and at most 1,000,000; default 10.
    #[must_use]
    pub fn with_min_per_second(mut self, retries: f64) -> Self {
        self.min_per_second = retries;
        self
    }

    pub(super) fn check(&self) -> Result<(), String> {
        for (value, max, setting) in
            [(self.ratio, 1e3, "ratio"), (self.min_per_second, 1e6, "min_per_second")]
        {
            if !(0.0..=max).contains(&value) {
                return Err(format!("{setting} of retry_budget is {value}, not 0 to {max}"));
            }
        }
        Ok(())
    }
}

/// What is left of the budget of a channel.
#[derive(Debug)]
pub(super) struct Balance {
    config: RetryBudget,
    /// The calls since the balance was computed. So a call costs an addition, and no clock is read.
    calls: AtomicU64,
    computed: Mutex<Computed>,
}

#[derive(Debug)]
struct Computed {
    retries: f64,
    at: Instant,
}

impl Balance {
    pub(super) fn new(config: RetryBudget) -> Self {
        let retries = config.min_per_second * WINDOW.as_secs_f64();
        let computed = Mutex::new(Computed { retries, at: Instant::now() });
        Self { config, calls: AtomicU64::new(0), computed }
    }

    pub(super) fn on_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// One that was taken out was not made.
    pub(super) fn give_back(&self) {
        self.computed.lock().unwrap_or_else(PoisonError::into_inner).retries += 1.0;
    }

    /// Takes one retry out of the budget, if there is one.
    pub(super) fn withdraw(&self) -> bool {
        let mut computed = self.computed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let seconds = now.saturating_duration_since(computed.at).as_secs_f64();
        let windows = seconds / WINDOW.as_secs_f64();
        // What is added evenly over that time has been decaying since: this is left of it.
        let left = if windows > 0.0 { -(-windows).exp_m1() / windows } else { 1.0 };
        // More than 2^53 calls would be rounded.
        let calls = self.calls.swap(0, Ordering::Relaxed) as f64;
        let added = calls * self.config.ratio + seconds * self.config.min_per_second;
        let retries = computed.retries * (-windows).exp() + added * left;
        // Sums of fractions are a little less than whole.
        let granted = retries > 1.0 - 1e-9;
        *computed = Computed { retries: if granted { retries - 1.0 } else { retries }, at: now };
        granted
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn withdrawn(balance: &Balance) -> usize {
        (0..1_000_000).take_while(|_| balance.withdraw()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifth_of_the_calls_may_be_retried_and_ten_each_second() {
        let balance = Balance::new(RetryBudget::default());
        assert_eq!(withdrawn(&balance), 100, "ten seconds' worth at first");
        (0..1000).for_each(|_| balance.on_call());
        assert_eq!(withdrawn(&balance), 200);
        // Retries that are taken as soon as they can be: nothing decays meanwhile.
        let mut taken = 0;
        for _ in 0..1000 {
            advance(Duration::from_millis(10)).await;
            (0..10).for_each(|_| balance.on_call());
            taken += withdrawn(&balance);
        }
        assert!((2095..=2101).contains(&taken), "{taken} for 10,000 calls in ten seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_saved_up_is_that_of_ten_seconds() {
        let balance = Balance::new(RetryBudget::default());
        for _ in 0..36_000 {
            advance(Duration::from_millis(100)).await;
            (0..100).for_each(|_| balance.on_call());
        }
        // Computed at once for an hour as well as step by step: ten seconds of 1,000 calls and 10 retries.
        assert_eq!(withdrawn(&balance), 2100);
        for _ in 0..600 {
            advance(Duration::from_millis(100)).await;
            (0..100).for_each(|_| balance.on_call());
            let taken = balance.withdraw();
            assert!(taken);
        }
        let taken = withdrawn(&balance);
        assert!((1980..=2100).contains(&taken), "{taken}");
        advance(Duration::from_secs(3600)).await;
        assert_eq!(withdrawn(&balance), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_what_was_saved_up_is_gone_after_seven_seconds() {
        let balance = Balance::new(RetryBudget::default().with_min_per_second(0.0));
        (0..5000).for_each(|_| balance.on_call());
        assert!(balance.withdraw());
        advance(Duration::from_secs_f64(10.0 * 2_f64.ln())).await;
        assert!((499..=500).contains(&withdrawn(&balance)));
    }

    #[tokio::test(start_paused = true)]
    async fn ten_tenths_are_a_whole_retry() {
        let balance = Balance::new(RetryBudget::default().with_ratio(0.1).with_min_per_second(0.0));
        for calls in 1..=30 {
            balance.on_call();
            // 0.1, ten times added, is less than 1.
            assert_eq!(balance.withdraw(), calls % 10 == 0, "{calls} calls");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_and_far_too_much_are_settings_and_impossible_ones_are_errors() {
        let balance = Balance::new(RetryBudget::default().with_ratio(0.0).with_min_per_second(0.0));
        (0..1000).for_each(|_| balance.on_call());
        advance(Duration::from_secs(1_000_000)).await;
        assert_eq!(withdrawn(&balance), 0);
        let config = RetryBudget::default();
        for impossible in [-0.1, 1001.0, f64::NAN, f64::INFINITY] {
            config.with_ratio(impossible).check().unwrap_err();
        }
        for impossible in [-0.1, 1e7, f64::NAN] {
            config.with_min_per_second(impossible).check().unwrap_err();
        }
        config.with_ratio(1000.0).with_min_per_second(1e6).check().unwrap();
    }
}
