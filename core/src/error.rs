//! One error for everything between a service and its registry.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, sorted by what a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Our own side was shut down: the registry handle, or the task behind it.
    Closed,
    /// The caller's input cannot be used; repeating it will not help.
    InvalidArgument,
    /// The registry holds something that cannot be understood.
    InvalidData,
    /// The lease is gone, and the record with it: register again.
    LeaseExpired,
    /// The registry knows who we are and says no.
    PermissionDenied,
    /// Somebody else owns the id now.
    Superseded,
    /// No answer within the deadline; the outcome is unknown.
    Timeout,
    /// The registry does not accept who we say we are.
    Unauthenticated,
    /// The registry cannot be reached, or cannot serve now.
    Unavailable,
    /// None of the others; the message and the source tell.
    Unexpected,
    /// This backend cannot do that.
    Unsupported,
}

impl ErrorKind {
    /// Whether an error of this kind is worth a retry when nobody knows better.
    fn retryable_by_default(self) -> bool {
        matches!(self, Self::LeaseExpired | Self::Timeout | Self::Unavailable | Self::Unexpected)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::InvalidArgument => "invalid argument",
            Self::InvalidData => "invalid data",
            Self::LeaseExpired => "lease expired",
            Self::PermissionDenied => "permission denied",
            Self::Superseded => "superseded",
            Self::Timeout => "timed out",
            Self::Unauthenticated => "unauthenticated",
            Self::Unavailable => "unavailable",
            Self::Unexpected => "unexpected error",
            Self::Unsupported => "unsupported",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What went wrong, what the caller can do about it, and where it came from.
///
/// Cheap to clone: one failure may be told to many. [`Display`](fmt::Display) is one line and does not repeat
/// the [`source`](StdError::source); [`Error::report`] writes the whole chain.
///
/// ```
/// use hither_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Unavailable, "10.0.0.1:2379 refused the connection").with_operation("resolve");
/// assert_eq!(error.kind(), ErrorKind::Unavailable);
/// assert!(error.is_retryable());
/// assert_eq!(error.to_string(), "resolve: unavailable: 10.0.0.1:2379 refused the connection");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    retryable: bool,
    operation: Option<&'static str>,
    message: Cow<'static, str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; line breaks in `message` become spaces. Whether it is retryable follows from the
    /// kind until [`with_retryable`](Self::with_retryable) says otherwise.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let mut message = message.into();
        if message.contains(['\n', '\r']) {
            message = message
                .split(['\n', '\r'])
                .filter(|line| !line.is_empty())
                .collect::<Vec<_>>()
                .join(" ")
                .into();
        }
        Self(Arc::new(Inner {
            kind,
            retryable: kind.retryable_by_default(),
            operation: None,
            message,
            source: None,
        }))
    }

    /// Names the operation that failed, such as `"register"`.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        Arc::make_mut(&mut self.0).operation = Some(operation);
        self
    }

    /// States whether repeating the same call may succeed. It is stored, not derived from the kind: an expired
    /// token is worth another try, a wrong password is not.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        Arc::make_mut(&mut self.0).retryable = retryable;
        self
    }

    /// Keeps the error underneath.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Arc::new(source));
        self
    }

    /// What went wrong, sorted by what a caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether repeating the same call may succeed.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The operation that failed, if it was named.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The message alone, without operation and kind.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// This error and its sources in one line, for a log or a person: see [`report`].
    pub fn report(&self) -> String {
        report(self)
    }
}

/// Any error and its sources in one line, for a log or a person. What a source says that its error has said already
/// is left out.
///
/// ```
/// use hither_core::{Error, ErrorKind, report};
///
/// let cause = std::io::Error::other("connection refused");
/// let error = Error::new(ErrorKind::Unavailable, "etcd at 10.0.0.1:2379").with_source(cause);
/// assert_eq!(report(&error), "unavailable: etcd at 10.0.0.1:2379: connection refused");
/// ```
pub fn report(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let line = error.to_string();
        if !text.ends_with(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        source = error.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operation) = self.0.operation {
            write!(f, "{operation}: ")?;
        }
        write!(f, "{}", self.0.kind)?;
        if !self.0.message.is_empty() {
            write!(f, ": {}", self.0.message)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind).field("retryable", &self.0.retryable);
        if let Some(operation) = self.0.operation {
            debug.field("operation", &operation);
        }
        debug.field("message", &self.0.message);
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_and_leaves_the_source_to_the_report() {
        let io = std::io::Error::other("connection reset");
        let error = Error::new(ErrorKind::Unavailable, "etcd at\n127.0.0.1:2379")
            .with_operation("watch")
            .with_source(io);
        assert_eq!(error.to_string(), "watch: unavailable: etcd at 127.0.0.1:2379");
        assert_eq!(error.report(), "watch: unavailable: etcd at 127.0.0.1:2379: connection reset");
    }

    #[test]
    fn retryable_is_stored_not_derived() {
        let error = Error::new(ErrorKind::Unauthenticated, "token expired");
        assert!(!error.is_retryable());
        assert!(error.clone().with_retryable(true).is_retryable());
        assert!(!error.is_retryable(), "the clone does not change the original");
    }
}
