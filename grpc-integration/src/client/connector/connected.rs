//! A byte stream that a connector has opened.

use std::fmt;

use http::uri::Scheme;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A byte stream of any kind.
pub type BoxedIo = Box<dyn Io>;

/// A byte stream to an instance, and the scheme of the requests on it.
///
/// ```
/// use hither_tonic::Connected;
/// use http::uri::Scheme;
///
/// # fn connected(tcp: tokio::io::DuplexStream, tls: tokio::io::DuplexStream) {
/// let plain: Connected = tcp.into();
/// assert_eq!(*plain.scheme(), Scheme::HTTP);
/// let secure = Connected::new(tls).with_scheme(Scheme::HTTPS);
/// # }
/// ```
pub struct Connected {
    io: BoxedIo,
    scheme: Scheme,
}

impl Connected {
    /// Returns a plain stream, whose requests have the scheme `http`.
    pub fn new(io: impl Io) -> Self {
        Self { io: Box::new(io), scheme: Scheme::HTTP }
    }

    /// Sets the `:scheme` of requests: [`Scheme::HTTPS`] under TLS, which servers check.
    #[must_use]
    pub fn with_scheme(mut self, scheme: Scheme) -> Self {
        self.scheme = scheme;
        self
    }

    /// Returns the `:scheme` of requests.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Returns the byte stream, for connectors that wrap another one.
    pub fn into_io(self) -> BoxedIo {
        self.io
    }
}

impl<T: Io> From<T> for Connected {
    fn from(io: T) -> Self {
        Self::new(io)
    }
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}
