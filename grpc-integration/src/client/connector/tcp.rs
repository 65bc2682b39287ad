//! Byte streams over TCP and Unix domain sockets.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::Address;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::{BoxedIo, Connector};

/// Plain TCP, and Unix domain sockets for `unix:` addresses. The default.
///
/// Peers that vanished without a word, such as a host that lost its power, are noticed by TCP keep-alive and
/// by data that nobody acknowledges (`TCP_USER_TIMEOUT`, where the system has it), within 20 s by default.
///
/// ```
/// use std::time::Duration;
/// use hither_tonic::TcpConnector;
///
/// let connector = TcpConnector::default().with_peer_timeout(Duration::from_secs(60));
/// ```
#[derive(Debug, Clone)]
pub struct TcpConnector {
    peer_timeout: Duration,
}

impl TcpConnector {
    /// Sets how long a peer may be silent although it owes an acknowledgement, before its connection is given
    /// up. Default 20 s; it is rounded to whole seconds, at least 2.
    #[must_use]
    pub fn with_peer_timeout(mut self, timeout: Duration) -> Self {
        self.peer_timeout = Duration::from_secs(timeout.as_secs().max(2));
        self
    }

    fn configure(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        // The first probe after half of the time, and then enough of them to fill the rest.
        let idle = self.peer_timeout / 2;
        let keepalive =
            TcpKeepalive::new().with_time(idle).with_interval((idle / 2).max(Duration::from_secs(1)));
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        socket.set_tcp_user_timeout(Some(self.peer_timeout))?;
        Ok(())
    }

    async fn tcp(&self, target: impl tokio::net::ToSocketAddrs) -> io::Result<BoxedIo> {
        let stream = TcpStream::connect(target).await?;
        self.configure(&stream)?;
        Ok(Box::new(stream))
    }
}

impl Default for TcpConnector {
    fn default() -> Self {
        Self { peer_timeout: Duration::from_secs(20) }
    }
}

#[async_trait]
impl Connector for TcpConnector {
    async fn connect(&self, address: &Address) -> io::Result<BoxedIo> {
        match address {
            Address::Socket(address) => self.tcp(address).await,
            Address::Host { host, port } => self.tcp((&**host, *port)).await,
            #[cfg(unix)]
            Address::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
            other => {
                let why = format!("{other} cannot be reached over TCP");
                Err(io::Error::new(io::ErrorKind::Unsupported, why))
            }
        }
    }
}
