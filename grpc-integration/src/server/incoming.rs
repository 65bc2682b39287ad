//! The stream of accepted connections.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::connection::Connection;
use super::listener::Listener;
use super::plain::PlainConfig;
#[cfg(feature = "tls")]
use super::tls::{Handshakes, TlsConnection};

/// The connections that clients open, for tonic's `serve_with_incoming_shutdown`.
///
/// Each has `TCP_NODELAY` set, and can be cut by the [`Lifecycle`]. The stream yields no errors: those of a single
/// connection are skipped, and after one of the machine, such as too many open files, accepting pauses for a
/// moment. Under [`tls`](crate::LifecycleBuilder::tls) a connection comes after its handshake. Dropping it closes the
/// listening socket.
///
/// [`Lifecycle`]: crate::Lifecycle
#[derive(Debug)]
pub struct Incoming {
    listener: Listener,
    #[cfg(feature = "tls")]
    handshakes: Option<Handshakes>,
    config: PlainConfig,
}

impl Incoming {
    pub(super) fn new(listener: Listener, config: PlainConfig) -> Self {
        Self {
            listener,
            #[cfg(feature = "tls")]
            handshakes: None,
            config,
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn with_tls(mut self, handshakes: Option<Handshakes>) -> Self {
        self.handshakes = handshakes;
        self
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let config = self.config;
        #[cfg(feature = "tls")]
        if let Self { listener, handshakes: Some(handshakes), .. } = &mut *self {
            let stream = handshakes.poll_next(listener, cx);
            let connection = stream.map(|stream| TlsConnection::new(stream, config));
            return connection.map(|connection| Some(Ok(Connection::tls(connection))));
        }
        self.listener.poll_accept(cx).map(|stream| Some(Ok(Connection::new(stream, config))))
    }
}
