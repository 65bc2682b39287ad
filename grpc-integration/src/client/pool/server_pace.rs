//! The pace of one server's connections, and what is kept of it while the server has no subchannel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hither_core::Backoff;
use tokio::time::Instant;

use super::pace::{Next, Pace};
use super::renewals::Renewals;
use crate::client::server_key::ServerKey;
use crate::client::status::Connectivity;
use crate::client::transport::Trial;

/// How long a pace is kept, from when the server may be connected to again.
const KEPT: Duration = Duration::from_secs(60);

/// The pace of one server's connections. It belongs to the task of the server's subchannel, and may outlive that: a selection
/// gives servers back and takes them again, which must not end their backoff.
#[derive(Debug, Clone)]
pub(super) struct ServerPace(Arc<Mutex<Paced>>);

#[derive(Debug)]
struct Paced {
    pace: Pace<Trial>,
    /// Since a connection has failed, until there is one.
    rest: Option<Rest>,
    /// Seen as far as the last attempt was made with them.
    renewals: Renewals,
    attempts: FailedAttempts,
}

/// The failed attempts in a row of one server.
#[derive(Debug, Default)]
pub(super) struct FailedAttempts {
    pub(super) count: u32,
    /// When they were logged as an outage.
    pub(super) logged_at: Option<Instant>,
}

/// No connection is made for a while.
#[derive(Debug, Clone)]
pub(super) struct Rest {
    pub(super) until: Instant,
    /// What a subchannel is meanwhile.
    pub(super) connectivity: Connectivity,
}

impl ServerPace {
    pub(super) fn new(backoff: Backoff, renewals: Renewals) -> Self {
        let (pace, attempts) = (Pace::new(backoff), FailedAttempts::default());
        Self(Arc::new(Mutex::new(Paced { pace, rest: None, renewals, attempts })))
    }

    /// An attempt to connect begins.
    pub(super) fn begins(&self) {
        self.lock().renewals.mark_seen();
    }

    /// Returns the renewals since the last attempt, and those to come.
    pub(super) fn renewals(&self) -> Renewals {
        self.lock().renewals.clone()
    }

    /// Forgets all failures.
    pub(super) fn reset(&self) {
        let mut paced = self.lock();
        paced.pace.reset();
        paced.rest = None;
        paced.attempts = FailedAttempts::default();
    }

    /// Returns whether the connections of late have been of no use.
    pub(super) fn is_failing(&self) -> bool {
        self.lock().pace.is_failing()
    }

    /// A connection was made.
    pub(super) fn connected(&self) {
        let mut paced = self.lock();
        paced.pace.connected();
        paced.rest = None;
    }

    /// An attempt to connect has failed. Returns the delay before the next one.
    pub(super) fn failed(&self) -> Duration {
        self.lock().pace.failed()
    }

    /// Reads or changes what is known of the failed attempts in a row.
    pub(super) fn with_attempts<T>(&self, change: impl FnOnce(&mut FailedAttempts) -> T) -> T {
        change(&mut self.lock().attempts)
    }

    /// There are new certificates: returns when the next attempt is made.
    pub(super) fn renewed(&self) -> Instant {
        let mut paced = self.lock();
        paced.renewals.mark_seen();
        let pause = Instant::now() + paced.pace.renewed();
        match &mut paced.rest {
            Some(rest) => {
                rest.until = rest.until.min(pause);
                rest.until
            }
            None => pause,
        }
    }

    /// A connection takes no calls any more.
    pub(super) fn lost(&self, connection: Trial) -> Next {
        self.lock().pace.lost(connection)
    }

    /// No connection is to be made until then.
    pub(super) fn set_rest(&self, rest: Rest) {
        self.lock().rest = Some(rest);
    }

    /// Returns the present rest, if no connection is to be made yet.
    pub(super) fn rest(&self) -> Option<Rest> {
        self.lock().rest.clone().filter(|rest| rest.until > Instant::now())
    }

    /// Returns until when there is something to know; `None` if there is nothing.
    fn ends(&self, now: Instant) -> Option<Instant> {
        let paced = self.lock();
        match &paced.rest {
            Some(rest) => Some(rest.until.max(now) + KEPT),
            None => (!paced.pace.is_new()).then_some(now + KEPT),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Paced> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The paces of servers that are registered and have no subchannel, for the next one.
#[derive(Debug, Default)]
pub(super) struct Paces {
    kept: BTreeMap<ServerKey, (Instant, ServerPace)>,
    /// By when they end.
    ends: BTreeSet<(Instant, ServerKey)>,
}

impl Paces {
    /// Keeps the pace of a server whose subchannel is removed.
    pub(super) fn keep(&mut self, key: &ServerKey, pace: &ServerPace) {
        let now = Instant::now();
        while self.ends.first().is_some_and(|(end, _)| *end <= now)
            && let Some((_, ended)) = self.ends.pop_first()
        {
            self.kept.remove(&ended);
        }
        self.remove(key);
        if let Some(end) = pace.ends(now) {
            self.kept.insert(Arc::clone(key), (end, pace.clone()));
            self.ends.insert((end, Arc::clone(key)));
        }
    }

    /// Removes the pace of a server that gets a subchannel, or is gone; returns it.
    pub(super) fn remove(&mut self, key: &ServerKey) -> Option<ServerPace> {
        let (end, pace) = self.kept.remove(key)?;
        self.ends.remove(&(end, Arc::clone(key)));
        (end > Instant::now()).then_some(pace)
    }
}

#[cfg(test)]
mod tests {
    use hither_core::Instance;
    use tokio::time::advance;

    use super::*;
    use crate::client::server_key::ServerKeys;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: u32) -> ServerKey {
        ServerKeys::default().of(&Instance::new(format!("h{number}:1").parse().unwrap()))
    }

    fn failing(delay: Duration) -> ServerPace {
        let pace = ServerPace::new(Backoff::proportional(SECOND, 2.0, 100 * SECOND, 0.0), Renewals::never());
        pace.failed();
        let connectivity = Connectivity::TransientFailure("refused".into());
        pace.set_rest(Rest { until: Instant::now() + delay, connectivity });
        pace
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_failed_is_kept_for_the_next_subchannel_and_for_a_minute() {
        let mut paces = Paces::default();
        paces.keep(&key(1), &failing(10 * SECOND));
        advance(9 * SECOND).await;
        let pace = paces.remove(&key(1)).unwrap();
        assert_eq!(pace.rest().unwrap().until - Instant::now(), SECOND);
        assert_eq!(pace.failed(), 2 * SECOND);
        paces.keep(&key(1), &pace);
        advance(60 * SECOND).await;
        assert!(paces.remove(&key(1)).is_some_and(|pace| pace.rest().is_none()));
        paces.keep(&key(1), &pace);
        advance(61 * SECOND).await;
        assert!(paces.remove(&key(1)).is_none());
        pace.connected();
        paces.keep(&key(1), &pace);
        assert!(paces.remove(&key(1)).is_none(), "it has no failures");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_however_many_servers_there_are_over_time() {
        let mut paces = Paces::default();
        for number in 0..1000 {
            paces.keep(&key(number), &failing(SECOND));
            paces.keep(&key(number), &failing(2 * SECOND));
            advance(SECOND).await;
        }
        assert_eq!((paces.kept.len(), paces.ends.len()), (62, 62));
    }
}
