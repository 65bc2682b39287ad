//! Logs which instances cannot be reached, without a storm when that is all of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hither_core::{Instance, ServiceName};
use tokio::time::Instant;

use crate::client::log_window::LogWindow;

/// The number of failed attempts in a row after which an instance counts as unreachable. One failure is normal
/// while an instance restarts.
pub(super) const ATTEMPTS: u32 = 2;

/// The log of one channel. At most ten lines and a summary in half a minute, at WARN and at INFO each, of instances that
/// cannot be reached and of those that are unhealthy.
#[derive(Debug)]
pub(super) struct OutageLog {
    service: ServiceName,
    state: Mutex<[Events; 2]>,
}

/// What is wrong with an instance.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Unreachable,
    Unhealthy,
}

#[derive(Debug, Default)]
struct Events {
    /// How many instances are so now.
    now: usize,
    begun: LogWindow,
    ended: LogWindow,
}

impl OutageLog {
    pub(super) fn new(service: ServiceName) -> Self {
        Self { service, state: Mutex::default() }
    }

    /// Logs that an instance cannot be reached, after so many attempts. It counts as unreachable until the guard is
    /// dropped.
    pub(super) fn unreachable(&self, instance: &Instance, attempts: u32, cause: &str) -> Guard<'_> {
        if self.begin(Kind::Unreachable) {
            tracing::warn!(
                service = %self.service,
                instance = %instance.id(),
                address = %instance.address(),
                attempts,
                cause,
                "instance unreachable; retrying"
            );
        }
        Guard { log: self, kind: Kind::Unreachable, since: Instant::now() }
    }

    /// An instance that was logged as unreachable is so still, or again counts as one.
    pub(super) fn still_unreachable(&self, since: Instant) -> Guard<'_> {
        self.lock()[Kind::Unreachable as usize].now += 1;
        Guard { log: self, kind: Kind::Unreachable, since }
    }

    /// Logs that an instance is unhealthy. It counts as such until the guard is dropped.
    pub(super) fn unhealthy(&self, instance: &Instance, cause: &str) -> Guard<'_> {
        if self.begin(Kind::Unhealthy) {
            tracing::warn!(
                service = %self.service,
                instance = %instance.id(),
                address = %instance.address(),
                cause,
                "instance unhealthy"
            );
        }
        Guard { log: self, kind: Kind::Unhealthy, since: Instant::now() }
    }

    /// Returns when the next summary is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let state = self.lock();
        state.iter().flat_map(|events| [events.begun.due(), events.ended.due()]).flatten().min()
    }

    /// Logs the summaries that are due.
    pub(super) fn summarize(&self) {
        let summaries =
            self.lock().each_mut().map(|events| (events.now, events.begun.summary(), events.ended.summary()));
        let [(unreachable, lost, back), (unhealthy, sick, well)] = summaries;
        let service = &self.service;
        if let Some(instances) = lost {
            tracing::warn!(%service, instances, unreachable, "more instances unreachable; retrying");
        }
        if let Some(instances) = back {
            tracing::info!(%service, instances, unreachable, "more instances reachable again");
        }
        if let Some(instances) = sick {
            tracing::warn!(%service, instances, unhealthy, "more instances unhealthy");
        }
        if let Some(instances) = well {
            tracing::info!(%service, instances, unhealthy, "more instances healthy again");
        }
    }

    /// Returns whether the event is to be logged by itself.
    fn begin(&self, kind: Kind) -> bool {
        let events = &mut self.lock()[kind as usize];
        events.now += 1;
        events.begun.admit()
    }

    fn lock(&self) -> MutexGuard<'_, [Events; 2]> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An instance that counts as unreachable or unhealthy. Dropped without [`end`](Self::end), it has left the registry
/// or is not connected to any more, which is no event here.
#[derive(Debug)]
pub(super) struct Guard<'a> {
    log: &'a OutageLog,
    kind: Kind,
    since: Instant,
}

impl Guard<'_> {
    /// Logs that the instance can be reached again, or is healthy again.
    pub(super) fn end(self, instance: &Instance) {
        let line = self.log.lock()[self.kind as usize].ended.admit();
        if !line {
            return;
        }
        let what = match self.kind {
            Kind::Unreachable => "instance reachable again",
            Kind::Unhealthy => "instance healthy again",
        };
        tracing::info!(
            service = %self.log.service,
            instance = %instance.id(),
            address = %instance.address(),
            after = ?self.since.elapsed(),
            "{what}"
        );
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.log.lock()[self.kind as usize].now -= 1;
    }
}
