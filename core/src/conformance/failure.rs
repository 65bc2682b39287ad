//! Why a behaviour failed.

use std::fmt;

use crate::{Error, ErrorKind};

/// What a backend did instead of what it must do.
#[derive(Debug, Clone)]
pub struct Failure(String);

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(format!("unexpected error: {}", error.report()))
    }
}

/// Fails with `otherwise` unless the condition holds.
pub(super) fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(Failure(otherwise())) }
}

/// Fails unless `result` is an error of one of these kinds.
pub(super) fn expect_kind<T>(
    result: crate::Result<T>,
    kinds: &[ErrorKind],
    what: &str,
) -> Result<(), Failure> {
    match result {
        Err(error) if kinds.contains(&error.kind()) => Ok(()),
        Err(error) => Err(Failure(format!("{what} returned {}; expected {kinds:?}", error.report()))),
        Ok(_) => Err(Failure(format!("{what} succeeded; expected {kinds:?}"))),
    }
}

/// Fails unless `result` is the error of a call that got no response: `Unavailable` or `Timeout`, and retryable.
pub(super) fn expect_no_response<T>(result: crate::Result<T>, what: &str) -> Result<(), Failure> {
    match result {
        Err(error) if is_no_response(&error) => Ok(()),
        Err(error) => Err(Failure(format!(
            "{what} returned {} (retryable: {}); expected a retryable Unavailable or Timeout",
            error.report(),
            error.is_retryable()
        ))),
        Ok(_) => Err(Failure(format!("{what} succeeded; expected Unavailable or Timeout"))),
    }
}

pub(super) fn is_no_response(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) && error.is_retryable()
}
