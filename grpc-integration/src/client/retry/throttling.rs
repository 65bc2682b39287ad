//! Retry throttling: tokens that failures take and successes give back (gRFC A6).

use std::sync::atomic::{AtomicU32, Ordering};

/// One token, in the unit of the count: gRPC supports three decimal places.
const TOKEN: u32 = 1000;
const MOST_TOKENS: u32 = 1000;

/// Stops retries and hedges while the failures of a channel are too many beside its successes: gRPC's
/// `retryThrottling`, for [`ChannelBuilder::retry_throttling`](crate::ChannelBuilder::retry_throttling).
///
/// The channel has `max_tokens` at first. An attempt that fails with a retryable (or non-fatal) code, or with a pushback
/// that forbids another one, takes one token; a call that ends with OK gives `token_ratio` back. While no more than half of
/// the tokens are left nothing is retried or hedged. With 10 tokens and a ratio of 0.1, five failures in a row stop it,
/// and in the long run more than one failure for each ten successes.
///
/// Of calls whose method has no policy it knows nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryThrottling {
    max_tokens: u32,
    token_ratio: f64,
}

impl RetryThrottling {
    /// Returns the setting: `max_tokens` is at least 1 and at most 1000; `token_ratio` at least 0.001, and has three
    /// decimal places.
    pub fn new(max_tokens: u32, token_ratio: f64) -> Self {
        Self { max_tokens, token_ratio }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=MOST_TOKENS).contains(&self.max_tokens) {
            return Err(format!("max_tokens of retry_throttling is {}, not 1 to 1000", self.max_tokens));
        }
        if !(0.001..=f64::from(MOST_TOKENS)).contains(&self.token_ratio) {
            return Err(format!(
                "token_ratio of retry_throttling is {}, not 0.001 to 1000",
                self.token_ratio
            ));
        }
        Ok(())
    }
}

/// The tokens of a channel.
#[derive(Debug)]
pub(super) struct Tokens {
    max: u32,
    ratio: u32,
    left: AtomicU32,
}

impl Tokens {
    pub(super) fn new(config: RetryThrottling) -> Self {
        let max = config.max_tokens * TOKEN;
        // Small enough to be exact.
        let ratio = (config.token_ratio * f64::from(TOKEN) + 1e-6) as u32;
        Self { max, ratio, left: AtomicU32::new(max) }
    }

    pub(super) fn on_success(&self) {
        if self.left.load(Ordering::Relaxed) < self.max {
            self.change(|left| left.saturating_add(self.ratio).min(self.max));
        }
    }

    pub(super) fn on_failure(&self) {
        self.change(|left| left.saturating_sub(TOKEN));
    }

    /// Returns whether too few are left for another attempt.
    pub(super) fn are_few(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= self.max / 2
    }

    fn change(&self, change: impl Fn(u32) -> u32) {
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(change(left)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_tokens_and_less_are_few() {
        let tokens = Tokens::new(RetryThrottling::new(10, 0.1));
        for _ in 0..4 {
            tokens.on_failure();
        }
        assert!(!tokens.are_few());
        tokens.on_failure();
        assert!(tokens.are_few(), "5 of 10");
        tokens.on_success();
        assert!(!tokens.are_few(), "5.1 of 10");
        for _ in 0..20 {
            tokens.on_failure();
        }
        for _ in 0..50 {
            assert!(tokens.are_few());
            tokens.on_success();
        }
        assert!(tokens.are_few(), "5 of 10");
        tokens.on_success();
        assert!(!tokens.are_few());
        for _ in 0..1000 {
            tokens.on_success();
        }
        assert_eq!(tokens.left.into_inner(), 10 * TOKEN);
    }

    #[test]
    fn a_success_gives_back_no_more_than_failures_have_taken() {
        let tokens = Tokens::new(RetryThrottling::new(10, 1000.0));
        tokens.on_failure();
        tokens.on_success();
        for _ in 0..5 {
            assert!(!tokens.are_few());
            tokens.on_failure();
        }
        assert!(tokens.are_few(), "5 of 10");
    }

    #[test]
    fn a_ratio_has_three_decimal_places() {
        let ratio = |ratio| Tokens::new(RetryThrottling::new(1, ratio)).ratio;
        assert_eq!([0.001, 0.1, 0.3, 1.0, 0.0019, 7.0].map(ratio), [1, 100, 300, 1000, 1, 7000]);
        for (max, ratio) in
            [(0, 0.1), (1001, 0.1), (10, 0.0), (10, 0.0009), (10, -1.0), (10, f64::NAN), (10, f64::INFINITY)]
        {
            RetryThrottling::new(max, ratio).check().unwrap_err();
        }
        RetryThrottling::new(1000, 1000.0).check().unwrap();
    }
}
