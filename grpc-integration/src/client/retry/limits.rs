//! What bounds the retries and hedges of a channel.

use super::budget::Balance;
use super::throttling::Tokens;

/// An attempt that was taken out of the budget. Dropping it gives it back, unless it was spent.
#[derive(Debug)]
#[must_use = "dropping it gives it back"]
pub(crate) struct Withdrawal<'a>(Option<&'a Balance>);

impl Withdrawal<'_> {
    /// The attempt was made.
    pub(crate) fn spend(mut self) {
        self.0 = None;
    }
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        if let Some(budget) = self.0 {
            budget.give_back();
        }
    }
}

/// What bounds the retries and hedges of a channel: the budget, and the tokens if it is throttled too.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(super) budget: Balance,
    pub(super) tokens: Option<Tokens>,
}

impl Limits {
    /// A call begins that may be retried or hedged.
    pub(crate) fn on_call(&self) {
        self.budget.on_call();
    }

    /// Whether successes count.
    pub(crate) fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// A call has ended with OK.
    pub(crate) fn on_success(&self) {
        if let Some(tokens) = &self.tokens {
            tokens.on_success();
        }
    }

    /// An attempt has failed that would be retried.
    pub(crate) fn on_failure(&self) {
        if let Some(tokens) = &self.tokens {
            tokens.on_failure();
        }
    }

    /// Takes one more attempt out of the budget, if it may be made.
    pub(crate) fn withdraw(&self) -> Option<Withdrawal<'_>> {
        (!self.is_throttled() && self.budget.withdraw()).then(|| Withdrawal(Some(&self.budget)))
    }

    /// Returns whether too many attempts have failed.
    fn is_throttled(&self) -> bool {
        self.tokens.as_ref().is_some_and(Tokens::are_few)
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::RetryBudget;
    use super::super::throttling::RetryThrottling;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_throttled_or_given_back_costs_nothing_of_the_budget() {
        let one = RetryBudget::default().with_ratio(0.0).with_min_per_second(0.1);
        let tokens = Some(Tokens::new(RetryThrottling::new(2, 1.0)));
        let limits = Limits { budget: Balance::new(one), tokens };
        limits.on_failure();
        assert!(limits.withdraw().is_none(), "one of two tokens is left");
        limits.on_success();
        drop(limits.withdraw().unwrap());
        limits.withdraw().unwrap().spend();
        assert!(limits.withdraw().is_none());
    }
}
