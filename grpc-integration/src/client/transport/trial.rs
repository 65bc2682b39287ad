//! Whether a connection has been of use.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::shared::Shared;

/// A connection on which no call was made, and that was open for as long, was of use.
const UNUSED: Duration = Duration::from_millis(100);
/// How long a connection may leave all of its calls without an answer and be of use.
const UNANSWERED: Duration = Duration::from_secs(1);

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has answered a call.
    Answered,
    /// It has not answered a call yet, and calls are in flight.
    Open,
    /// It has no call in flight, and has never answered one.
    Fruitless,
}

/// Observes whether a connection is of use, also when it takes no new calls any more. Does not keep it open.
#[derive(Debug)]
pub(crate) struct Trial {
    shared: Arc<Shared>,
    since: Instant,
}

impl Trial {
    /// Starts to observe a connection that was just made.
    pub(crate) fn of(connection: &Connection) -> Self {
        Self { shared: Arc::clone(connection.shared()), since: Instant::now() }
    }

    /// Returns whether the time until now was too short for a connection that ends now without an answer.
    ///
    /// A server may end connections after a time, so an idle one needs not live for long; and a call may be answered
    /// after hours, as a watch is that has nothing to report. Nor does it show anything of the server that callers have
    /// given up sooner than it answers.
    pub(crate) fn is_brief(&self) -> bool {
        let peer = &self.shared.peer;
        match peer.first_call() {
            Some(called) if !peer.has_given_up() => called.elapsed() < UNANSWERED,
            _ => self.since.elapsed() < UNUSED,
        }
    }

    /// Returns what has become of the connection by now.
    pub(crate) fn verdict(&self) -> Verdict {
        match (self.shared.peer.has_answered(), self.shared.reserved()) {
            (true, _) => Verdict::Answered,
            (false, 0) => Verdict::Fruitless,
            (false, _) => Verdict::Open,
        }
    }
}
