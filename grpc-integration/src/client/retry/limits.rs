//! What bounds the retries and hedges of a channel.

use super::budget::Balance;
use super::throttling::Tokens;

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

    /// A call was answered.
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

    /// Returns whether one more attempt may be made, which is then taken out of the budget.
    pub(crate) fn withdraw(&self) -> bool {
        !self.is_throttled() && self.budget.withdraw()
    }

    /// Returns whether too many attempts have failed.
    fn is_throttled(&self) -> bool {
        self.tokens.as_ref().is_some_and(Tokens::are_few)
    }
}
