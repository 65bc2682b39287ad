//! Logs which instances cannot be reached, without a storm when that is all of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hither_core::{Instance, ServiceName};
use tokio::time::Instant;

use crate::client::log_window::LogWindow;

/// The number of failed attempts in a row after which an instance counts as unreachable. One failure is normal
/// while an instance restarts.
pub(super) const ATTEMPTS: u32 = 2;

/// The log of one channel. At most ten lines and a summary in half a minute, at WARN and at INFO each.
#[derive(Debug)]
pub(super) struct OutageLog {
    service: ServiceName,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many instances are unreachable now.
    unreachable: usize,
    lost: LogWindow,
    back: LogWindow,
}

impl OutageLog {
    pub(super) fn new(service: ServiceName) -> Self {
        Self { service, state: Mutex::default() }
    }

    /// Logs that an instance cannot be reached, after so many attempts. It counts as unreachable until the guard is
    /// dropped.
    pub(super) fn unreachable<'a>(
        &'a self,
        instance: &Instance,
        attempts: u32,
        cause: &str,
    ) -> Unreachable<'a> {
        let line = {
            let mut state = self.lock();
            state.unreachable += 1;
            state.lost.admit()
        };
        if line {
            tracing::warn!(
                service = %self.service,
                instance = %instance.id(),
                address = %instance.address(),
                attempts,
                cause,
                "instance unreachable; retrying"
            );
        }
        Unreachable { log: self, since: Instant::now() }
    }

    /// Returns when the next summary is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let state = self.lock();
        [state.lost.due(), state.back.due()].into_iter().flatten().min()
    }

    /// Logs the summaries that are due.
    pub(super) fn summarize(&self) {
        let (unreachable, lost, back) = {
            let mut state = self.lock();
            (state.unreachable, state.lost.summary(), state.back.summary())
        };
        let service = &self.service;
        if let Some(instances) = lost {
            tracing::warn!(%service, instances, unreachable, "more instances unreachable; retrying");
        }
        if let Some(instances) = back {
            tracing::info!(%service, instances, unreachable, "more instances reachable again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An instance that counts as unreachable. Dropped without [`reachable`](Self::reachable), it has left the registry
/// or is not connected to any more, which is no event here.
#[derive(Debug)]
pub(super) struct Unreachable<'a> {
    log: &'a OutageLog,
    since: Instant,
}

impl Unreachable<'_> {
    /// Logs that the instance can be reached again.
    pub(super) fn reachable(self, instance: &Instance) {
        let line = self.log.lock().back.admit();
        if line {
            tracing::info!(
                service = %self.log.service,
                instance = %instance.id(),
                address = %instance.address(),
                after = ?self.since.elapsed(),
                "instance reachable again"
            );
        }
    }
}

impl Drop for Unreachable<'_> {
    fn drop(&mut self) {
        self.log.lock().unreachable -= 1;
    }
}
