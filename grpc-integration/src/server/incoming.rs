//! The stream of accepted connections.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::net::TcpListener;
use tokio::time::{Instant, Sleep, sleep};

use super::connection::Connection;
use super::cutter::Switch;

/// How long accepting pauses after an error that is not one connection's own, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// How long no further warning is logged after one.
const QUIET: Duration = Duration::from_secs(30);

/// The connections that clients open, for tonic's `serve_with_incoming_shutdown`.
///
/// Each has `TCP_NODELAY` set, and can be cut by the [`Lifecycle`]. The stream yields no errors: those of a single
/// connection are skipped, and after one of the machine, such as too many open files, accepting pauses for a
/// moment. Dropping it closes the listening socket.
///
/// [`Lifecycle`]: crate::Lifecycle
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    switch: Arc<Switch>,
    rewrite_authority: bool,
    pause: Option<Pin<Box<Sleep>>>,
    errors: AcceptErrors,
}

impl Incoming {
    pub(super) fn new(listener: TcpListener, switch: Arc<Switch>, rewrite_authority: bool) -> Self {
        Self { listener, switch, rewrite_authority, pause: None, errors: AcceptErrors::default() }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, peer)) => {
                    self.errors.on_success();
                    // Without it the connection is slower, but works.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%peer, cause = %error, "TCP_NODELAY not set");
                    }
                    let connection = Connection::new(stream, peer, &self.switch, self.rewrite_authority);
                    return Poll::Ready(Some(Ok(connection)));
                }
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(cause = %error, "connection lost before it was accepted");
                }
                Err(error) => {
                    self.errors.on_error(&error);
                    // Without a pause this would be a busy loop, as it is in tonic.
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
    }
}

/// Logs errors of accepting: the first at once, further ones as a count, at most one line in [`QUIET`].
#[derive(Debug, Default)]
struct AcceptErrors {
    warned: Option<Instant>,
    /// Errors since the last warning.
    count: u32,
    /// A warning was logged, and nothing was accepted since.
    failing: bool,
}

impl AcceptErrors {
    fn on_error(&mut self, error: &io::Error) {
        self.count = self.count.saturating_add(1);
        if self.warned.is_none_or(|warned| warned.elapsed() >= QUIET) {
            self.warned = Some(Instant::now());
            self.failing = true;
            let count = std::mem::take(&mut self.count);
            tracing::warn!(cause = %error, count, "cannot accept connections; retrying");
        }
    }

    fn on_success(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!("accepting connections again");
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
