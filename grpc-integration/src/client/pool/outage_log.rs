//! Logs which instances cannot be reached, without a storm when that is all of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hither_core::{Instance, ServiceName};
use tokio::time::Instant;

/// The number of failed attempts in a row after which an instance counts as unreachable. One failure is normal
/// while an instance restarts.
pub(super) const ATTEMPTS: u32 = 2;
/// How many instances are logged one by one within a window. The others are counted in one line at its end.
const LINES: usize = 10;
const WINDOW: Duration = Duration::from_secs(30);

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
    lost: Window,
    back: Window,
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

/// Admits so many events one by one, and counts the others until the window has passed.
#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    admitted: usize,
    suppressed: usize,
}

impl Window {
    /// Returns whether this event is to be logged by itself.
    fn admit(&mut self) -> bool {
        if self.suppressed == 0 && self.began.is_none_or(|began| began.elapsed() >= WINDOW) {
            *self = Self { began: Some(Instant::now()), ..Self::default() };
        }
        let admitted = self.admitted < LINES;
        if admitted {
            self.admitted += 1;
        } else {
            self.suppressed += 1;
        }
        admitted
    }

    fn due(&self) -> Option<Instant> {
        self.began.filter(|_| self.suppressed > 0)?.checked_add(WINDOW)
    }

    /// Returns the number of suppressed events if it is due, and starts a new window.
    fn summary(&mut self) -> Option<usize> {
        if self.due()? > Instant::now() {
            return None;
        }
        self.began = None;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_events_are_admitted_in_half_a_minute_and_the_others_counted() {
        let mut window = Window::default();
        for _ in 0..3 {
            let admitted = (0..200).filter(|_| window.admit()).count();
            assert_eq!((admitted, window.summary()), (LINES, None));
            advance(WINDOW).await;
            assert_eq!(window.summary(), Some(190));
            assert_eq!((window.summary(), window.due()), (None, None));
        }
        // Few events never need a summary.
        for _ in 0..20 {
            assert!(window.admit());
            assert_eq!(window.due(), None);
            sleep(WINDOW / 5).await;
        }
    }
}
