//! Byte streams over TCP and Unix domain sockets.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::AddressKind;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::{Connected, Connector, Destination};

/// Connects over plain TCP, or over a Unix domain socket to a `unix:` address. The default.
///
/// A peer that vanishes without closing its connections, such as a host that lost its power, is detected by TCP
/// keep-alive and by data that is not acknowledged (`TCP_USER_TIMEOUT`, where the system has it), within 20 s by
/// default.
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
    /// Sets how long a peer may owe an acknowledgement before its connection is closed. Default 20 s; rounded to
    /// whole seconds, at least 2.
    #[must_use]
    pub fn with_peer_timeout(mut self, timeout: Duration) -> Self {
        self.peer_timeout = Duration::from_secs(timeout.as_secs().max(2));
        self
    }

    fn configure(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        // The first probe after half of the time, then probes until the rest is over.
        let idle = self.peer_timeout / 2;
        let keepalive =
            TcpKeepalive::new().with_time(idle).with_interval((idle / 2).max(Duration::from_secs(1)));
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        socket.set_tcp_user_timeout(Some(self.peer_timeout))?;
        Ok(())
    }

    async fn tcp(&self, target: impl tokio::net::ToSocketAddrs) -> io::Result<Connected> {
        let stream = TcpStream::connect(target).await?;
        self.configure(&stream)?;
        Ok(stream.into())
    }
}

impl Default for TcpConnector {
    fn default() -> Self {
        Self { peer_timeout: Duration::from_secs(20) }
    }
}

#[async_trait]
impl Connector for TcpConnector {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        if let Some(address) = destination.socket_addr() {
            return self.tcp(address).await;
        }
        match destination.address().kind() {
            // For a connector that wraps this one, and does not want names resolved.
            AddressKind::Host { host, port } => self.tcp((host, port)).await,
            #[cfg(unix)]
            AddressKind::Unix(path) => Ok(tokio::net::UnixStream::connect(path).await?.into()),
            _ => {
                let error = format!("{} cannot be reached over TCP", destination.address());
                Err(io::Error::new(io::ErrorKind::Unsupported, error))
            }
        }
    }

    fn wants_resolved(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_peer_timeout_bounds_keep_alive_and_unacknowledged_data() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (timeout, rounded) in [(20_000, 20), (60_900, 60), (500, 2)] {
            let connector = TcpConnector::default().with_peer_timeout(Duration::from_millis(timeout));
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            connector.configure(&stream).unwrap();
            assert!(stream.nodelay().unwrap());
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap());
            #[cfg(target_os = "linux")]
            {
                let (timeout, idle) = (Duration::from_secs(rounded), Duration::from_secs(rounded / 2));
                assert_eq!(socket.tcp_user_timeout().unwrap(), Some(timeout));
                assert_eq!(socket.tcp_keepalive_time().unwrap(), idle);
                let interval = Duration::from_secs((rounded / 4).max(1));
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), interval);
            }
        }
    }
}
