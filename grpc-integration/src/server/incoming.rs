//! The stream of accepted connections.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::connection::Connection;
use super::listener::Listener;

/// The connections that clients open, for tonic's `serve_with_incoming_shutdown`.
///
/// Each has `TCP_NODELAY` set, and can be cut by the [`Lifecycle`]. The stream yields no errors: those of a single
/// connection are skipped, and after one of the machine, such as too many open files, accepting pauses for a
/// moment. Dropping it closes the listening socket.
///
/// [`Lifecycle`]: crate::Lifecycle
#[derive(Debug)]
pub struct Incoming {
    listener: Listener,
    rewrite_authority: bool,
}

impl Incoming {
    pub(super) fn new(listener: Listener, rewrite_authority: bool) -> Self {
        Self { listener, rewrite_authority }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let rewrite_authority = self.rewrite_authority;
        self.listener.poll_accept(cx).map(|stream| Some(Ok(Connection::new(stream, rewrite_authority))))
    }
}
