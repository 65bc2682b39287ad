//! How far a call has come.

use std::fmt;

use super::attempt::Attempt;
use crate::client::transport::Sending;

/// How far a call has come: the message when its deadline is exceeded.
#[derive(Debug)]
pub(super) enum Progress {
    Picking,
    /// No instance was ready, for this reason.
    Waiting(String),
    /// No connection had capacity.
    Full,
    /// A server has refused it, and it is to be sent again.
    Refused,
    /// Without the future of its response once that has ended.
    Sent(Option<Sending>, Attempt),
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Picking => f.write_str("no instance was picked"),
            Self::Waiting(reason) => f.write_str(reason),
            Self::Full => f.write_str("no connection has room for it"),
            Self::Refused => f.write_str("it was to be sent again"),
            Self::Sent(_, attempt) => write!(f, "no answer from {}", attempt.peer()),
        }
    }
}
