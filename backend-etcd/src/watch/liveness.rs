//! Whether a watch is alive: when to probe it, when to compare it with a listing, and when to give it up.
//!
//! A pure machine under the instants that it is given: no IO, no clock.

use std::time::Duration;

use tokio::time::Instant;

/// A progress request has no number, and etcd drops it without an answer while it still reads history for the watch.
const PROBE_AGAIN: Duration = Duration::from_millis(250);

/// The liveness of one watch.
///
/// An idle watch is probed: a linearizable read proves that its member is not partitioned from the others, and a progress
/// request that the stream delivers. Some versions of etcd may never answer a progress request of a watch that had no event
/// yet (etcd-io/etcd#17507), and etcd's proxy answers none (etcd-io/etcd#19710). So an unanswered probe leads to a listing,
/// which shows whether the watch has missed anything; and a watch that has missed something, and is silent again, is lost.
#[derive(Debug)]
pub(super) struct Liveness {
    probe_interval: Duration,
    /// How long a probe may go unanswered.
    timeout: Duration,
    probe_at: Instant,
    /// When the probe was sent that is unanswered.
    probed: Option<Instant>,
    /// A listing has shown that something was missed, and nothing was received since.
    has_missed: bool,
    resync_at: Instant,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Read, request progress, and report [`Liveness::probed`].
    Probe,
    /// Compare with a listing, and report [`Liveness::compared`].
    Compare,
    /// Compare with a listing because a probe went unanswered, and report [`Liveness::missed`].
    CompareUnanswered,
    /// End the watch.
    Lost,
}

impl Liveness {
    pub(super) fn new(now: Instant, probe_interval: Duration, timeout: Duration, resync: Duration) -> Self {
        let (probe_at, resync_at) = (now + probe_interval, now + resync);
        Self { probe_interval, timeout, probe_at, probed: None, has_missed: false, resync_at }
    }

    /// When something is due, if nothing is received until then.
    pub(super) fn wake_at(&self) -> Instant {
        let next = self.probe_at.min(self.resync_at);
        self.unanswered_at().map_or(next, |unanswered_at| next.min(unanswered_at))
    }

    pub(super) fn due(&self, now: Instant) -> Due {
        if self.unanswered_at().is_some_and(|unanswered_at| unanswered_at <= now) {
            if self.has_missed { Due::Lost } else { Due::CompareUnanswered }
        } else if self.probe_at <= now {
            Due::Probe
        } else if self.resync_at <= now {
            Due::Compare
        } else {
            Due::Nothing
        }
    }

    /// Something was received.
    pub(super) fn received(&mut self, now: Instant) {
        self.has_missed = false;
        self.answered(now);
    }

    /// A probe was sent.
    pub(super) fn probed(&mut self, now: Instant) {
        self.probe_at = now + PROBE_AGAIN;
        self.probed.get_or_insert(now);
    }

    /// The watch was compared with a listing, as is due again in `resync`.
    pub(super) fn compared(&mut self, now: Instant, resync: Duration) {
        self.resync_at = now + resync;
    }

    /// A listing, taken because a probe went unanswered, has shown whether the watch `has_missed` something.
    pub(super) fn missed(&mut self, now: Instant, has_missed: bool) {
        self.has_missed = has_missed;
        self.answered(now);
    }

    fn answered(&mut self, now: Instant) {
        (self.probe_at, self.probed) = (now + self.probe_interval, None);
    }

    /// When an unanswered probe counts as such. Only a probe that was sent can time out: a stream that was not polled for a
    /// while, as in a process that was suspended, has to probe first.
    fn unanswered_at(&self) -> Option<Instant> {
        self.probed.map(|probed| probed + self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: Duration = Duration::from_secs(5);
    const TIMEOUT: Duration = Duration::from_secs(3);
    const RESYNC: Duration = Duration::from_secs(300);

    fn begin() -> (Instant, Liveness) {
        let now = Instant::now();
        (now, Liveness::new(now, PROBE, TIMEOUT, RESYNC))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Sends probes from `from` on, until something else than a probe is due; returns when that is, and what.
    fn probe_until(liveness: &mut Liveness, from: Instant) -> (Instant, Due) {
        let mut now = from;
        while liveness.due(now) == Due::Probe {
            liveness.probed(now);
            now = liveness.wake_at();
        }
        (now, liveness.due(now))
    }

    #[test]
    fn an_idle_watch_is_probed() {
        let (begun, mut liveness) = begin();
        assert_eq!(liveness.wake_at(), begun + PROBE);
        assert_eq!(liveness.due(begun + seconds(4)), Due::Nothing);
        assert_eq!(liveness.due(begun + PROBE), Due::Probe);
        liveness.received(begun + seconds(4));
        assert_eq!(liveness.due(begun + PROBE), Due::Nothing, "it was not idle");
        assert_eq!(liveness.wake_at(), begun + seconds(9));
    }

    #[test]
    fn an_answered_probe_is_due_again_only_after_the_interval() {
        let (begun, mut liveness) = begin();
        liveness.probed(begun + PROBE);
        liveness.received(begun + PROBE);
        assert_eq!(liveness.wake_at(), begun + 2 * PROBE);
        assert_eq!(liveness.due(begun + PROBE + TIMEOUT), Due::Nothing);
    }

    #[test]
    fn a_probe_is_repeated_until_it_times_out_and_then_a_listing_decides() {
        let (begun, mut liveness) = begin();
        let (at, due) = probe_until(&mut liveness, begun + PROBE);
        assert_eq!((at, due), (begun + PROBE + TIMEOUT, Due::CompareUnanswered));
    }

    #[test]
    fn a_silent_watch_that_missed_nothing_lives_on() {
        let (begun, mut liveness) = begin();
        let mut now = begun;
        for _ in 0..3 {
            let (at, due) = probe_until(&mut liveness, now + PROBE);
            assert_eq!(due, Due::CompareUnanswered);
            liveness.missed(at, false);
            now = at;
        }
    }

    #[test]
    fn a_watch_that_missed_something_and_is_silent_again_is_lost() {
        let (begun, mut liveness) = begin();
        let (at, _) = probe_until(&mut liveness, begun + PROBE);
        liveness.missed(at, true);
        let (lost_at, due) = probe_until(&mut liveness, at + PROBE);
        assert_eq!((lost_at, due), (at + PROBE + TIMEOUT, Due::Lost));
    }

    #[test]
    fn a_watch_that_missed_something_and_responds_again_is_not_lost() {
        let (begun, mut liveness) = begin();
        let (at, _) = probe_until(&mut liveness, begun + PROBE);
        liveness.missed(at, true);
        liveness.received(at);
        let (_, due) = probe_until(&mut liveness, at + PROBE);
        assert_eq!(due, Due::CompareUnanswered);
    }

    #[test]
    fn a_watch_that_was_not_polled_for_long_is_probed_before_it_is_given_up() {
        let (begun, mut liveness) = begin();
        let late = begun + seconds(1000);
        assert_eq!(liveness.due(late), Due::Probe);
        liveness.probed(late);
        assert_eq!(liveness.due(late), Due::Compare, "the resynchronisation is due as well");
        liveness.compared(late, RESYNC);
        assert_eq!(liveness.due(late), Due::Nothing);
        let next = liveness.wake_at();
        let (at, due) = probe_until(&mut liveness, next);
        assert_eq!((at, due), (late + TIMEOUT, Due::CompareUnanswered));
    }

    #[test]
    fn a_busy_watch_is_compared_with_a_listing_at_its_interval() {
        let (begun, mut liveness) = begin();
        let mut compared = Vec::new();
        for second in 0..=1000 {
            let now = begun + seconds(second);
            liveness.received(now);
            if liveness.due(now) == Due::Compare {
                compared.push(second);
                liveness.compared(now, RESYNC);
            }
        }
        assert_eq!(compared, [300, 600, 900]);
    }
}
