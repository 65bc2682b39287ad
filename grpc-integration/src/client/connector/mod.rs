//! From an instance's address to a byte stream.

mod service;
mod tcp;

use std::fmt;
use std::io;

use async_trait::async_trait;
use hither_core::{Address, Instance};
use tokio::io::{AsyncRead, AsyncWrite};

pub use service::ServiceConnector;
pub use tcp::TcpConnector;

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A byte stream of any kind.
pub type BoxedIo = Box<dyn Io>;

/// Opens byte streams to instances: for TLS, for proxies and tunnels, and for tests without sockets.
///
/// The channel speaks HTTP/2 with prior knowledge over the stream: a TLS connector must offer `h2` by ALPN
/// itself. Attempts, their timeout and their backoff belong to the channel; a connector makes ONE attempt.
///
/// A connector for tonic's `connect_with_connector` is used as it is, in a [`ServiceConnector`].
///
/// ```
/// use std::io;
/// use hither_core::{Address, Instance};
/// use hither_tonic::{BoxedIo, Connector};
///
/// /// Connects through the port forwarder that an instance names.
/// #[derive(Debug)]
/// struct Forwarded;
///
/// #[async_trait::async_trait]
/// impl Connector for Forwarded {
///     async fn connect(&self, instance: &Instance, address: &Address) -> io::Result<BoxedIo> {
///         let forwarder = instance.metadata().get("forwarder").cloned();
///         let address = forwarder.unwrap_or_else(|| address.to_string());
///         Ok(Box::new(tokio::net::TcpStream::connect(address).await?))
///     }
/// }
/// ```
#[async_trait]
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// Makes one attempt to reach `address`, which is one of the addresses of `instance`. The instance is as the
    /// registry describes it now.
    ///
    /// # Errors
    /// Whatever kept the stream from opening. The text goes into the status of calls that find no ready
    /// instance, and into the log.
    ///
    /// # Cancellation
    /// The future is dropped when the attempt has taken too long or the instance is gone.
    async fn connect(&self, instance: &Instance, address: &Address) -> io::Result<BoxedIo>;
}
