//! What the peer of one instance has refused on earlier connections.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// An interval or a pause is doubled so many times at most.
const MOST: u32 = 4;
/// After how long without ENHANCE_YOUR_CALM a pause is halved. If that was too early, it costs a connection with the calls
/// on it, so it must be rare; if it is too late, the places of cancelled calls are free again later, by a second or two. A
/// burst that has passed is forgotten within forty minutes, and a load that does not pass costs a connection in ten.
const QUIET: Duration = Duration::from_secs(600);

/// What the peer of one instance has refused on earlier connections.
#[derive(Debug, Default)]
pub(crate) struct Lessons {
    /// How often it has closed a connection for too many pings. That is never forgotten, as in gRFC A8: how many pings it
    /// allows is a setting of the server, and does not depend on the load.
    pings: AtomicU32,
    calm: Mutex<Calm>,
}

/// How often a peer has closed a connection with ENHANCE_YOUR_CALM for anything but pings, as far as that counts.
#[derive(Debug, Default)]
struct Calm {
    count: u32,
    last: Option<Instant>,
}

impl Calm {
    fn count(&self, now: Instant) -> u32 {
        let quiet = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let forgotten = u32::try_from(quiet.as_secs() / QUIET.as_secs()).unwrap_or(u32::MAX);
        self.count.saturating_sub(forgotten)
    }
}

impl Lessons {
    pub(super) fn on_too_many_pings(&self) {
        self.pings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some((n + 1).min(MOST))).ok();
    }

    pub(super) fn on_enhance_your_calm(&self) {
        let now = Instant::now();
        let mut calm = self.calm.lock().unwrap_or_else(PoisonError::into_inner);
        *calm = Calm { count: (calm.count(now) + 1).min(MOST), last: Some(now) };
    }

    /// Returns the factor by which the interval of pings has grown.
    pub(super) fn ping_factor(&self) -> u32 {
        1 << self.pings.load(Ordering::Relaxed)
    }

    /// Returns the factor by which streams are reset more slowly now.
    pub(super) fn calm_factor(&self) -> u32 {
        1 << self.calm.lock().unwrap_or_else(PoisonError::into_inner).count(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slower_pace_recovers_by_halves() {
        let lessons = Lessons::default();
        assert_eq!(lessons.calm_factor(), 1);
        for expected in [2, 4, 8, 16, 16, 16] {
            lessons.on_enhance_your_calm();
            assert_eq!(lessons.calm_factor(), expected);
        }
        for (before, after) in [(16, 8), (8, 4), (4, 2), (2, 1), (1, 1)] {
            advance(QUIET - Duration::from_secs(1)).await;
            assert_eq!(lessons.calm_factor(), before);
            advance(Duration::from_secs(1)).await;
            assert_eq!(lessons.calm_factor(), after);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_that_was_too_fast_again_begins_where_it_was() {
        let lessons = Lessons::default();
        for _ in 0..4 {
            lessons.on_enhance_your_calm();
        }
        advance(2 * QUIET + QUIET / 2).await;
        assert_eq!(lessons.calm_factor(), 4);
        lessons.on_enhance_your_calm();
        assert_eq!(lessons.calm_factor(), 8);
        // The time counts anew.
        advance(QUIET - Duration::from_secs(1)).await;
        assert_eq!(lessons.calm_factor(), 8);
        advance(Duration::from_secs(3600 * 24 * 365 * 100)).await;
        assert_eq!(lessons.calm_factor(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_interval_of_pings_stays_as_it_was_learned() {
        let lessons = Lessons::default();
        lessons.on_too_many_pings();
        advance(100 * QUIET).await;
        assert_eq!((lessons.ping_factor(), lessons.calm_factor()), (2, 1));
    }
}
