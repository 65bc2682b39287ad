//! What can go wrong with a server's life.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use hither_core::ServiceName;

use crate::error::BoxError;

/// Why a server could not be started, or ended other than by its signal.
///
/// Display is one line and does not repeat the [`source`](StdError::source).
#[derive(Debug)]
#[non_exhaustive]
pub enum LifecycleError {
    /// The builder was given something that cannot be used: a bad service name, an address that no client can
    /// call, no service at all.
    Invalid {
        /// What, and what to do about it.
        message: String,
        /// The error that said so, if there was one.
        source: Option<BoxError>,
    },
    /// The address cannot be listened on; most often something else already does.
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The handlers for SIGTERM and Ctrl-C cannot be installed.
    Signals(io::Error),
    /// The service was not registered within the time that
    /// [`require_registration`](crate::LifecycleBuilder::require_registration) gives it.
    NotRegistered {
        /// The service.
        service: ServiceName,
        /// Why not.
        source: hither_core::Error,
    },
    /// The server that the closure built could not be built, or failed.
    Server(BoxError),
}

impl LifecycleError {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), source: None }
    }
}

impl fmt::Display for LifecycleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { message, .. } => f.write_str(message),
            Self::Bind { address, .. } => write!(f, "cannot listen on {address}"),
            Self::Signals(_) => f.write_str("cannot handle the signals that end a server"),
            Self::NotRegistered { service, .. } => write!(f, "{service} could not be registered"),
            Self::Server(_) => f.write_str("the server failed"),
        }
    }
}

impl StdError for LifecycleError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Invalid { source, .. } => source.as_deref().map(|source| source as _),
            Self::Bind { source, .. } | Self::Signals(source) => Some(source),
            Self::NotRegistered { source, .. } => Some(source),
            Self::Server(source) => Some(source.as_ref()),
        }
    }
}
