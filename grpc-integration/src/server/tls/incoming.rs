//! The stream of accepted connections over TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::super::listener::Listener;
use super::super::plain::PlainConfig;
use super::{Handshakes, TlsConnection};

/// The connections that clients open, after their TLS handshake, for tonic's `serve_with_incoming_shutdown`: see
/// [`Lifecycle::serve_tls`](crate::Lifecycle::serve_tls).
///
/// The stream yields no errors: connections whose handshake fails are skipped. Dropping it closes the listening socket,
/// and the connections whose handshake is pending.
#[derive(Debug)]
pub struct TlsIncoming {
    listener: Listener,
    handshakes: Handshakes,
    config: PlainConfig,
}

impl TlsIncoming {
    pub(in crate::server) fn new(listener: Listener, handshakes: Handshakes, config: PlainConfig) -> Self {
        Self { listener, handshakes, config }
    }
}

impl Stream for TlsIncoming {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { listener, handshakes, config } = &mut *self;
        let stream = handshakes.poll_next(listener, cx);
        stream.map(|stream| Some(Ok(TlsConnection::new(stream, *config))))
    }
}
