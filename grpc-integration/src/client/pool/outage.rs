//! One outage of an instance: from its failed attempts to when it can be reached again.

use hither_core::Instance;
use tokio::time::Instant;

use super::outage_log::{ATTEMPTS, Guard, OutageLog};
use super::server_pace::ServerPace;

/// What one subchannel logs of an outage, which may have begun under an earlier subchannel of the server and may go on under
/// another one: a selection that gives servers up and takes them again, as each walk of `pick_first` does, would otherwise
/// count one attempt each time.
pub(super) struct Outage<'a> {
    log: &'a OutageLog,
    pace: ServerPace,
    logged: Option<Guard<'a>>,
}

impl<'a> Outage<'a> {
    pub(super) fn new(log: &'a OutageLog, pace: ServerPace) -> Self {
        Self { log, pace, logged: None }
    }

    pub(super) fn log(&self) -> &'a OutageLog {
        self.log
    }

    pub(super) fn attempt_failed(&mut self, instance: &Instance, cause: &str) {
        let attempts = self.pace.with_attempts(|attempts| {
            attempts.count = attempts.count.saturating_add(1);
            attempts.count
        });
        if attempts >= ATTEMPTS {
            self.begin(instance, attempts, cause);
        }
    }

    /// The instance is unreachable, which is logged once.
    pub(super) fn begin(&mut self, instance: &Instance, attempts: u32, cause: &str) {
        if self.logged.is_some() {
            return;
        }
        self.logged = Some(match self.logged_at() {
            Some(since) => self.log.still_unreachable(since),
            None => {
                self.pace.with_attempts(|attempts| attempts.logged_at = Some(Instant::now()));
                self.log.unreachable(instance, attempts, cause)
            }
        });
    }

    /// A connection was of use, but not for long enough to log that the instance is reachable again.
    pub(super) fn is_over_unless_logged(&self) {
        self.pace.with_attempts(|attempts| {
            if attempts.logged_at.is_none() {
                attempts.count = 0;
            }
        });
    }

    /// Returns whether the outage had been logged.
    pub(super) fn end(&mut self, instance: &Instance) -> bool {
        let ended = self.pace.with_attempts(std::mem::take);
        let logged = self.logged.take();
        let logged = logged.or_else(|| ended.logged_at.map(|since| self.log.still_unreachable(since)));
        logged.map(|logged| logged.end(instance)).is_some()
    }

    fn logged_at(&self) -> Option<Instant> {
        self.pace.with_attempts(|attempts| attempts.logged_at)
    }
}
