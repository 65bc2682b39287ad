//! Accepts connections.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::cut_stream::CutStream;
use super::cutter::Switch;
use super::socket::Socket;

/// How long accepting pauses after an error that is not one connection's own, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// How long no further warning is logged after one.
const QUIET: Duration = Duration::from_secs(30);

/// A listening socket. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    switch: Arc<Switch>,
    pause: Option<Pin<Box<Sleep>>>,
    errors: AcceptErrors,
}

impl Listener {
    pub(super) fn new(socket: Socket, switch: Arc<Switch>) -> Self {
        Self { socket, switch, pause: None, errors: AcceptErrors::default() }
    }

    /// Completes with the next connection. Errors of a single one are skipped, and after one of the machine, such as
    /// too many open files, accepting pauses for a moment.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<CutStream> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.socket.poll_accept(cx)) {
                Ok((stream, peer)) => {
                    self.errors.on_success();
                    // Without it the connection is slower, but works.
                    if let Err(error) = stream.set_nodelay() {
                        tracing::debug!(%peer, cause = %error, "TCP_NODELAY not set");
                    }
                    return Poll::Ready(CutStream::new(stream, peer, &self.switch));
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

/// Whether the next connection may be accepted at once. Those of the network are, by accept(2), errors that the new
/// connection had already. EPERM and EOPNOTSUPP are not among them: a security policy, or a socket that does not listen,
/// may be their cause too, and then every attempt fails.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
            | ErrorKind::NetworkDown
            | ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
            | ErrorKind::TimedOut
    ) || is_without_a_kind(error)
}

/// Those of the network to which std gives no kind.
#[cfg(unix)]
fn is_without_a_kind(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::PROTO | Errno::NOPROTOOPT | Errno::HOSTDOWN))
}

#[cfg(not(unix))]
fn is_without_a_kind(_: &io::Error) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn errors_of_one_connection_are_distinguished_from_those_of_the_machine() {
        let is_skipped = |errno: Errno| is_of_one_connection(&errno.into());
        for errno in [
            Errno::CONNABORTED,
            Errno::INTR,
            Errno::NETDOWN,
            Errno::PROTO,
            Errno::NOPROTOOPT,
            Errno::HOSTDOWN,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::TIMEDOUT,
        ] {
            assert!(is_skipped(errno), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::PERM, Errno::OPNOTSUPP]
        {
            assert!(!is_skipped(errno), "{errno}");
        }
    }
}
