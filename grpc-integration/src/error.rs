//! The error of channels and servers, and what it is as a gRPC status.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use hither_core::{Address, ServiceName};
use tonic::{Code, Status};

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// What went wrong, sorted by what a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The address cannot be listened on; most often another process already does. The
    /// [`source`](StdError::source) is the [`std::io::Error`], [`Error::address`] the address.
    Bind,
    /// The Tokio runtime that the channel was made on is gone, or the server is shutting down or has ended.
    Closed,
    /// A builder or a target was given something that cannot be used; repeating it will not help.
    InvalidArgument,
    /// No instance of the service was ready in time.
    NotReady,
    /// The server was not registered in time, although
    /// [`require_registration`](https://docs.rs/hither-tonic/latest/hither_tonic/struct.LifecycleBuilder.html#method.require_registration)
    /// asks for that. [`Error::registry_error`] is the reason.
    NotRegistered,
    /// The registry failed: an error of hither-core's, of this kind.
    Registry(hither_core::ErrorKind),
    /// The user's own server could not be built, or failed. The [`source`](StdError::source) is its error.
    Server,
    /// The handlers for SIGTERM and Ctrl-C cannot be installed. The [`source`](StdError::source) is the
    /// [`std::io::Error`].
    Signals,
    /// None of the others: see the message and the [`source`](StdError::source).
    Unexpected,
}

impl ErrorKind {
    /// Returns the gRPC status code for an error of this kind.
    ///
    /// These are failures of the infrastructure and never of the request in whose handler they occur, so the
    /// codes that would blame that request are not used (as gRFC A54 has it for control planes): an argument
    /// that the *program* got wrong is INTERNAL and not INVALID_ARGUMENT, and a registry that refuses the
    /// *program's* credentials is INTERNAL and not PERMISSION_DENIED.
    ///
    /// | kind | code |
    /// |---|---|
    /// | `NotReady`, `NotRegistered`, `Closed` | UNAVAILABLE |
    /// | `Registry`: `Unavailable`, `LeaseExpired`, `Closed` | UNAVAILABLE |
    /// | `Registry`: `Timeout` | DEADLINE_EXCEEDED |
    /// | `Registry`: `Unsupported` | UNIMPLEMENTED |
    /// | all others | INTERNAL |
    pub fn code(self) -> Code {
        use hither_core::ErrorKind as Core;
        match self {
            Self::NotReady | Self::NotRegistered | Self::Closed => Code::Unavailable,
            Self::Registry(Core::Unavailable | Core::LeaseExpired | Core::Closed) => Code::Unavailable,
            Self::Registry(Core::Timeout) => Code::DeadlineExceeded,
            Self::Registry(Core::Unsupported) => Code::Unimplemented,
            Self::Registry(_)
            | Self::Bind
            | Self::InvalidArgument
            | Self::Server
            | Self::Signals
            | Self::Unexpected => Code::Internal,
        }
    }
}

/// What went wrong with a channel or a server.
///
/// Cheap to clone. [`Display`](fmt::Display) is one line and does not repeat the [`source`](StdError::source);
/// [`report`](Self::report) writes the whole chain. Errors of the registry become one by `?`, and any becomes
/// the [`Status`] with the code of its [kind](ErrorKind::code):
///
/// ```
/// use hither_tonic::{Error, ErrorKind};
/// use tonic::{Code, Status};
///
/// /// Inside a handler that looks something up in the registry.
/// fn handler(found: hither_core::Result<u32>) -> Result<u32, Status> {
///     Ok(found.map_err(Error::from)?)
/// }
///
/// let down = hither_core::Error::new(hither_core::ErrorKind::Unavailable, "connection refused");
/// assert_eq!(handler(Err(down)).unwrap_err().code(), Code::Unavailable);
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    service: Option<ServiceName>,
    address: Option<Address>,
    source: Option<Source>,
}

#[derive(Clone)]
enum Source {
    Other(Arc<dyn StdError + Send + Sync>),
    /// This error is that one: its line and its sources are ours.
    Registry(hither_core::Error),
}

#[cfg_attr(
    not(all(feature = "client", feature = "server")),
    allow(dead_code, reason = "each side has its own")
)]
impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self(Arc::new(Inner { kind, message, service: None, address: None, source: None }))
    }

    pub(crate) fn invalid_argument(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// Returns the error for a setting that could not be parsed. An error of hither-core names what is invalid, so it is
    /// returned as it is; any other becomes the source of `message`.
    pub(crate) fn invalid_setting(message: &'static str, error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<hither_core::Error>() {
            Ok(error) => Self::from(*error),
            Err(error) => Self::invalid_argument(message).with_source(error),
        }
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Source::Other(source.into().into()));
        self
    }

    pub(crate) fn with_service(mut self, service: ServiceName) -> Self {
        Arc::make_mut(&mut self.0).service = Some(service);
        self
    }

    pub(crate) fn with_address(mut self, address: impl Into<Address>) -> Self {
        Arc::make_mut(&mut self.0).address = Some(address.into());
        self
    }
}

impl Error {
    /// Returns what went wrong, sorted by what a caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns whether the same call may succeed when it is repeated.
    pub fn is_retryable(&self) -> bool {
        match (&self.0.source, self.0.kind) {
            (Some(Source::Registry(error)), _) => error.is_retryable(),
            (_, kind) => matches!(kind, ErrorKind::NotReady | ErrorKind::NotRegistered),
        }
    }

    /// Returns the service that was not ready or not registered.
    pub fn service(&self) -> Option<&ServiceName> {
        self.0.service.as_ref()
    }

    /// Returns the address that could not be listened on.
    pub fn address(&self) -> Option<&Address> {
        self.0.address.as_ref()
    }

    /// Returns the registry's error behind this one.
    pub fn registry_error(&self) -> Option<&hither_core::Error> {
        match self.0.source.as_ref()? {
            Source::Registry(error) => Some(error),
            Source::Other(source) => source.downcast_ref(),
        }
    }

    /// Returns this error and its sources in one line, for a log or a person: see [`hither_core::report`].
    pub fn report(&self) -> String {
        hither_core::report(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.source {
            Some(Source::Registry(error)) => error.fmt(f),
            _ => f.write_str(&self.0.message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind);
        match &self.0.source {
            Some(Source::Registry(error)) => debug.field("source", error),
            Some(Source::Other(source)) => debug.field("message", &self.0.message).field("source", source),
            None => debug.field("message", &self.0.message),
        };
        debug.finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self.0.source.as_ref()? {
            Source::Registry(error) => error.source(),
            Source::Other(source) => Some(source.as_ref()),
        }
    }
}

/// The error of the registry itself, of kind [`Registry`](ErrorKind::Registry); an `InvalidArgument` is one of
/// ours.
impl From<hither_core::Error> for Error {
    fn from(error: hither_core::Error) -> Self {
        let kind = match error.kind() {
            hither_core::ErrorKind::InvalidArgument => ErrorKind::InvalidArgument,
            kind => ErrorKind::Registry(kind),
        };
        let source = Some(Source::Registry(error));
        Self(Arc::new(Inner { kind, message: Cow::Borrowed(""), service: None, address: None, source }))
    }
}

/// The status with the [code](ErrorKind::code) of the kind, the [report](Error::report) as its message, and
/// the error as its source.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut status = Self::new(error.kind().code(), error.report());
        status.set_source(Arc::new(error));
        status
    }
}

#[cfg(test)]
mod tests {
    use hither_core::ErrorKind as Core;

    use super::*;

    #[test]
    fn every_kind_has_its_status_code() {
        for (kind, code) in [
            (ErrorKind::Bind, Code::Internal),
            (ErrorKind::Closed, Code::Unavailable),
            (ErrorKind::InvalidArgument, Code::Internal),
            (ErrorKind::NotReady, Code::Unavailable),
            (ErrorKind::NotRegistered, Code::Unavailable),
            (ErrorKind::Server, Code::Internal),
            (ErrorKind::Signals, Code::Internal),
            (ErrorKind::Unexpected, Code::Internal),
            (ErrorKind::Registry(Core::Closed), Code::Unavailable),
            (ErrorKind::Registry(Core::InvalidData), Code::Internal),
            (ErrorKind::Registry(Core::LeaseExpired), Code::Unavailable),
            (ErrorKind::Registry(Core::PermissionDenied), Code::Internal),
            (ErrorKind::Registry(Core::Superseded), Code::Internal),
            (ErrorKind::Registry(Core::Timeout), Code::DeadlineExceeded),
            (ErrorKind::Registry(Core::Unauthenticated), Code::Internal),
            (ErrorKind::Registry(Core::Unavailable), Code::Unavailable),
            (ErrorKind::Registry(Core::Unexpected), Code::Internal),
            (ErrorKind::Registry(Core::Unsupported), Code::Unimplemented),
        ] {
            assert_eq!(kind.code(), code, "{kind:?}");
            let error = match kind {
                ErrorKind::Registry(kind) => hither_core::Error::new(kind, "why").into(),
                kind => Error::new(kind, "why"),
            };
            assert_eq!(error.kind(), kind);
            assert_eq!(Status::from(error).code(), code, "{kind:?}");
        }
    }

    #[test]
    fn an_error_of_the_registry_reads_as_it_did_there() {
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let core = hither_core::Error::new(Core::Unavailable, "etcd at 10.0.0.1:2379").with_source(io);
        let error = Error::from(core.clone());
        assert_eq!(error.to_string(), core.to_string());
        assert_eq!(error.report(), core.report());
        assert!(error.is_retryable());
        assert!(!Error::from(core.with_retryable(false)).is_retryable(), "it is stored, not derived");
        assert_eq!(error.registry_error().map(hither_core::Error::kind), Some(Core::Unavailable));
        let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        assert_eq!(source.map(std::io::Error::kind), Some(std::io::ErrorKind::ConnectionRefused));
    }

    #[test]
    fn a_status_has_the_whole_report_and_the_error_as_its_source() {
        let cause = hither_core::Error::new(Core::Timeout, "no answer");
        let status = Status::from(Error::new(ErrorKind::NotReady, "no instance is ready").with_source(cause));
        assert_eq!(status.message(), "no instance is ready: timed out: no answer");
        let error = status.source().and_then(|source| source.downcast_ref::<Error>()).unwrap();
        assert_eq!(error.registry_error().map(hither_core::Error::kind), Some(Core::Timeout));
    }
}
