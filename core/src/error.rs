//! The error of everything between a service and its registry.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an [`Error`]: what a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Our own side was shut down: the registry handle, or the task behind it.
    Closed,
    /// The input of the caller is invalid. A retry does not help.
    InvalidArgument,
    /// The registry has data that cannot be decoded, or its response is invalid.
    InvalidData,
    /// The lease has expired, and the record with it: register again.
    LeaseExpired,
    /// The registry knows the user, who lacks a permission.
    PermissionDenied,
    /// Another owner has the id now.
    Superseded,
    /// No answer within the deadline; the outcome is unknown.
    Timeout,
    /// The registry rejects the credentials.
    Unauthenticated,
    /// The registry cannot be reached, or cannot serve now.
    Unavailable,
    /// None of the others: see the message and the source.
    Unexpected,
    /// This backend does not support the operation.
    Unsupported,
}

impl ErrorKind {
    /// Whether a retry may succeed, unless the error states otherwise.
    fn retryable_by_default(self) -> bool {
        matches!(self, Self::LeaseExpired | Self::Timeout | Self::Unavailable | Self::Unexpected)
    }

    pub(crate) fn text(self) -> &'static str {
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

/// An error: its kind, whether a retry may succeed, the operation, and the source.
///
/// Cheap to clone: one failure may have many receivers. [`Display`](fmt::Display) is one line and does not repeat
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
    /// Returns an error of `kind`; line breaks in `message` become spaces. Whether it is retryable follows from the
    /// kind, unless set by [`with_retryable`](Self::with_retryable).
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

    /// Returns the error for a panic in code of the program, which may not come again.
    pub(crate) fn panicked(panic: &str) -> Self {
        Self::new(ErrorKind::Unexpected, format!("panic: {panic}")).with_retryable(true)
    }

    /// Sets the operation that failed, such as `"register"`.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        Arc::make_mut(&mut self.0).operation = Some(operation);
        self
    }

    /// Sets whether a retry may succeed. It is stored, not derived from the kind: with an expired token a retry may
    /// succeed, with a wrong password it cannot.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        Arc::make_mut(&mut self.0).retryable = retryable;
        self
    }

    /// Sets the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Arc::new(source));
        self
    }

    /// The kind: what a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether a retry may succeed.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The operation that failed, if set.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The message alone, without operation and kind.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns this error and its sources in one line: see [`report`].
    pub fn report(&self) -> String {
        report(self)
    }
}

/// Returns any error and its sources in one line, for a log or a person. A source whose text is in the line already is
/// left out, because many libraries print their source too.
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
        if !has_segment(&text, &line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        source = error.source();
    }
    text
}

/// Whether `line` is one of the parts of `text`, or several in a row, that are separated by `": "`.
fn has_segment(text: &str, line: &str) -> bool {
    text.match_indices(line).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + line.len()..]);
        (before.is_empty() || before.ends_with(": ")) && (after.is_empty() || after.starts_with(": "))
    })
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

    #[test]
    fn a_report_repeats_no_text() {
        #[derive(Debug)]
        struct Chain(&'static str, Option<Box<Chain>>);

        impl fmt::Display for Chain {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }

        impl StdError for Chain {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                self.1.as_deref().map(|source| source as _)
            }
        }

        let chain = |lines: &[&'static str]| {
            let link = |inner, line: &&'static str| Some(Box::new(Chain(line, inner)));
            *lines.iter().rev().fold(None, link).unwrap()
        };
        for (lines, expected) in [
            (
                &["tcp connect error", "transport error", "tcp connect error"][..],
                "tcp connect error: transport error",
            ),
            (&["a", "b: c", "c", "d"], "a: b: c: d"),
            (&["a: b: c", "b", "b: c", "c"], "a: b: c"),
            (&["connect", "connect error", "error"], "connect: connect error: error"),
            (&["a", ""], "a: "),
        ] {
            assert_eq!(report(&chain(lines)), expected, "{lines:?}");
        }
    }
}
