//! From an instance's address to a byte stream.

mod connected;
mod destination;
mod service;
mod tcp;

use std::fmt;
use std::io;

use async_trait::async_trait;

pub use connected::{BoxedIo, Connected, Io};
pub use destination::Destination;
pub use service::ServiceConnector;
pub use tcp::TcpConnector;

/// Opens byte streams to instances: for proxies and tunnels, for another TLS library, and for tests without sockets.
///
/// The channel speaks HTTP/2 with prior knowledge over the stream: a TLS connector must offer `h2` by ALPN
/// itself. Attempts, their timeout and their backoff belong to the channel; a connector makes ONE attempt.
///
/// Instances that have the same addresses are one server and share its connections, whatever metadata a connector reads.
///
/// A connector for tonic's `connect_with_connector` is used as it is, in a [`ServiceConnector`].
///
/// ```
/// use std::io;
/// use hither_tonic::{Connected, Connector, Destination};
///
/// /// Connects through the port forwarder that an instance names.
/// #[derive(Debug)]
/// struct Forwarded;
///
/// #[async_trait::async_trait]
/// impl Connector for Forwarded {
///     async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
///         let forwarder = destination.instance().metadata().get("forwarder").cloned();
///         let address = forwarder.unwrap_or_else(|| destination.address().to_string());
///         Ok(tokio::net::TcpStream::connect(address).await?.into())
///     }
/// }
/// ```
#[async_trait]
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// Makes one attempt to reach one address of an instance.
    ///
    /// # Errors
    /// Whatever kept the stream from opening. The text goes into the status of calls that find no ready
    /// instance, and into the log.
    ///
    /// # Cancellation
    /// The future is dropped when the attempt has taken too long, another address was faster, or the instance is
    /// gone.
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected>;

    /// Returns whether the channel resolves host names for this connector. Default `false`: a name may be anything
    /// that the connector understands.
    ///
    /// Where it does, each IP address of a name is an attempt of its own, with
    /// [`socket_addr`](Destination::socket_addr). A connector that wraps another one forwards this method.
    fn wants_resolved(&self) -> bool {
        false
    }
}
