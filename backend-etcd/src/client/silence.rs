//! What requests that their callers have dropped show of a connection.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A connection on which one request got no answer for this long is dead, also where its caller has dropped it. Less than a third of the smallest
/// TTL, within which a renewal must be done: etcd grants whole seconds, and one where elections are fast.
const SUSPICIOUS: Duration = Duration::from_millis(300);

/// The deadline of a probe, which no caller cancels. Connecting takes two answers or more, so an etcd that is slower than this
/// is not connected to within the default of 2 s in any case.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The silence of a connection: the time since its last answer in which a request waited that its caller has dropped.
///
/// A caller with a short deadline tries again and again, and none of its requests alone shows that the connection is dead. Nor
/// do all of them: etcd does not answer a request that was cancelled meanwhile, so a slow one is as silent as a dead one, and
/// the only frames that it sends, WINDOW_UPDATE and PING, are sent by a member without a quorum too. In a silence the connection
/// is therefore probed, once a second.
///
/// Times in which nothing was asked do not count, nor does one twice in which several requests waited.
#[derive(Debug, Default)]
pub(super) struct Silence(Mutex<Waited>);

#[derive(Debug, Default)]
struct Waited {
    total: Duration,
    until: Option<Instant>,
    answered: Option<Instant>,
    probed: Option<Instant>,
}

/// What to do with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspicion {
    None,
    /// Ask for an answer, and leave it if there is none within [`PROBE_TIMEOUT`].
    Probe,
    Leave,
}

impl Silence {
    /// There was an answer.
    pub(super) fn ends(&self) {
        // What was waited before it was no silence.
        let now = Some(Instant::now());
        *self.lock() = Waited { total: Duration::ZERO, until: now, answered: now, probed: None };
    }

    /// A request that was sent then is dropped now, and had no answer.
    pub(super) fn grows(&self, since: Instant) -> Suspicion {
        let (now, mut waited) = (Instant::now(), self.lock());
        let after = |earlier: Option<Instant>| {
            now.saturating_duration_since(earlier.map_or(since, |earlier| earlier.max(since)))
        };
        let (alone, added) = (after(waited.answered), after(waited.until));
        waited.total += added;
        waited.until = Some(now);
        if alone >= SUSPICIOUS {
            return Suspicion::Leave;
        }
        // Nobody reports what came of a probe: one that failed has left the connection, and any other is repeated.
        let is_probed = waited.probed.is_some_and(|probed| now - probed <= PROBE_TIMEOUT);
        if waited.total < SUSPICIOUS || is_probed {
            return Suspicion::None;
        }
        waited.probed = Some(now);
        Suspicion::Probe
    }

    /// Whether there was no answer since then.
    pub(super) fn lasts_since(&self, since: Instant) -> bool {
        self.lock().answered.is_none_or(|answered| answered < since)
    }

    fn lock(&self) -> MutexGuard<'_, Waited> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A request without an answer, dropped after so long.
    async fn dropped_after(silence: &Silence, wait: Duration) -> Suspicion {
        let since = Instant::now();
        advance(wait).await;
        silence.grows(since)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_is_the_time_that_was_waited_since_the_last_answer() {
        let silence = Silence::default();
        let total = |silence: &Silence| silence.lock().total;
        let first = Instant::now();
        advance(100 * MS).await;
        let second = Instant::now();
        advance(50 * MS).await;
        silence.grows(first);
        assert_eq!(total(&silence), 150 * MS);
        advance(20 * MS).await;
        silence.grows(second);
        assert_eq!(total(&silence), 170 * MS, "both waited for some of it");
        advance(3_600_000 * MS).await;
        dropped_after(&silence, 10 * MS).await;
        assert_eq!(total(&silence), 180 * MS, "nothing was asked in between");
        let fourth = Instant::now();
        advance(245 * MS).await;
        silence.ends();
        advance(5 * MS).await;
        silence.grows(fourth);
        assert_eq!(total(&silence), 5 * MS, "another one was answered in between");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_did_not_answer_one_request_for_long_is_left() {
        let silence = Silence::default();
        let first = Instant::now();
        advance(200 * MS).await;
        assert_eq!(dropped_after(&silence, 99 * MS).await, Suspicion::None);
        assert_eq!(silence.grows(first), Suspicion::None, "299 ms");
        advance(MS).await;
        assert_eq!(silence.grows(first), Suspicion::Leave, "also where others have waited meanwhile");
        let second = Instant::now();
        advance(200 * MS).await;
        silence.ends();
        advance(299 * MS).await;
        assert_eq!(silence.grows(second), Suspicion::None, "what was waited before an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_silence_a_connection_is_probed_once_a_second() {
        let silence = Silence::default();
        for _ in 0..2 {
            for expected in [Suspicion::None, Suspicion::None, Suspicion::Probe, Suspicion::None] {
                assert_eq!(dropped_after(&silence, 100 * MS).await, expected);
            }
            silence.ends();
        }
        for _ in 0..3 {
            dropped_after(&silence, 100 * MS).await;
        }
        let probed = Instant::now();
        advance(PROBE_TIMEOUT).await;
        assert_eq!(dropped_after(&silence, MS).await, Suspicion::Probe);
        assert!(silence.lasts_since(probed));
        silence.ends();
        assert!(!silence.lasts_since(probed));
    }
}
