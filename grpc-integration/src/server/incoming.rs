//! The connections that a server is handed.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::net::TcpListener;
use tokio::time::{Sleep, sleep};

use super::connection::Connection;
use super::cutter::{Cutter, Switch};

/// How long accepting rests after an error that is not one connection's own, such as too many open files.
const REST: Duration = Duration::from_millis(100);

/// The connections that clients open, for tonic's `serve_with_incoming_shutdown`.
///
/// It has `TCP_NODELAY` set on each, yields no errors (those of a single connection are skipped, and a shortage
/// such as too many open files is waited out), and each [`Connection`] can be cut by the [`Lifecycle`]. Dropping
/// it closes the listening socket.
///
/// [`Lifecycle`]: crate::Lifecycle
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    switch: Arc<Switch>,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    pub(super) fn new(listener: TcpListener, cutter: &Cutter) -> Self {
        Self { listener, switch: cutter.switch(), rest: None }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
                self.rest = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, peer)) => {
                    // A server that cannot have it is slower, not wrong.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%peer, %error, "TCP_NODELAY was refused");
                    }
                    return Poll::Ready(Some(Ok(Connection::new(stream, peer, &self.switch))));
                }
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "a connection was gone before it was accepted");
                }
                Err(error) => {
                    // tonic's own loop would spin on this one.
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    self.rest = Some(Box::pin(sleep(REST)));
                }
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}
