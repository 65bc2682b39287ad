//! gRPC's connectivity states, and how the present one of a subchannel is shared.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// gRPC's connectivity states, of a channel or of one instance. Displayed as gRPC writes them: `READY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectivityState {
    /// Not connected, and not connecting. A channel never is.
    Idle,
    /// Connecting, for the first time or after a connection was lost. Calls of a channel wait. A channel is ready for another
    /// second when the last connection was lost, and its calls wait then, too.
    Connecting,
    /// Calls can be sent.
    Ready,
    /// Connecting has failed, and is retried. The state stays until it is ready, so that the attempts in between do not hide
    /// the failure. Calls of a channel fail, unless they are [wait-for-ready](crate::WaitForReady).
    TransientFailure,
    /// The channel is closed: the runtime that it was made on is gone, or its last clone.
    Shutdown,
}

impl ConnectivityState {
    /// Returns the name that gRPC has for it, such as `TRANSIENT_FAILURE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "IDLE",
            Self::Connecting => "CONNECTING",
            Self::Ready => "READY",
            Self::TransientFailure => "TRANSIENT_FAILURE",
            Self::Shutdown => "SHUTDOWN",
        }
    }
}

impl fmt::Display for ConnectivityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The connectivity of one subchannel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Connectivity {
    /// Not connected, and not connecting.
    Idle,
    /// Connecting, for the first time or after a connection was lost: calls wait.
    Connecting,
    /// Calls can be sent.
    Ready,
    /// It was ready, and its last connection is being replaced: for a second at most, in which it counts as ready for calls.
    Replacing,
    /// The last attempt failed, or one connection after the other ended without an answer, for this reason. The state
    /// stays until the subchannel is ready again, so that the attempts in between do not hide the failure (gRFC A48,
    /// A62).
    TransientFailure(Arc<str>),
}

impl Connectivity {
    pub(crate) fn state(&self) -> ConnectivityState {
        match self {
            Self::Idle => ConnectivityState::Idle,
            Self::Connecting | Self::Replacing => ConnectivityState::Connecting,
            Self::Ready => ConnectivityState::Ready,
            Self::TransientFailure(_) => ConnectivityState::TransientFailure,
        }
    }
}

/// The present connectivity of a subchannel, shared by its task, the pool and statuses.
#[derive(Debug)]
pub(crate) struct Observed(Mutex<Observation>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) connectivity: Connectivity,
    /// Since when in this state, whatever the reason.
    pub(crate) since: Instant,
    pub(crate) last_error: Option<LastError>,
}

/// Why an attempt to connect has failed, or the last connection was lost, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastError {
    pub(crate) cause: Arc<str>,
    pub(crate) at: Instant,
}

impl Observed {
    pub(crate) fn new(connectivity: Connectivity) -> Self {
        Self(Mutex::new(Observation { connectivity, since: Instant::now(), last_error: None }))
    }

    pub(crate) fn connectivity(&self) -> Connectivity {
        self.lock().connectivity.clone()
    }

    pub(crate) fn now(&self) -> Observation {
        self.lock().clone()
    }

    pub(crate) fn set(&self, connectivity: Connectivity) {
        let mut observation = self.lock();
        if observation.connectivity.state() != connectivity.state() {
            observation.since = Instant::now();
        }
        if let Connectivity::TransientFailure(cause) = &connectivity {
            observation.last_error = Some(LastError { cause: Arc::clone(cause), at: Instant::now() });
        }
        observation.connectivity = connectivity;
    }

    /// The last connection was lost.
    pub(crate) fn lost(&self, cause: &str) {
        self.lock().last_error = Some(LastError { cause: cause.into(), at: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, Observation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_begins_once_however_often_its_cause_changes_and_is_remembered() {
        let observed = Observed::new(Connectivity::Connecting);
        for cause in ["refused", "reset"] {
            advance(Duration::from_secs(1)).await;
            observed.set(Connectivity::TransientFailure(cause.into()));
        }
        advance(Duration::from_secs(1)).await;
        let failing = observed.now();
        let last = failing.last_error.unwrap();
        assert_eq!((failing.since.elapsed().as_secs(), last.at.elapsed().as_secs()), (2, 1));
        observed.set(Connectivity::Ready);
        let ready = observed.now();
        assert_eq!((ready.since.elapsed().as_secs(), &*ready.last_error.unwrap().cause), (0, "reset"));
    }
}
