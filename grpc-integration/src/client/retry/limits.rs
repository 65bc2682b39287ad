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
