//! How long a connection was waited for in vain.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The silence of a connection: the time since its last answer in which a request waited that its caller has dropped.
///
/// A caller with a short deadline tries again and again, and none of its requests alone shows that the connection is dead.
/// Times in which nothing was asked do not count, nor does one twice in which several requests waited.
#[derive(Debug, Default)]
pub(super) struct Silence(Mutex<Waited>);

#[derive(Debug, Default)]
struct Waited {
    total: Duration,
    until: Option<Instant>,
}

impl Silence {
    /// There was an answer.
    pub(super) fn ends(&self) {
        // What was waited before it was no silence.
        *self.lock() = Waited { total: Duration::ZERO, until: Some(Instant::now()) };
    }

    /// A request that was sent then is dropped now, and had no answer. Returns the silence.
    pub(super) fn grows(&self, since: Instant) -> Duration {
        let (now, mut waited) = (Instant::now(), self.lock());
        let counted = waited.until.map_or(since, |until| until.max(since));
        waited.total += now.saturating_duration_since(counted);
        waited.until = Some(now);
        waited.total
    }

    fn lock(&self) -> MutexGuard<'_, Waited> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silence_is_the_time_that_was_waited_since_the_last_answer() {
        let (silence, ms) = (Silence::default(), Duration::from_millis);
        let first = Instant::now();
        advance(ms(100)).await;
        let second = Instant::now();
        advance(ms(50)).await;
        assert_eq!(silence.grows(first), ms(150));
        advance(ms(20)).await;
        assert_eq!(silence.grows(second), ms(170), "both waited for some of it");
        advance(ms(3_600_000)).await;
        let third = Instant::now();
        advance(ms(10)).await;
        assert_eq!(silence.grows(third), ms(180), "nothing was asked in between");
        let fourth = Instant::now();
        advance(ms(245)).await;
        silence.ends();
        advance(ms(5)).await;
        assert_eq!(silence.grows(fourth), ms(5), "another one was answered in between");
    }
}
