//! From an address to a byte stream.

mod tcp;

use std::fmt;
use std::io;

use async_trait::async_trait;
use hither_core::Address;
use tokio::io::{AsyncRead, AsyncWrite};

pub use tcp::TcpConnector;

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A byte stream of any kind.
pub type BoxedIo = Box<dyn Io>;

/// Opens byte streams to addresses: for TLS, for proxies and tunnels, and for tests without sockets.
///
/// The channel speaks HTTP/2 over what comes out, without a negotiation: a TLS connector must offer `h2` by
/// ALPN itself. Attempts, their timeout and their backoff are the channel's; a connector makes ONE attempt.
///
/// ```
/// use std::io;
/// use hither_core::Address;
/// use hither_tonic::{BoxedIo, Connector};
///
/// /// Everything through one port forwarder.
/// #[derive(Debug)]
/// struct Forwarded;
///
/// #[async_trait::async_trait]
/// impl Connector for Forwarded {
///     async fn connect(&self, _address: &Address) -> io::Result<BoxedIo> {
///         Ok(Box::new(tokio::net::TcpStream::connect("127.0.0.1:9000").await?))
///     }
/// }
/// ```
#[async_trait]
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// One attempt to reach `address`.
    ///
    /// # Errors
    /// Whatever kept the stream from opening; its text goes into the status of calls that find no instance.
    ///
    /// # Cancellation
    /// The future is dropped when the attempt has taken too long or the instance is gone.
    async fn connect(&self, address: &Address) -> io::Result<BoxedIo>;
}
