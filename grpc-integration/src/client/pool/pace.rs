//! When to connect again: the backoff of one instance's connections.

use std::time::Duration;

use hither_core::Backoff;

use crate::client::transport::{Trial, Verdict};

/// How many connections in a row may be of no use before that counts as a failure to connect.
const TOLERATED: usize = 6;
/// The first of the pauses before those are made.
const PAUSE: Duration = Duration::from_millis(10);
/// How many brief connections are remembered, should calls stay open on all of them.
const REMEMBERED: usize = 100;

/// When the next connection is to be made after one was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// At once: the lost one was of use.
    AtOnce,
    /// After this pause: the lost one may have been of no use.
    Soon(Duration),
    /// After this delay: as many as this in a row were of no use.
    Failing(Duration, u32),
}

/// Whether a connection has been of use.
pub(super) trait Use {
    fn is_brief(&self) -> bool;
    fn verdict(&self) -> Verdict;
}

impl Use for Trial {
    fn is_brief(&self) -> bool {
        Self::is_brief(self)
    }

    fn verdict(&self) -> Verdict {
        Self::verdict(self)
    }
}

/// Paces the connections to one instance.
///
/// A failure to connect leads to exponential backoff, which ends with a connection (gRPC's connection backoff). One that
/// was lost is made again at once, however short it was, as servers and proxies end connections after so many requests
/// or so much time. But a peer that ends each connection before it has answered anything would be flooded with them: the
/// first few are paced by milliseconds, and then by the backoff.
///
/// A connection is judged when the next one is lost: the answers to the calls on it may come long after its GOAWAY.
#[derive(Debug)]
pub(super) struct Pace<T> {
    backoff: Backoff,
    pause: Backoff,
    /// The brief connections since the last one that was of use.
    brief: Vec<T>,
    failing: bool,
}

impl<T: Use> Pace<T> {
    pub(super) fn new(backoff: Backoff) -> Self {
        let pause = Backoff::proportional(PAUSE, 2.0, Duration::from_secs(1), 0.2);
        Self { backoff, pause, brief: Vec::new(), failing: false }
    }

    /// Forgets all failures.
    pub(super) fn reset(&mut self) {
        self.backoff.reset();
        self.pause.reset();
        self.brief.clear();
        self.failing = false;
    }

    /// Returns whether the connections of late have been of no use.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Returns whether nothing is known of connections that were of no use.
    pub(super) fn is_new(&self) -> bool {
        self.brief.is_empty() && !self.failing
    }

    /// A connection was made: the peer has sent SETTINGS.
    pub(super) fn connected(&mut self) {
        if !self.failing {
            self.backoff.reset();
        }
    }

    /// An attempt to connect has failed. Returns the delay before the next one.
    pub(super) fn failed(&mut self) -> Duration {
        self.backoff.next_delay()
    }

    /// Attempts may succeed that have failed so far, with new certificates. Returns the delay before the next one, which
    /// grows where that is so time and again.
    pub(super) fn renewed(&mut self) -> Duration {
        self.backoff.reset();
        self.pause.next_delay()
    }

    /// A connection takes no calls any more, from now on.
    pub(super) fn lost(&mut self, connection: T) -> Next {
        if self.brief.iter().any(|earlier| earlier.verdict() == Verdict::Answered) {
            self.reset();
        }
        if !connection.is_brief() || connection.verdict() == Verdict::Answered {
            self.reset();
            return Next::AtOnce;
        }
        let fruitless = self.brief.iter().filter(|earlier| earlier.verdict() == Verdict::Fruitless).count();
        if self.brief.len() < REMEMBERED {
            self.brief.push(connection);
        }
        match fruitless {
            0 => Next::Soon(Duration::ZERO),
            1..TOLERATED => Next::Soon(self.pause.next_delay()),
            _ => {
                self.failing = true;
                Next::Failing(self.backoff.next_delay(), u32::try_from(fruitless).unwrap_or(u32::MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Debug, Clone)]
    struct Fake(Rc<Cell<Verdict>>, bool);

    impl Fake {
        fn brief(verdict: Verdict) -> Self {
            Self(Rc::new(Cell::new(verdict)), true)
        }

        fn long(verdict: Verdict) -> Self {
            Self(Rc::new(Cell::new(verdict)), false)
        }
    }

    impl Use for Fake {
        fn is_brief(&self) -> bool {
            self.1
        }

        fn verdict(&self) -> Verdict {
            self.0.get()
        }
    }

    fn pace() -> Pace<Fake> {
        Pace::new(Backoff::proportional(SECOND, 2.0, 100 * SECOND, 0.0))
    }

    fn brief(pace: &mut Pace<Fake>, verdict: Verdict) -> Next {
        pace.connected();
        pace.lost(Fake::brief(verdict))
    }

    #[test]
    fn attempts_that_fail_are_made_with_backoff_until_one_succeeds() {
        let mut pace = pace();
        assert_eq!([pace.failed(), pace.failed(), pace.failed()], [SECOND, 2 * SECOND, 4 * SECOND]);
        pace.connected();
        assert_eq!(pace.failed(), SECOND);
    }

    #[test]
    fn new_certificates_end_the_backoff_and_are_paced_themselves() {
        let mut pace = pace();
        for _ in 0..5 {
            pace.failed();
        }
        for expected in [10, 20, 40] {
            let (expected, pause) = (Duration::from_millis(expected), pace.renewed());
            assert!((expected * 8 / 10..=expected * 12 / 10).contains(&pause), "{pause:?} for {expected:?}");
            assert_eq!(pace.failed(), SECOND);
        }
    }

    #[test]
    fn a_connection_that_was_of_use_is_made_again_at_once() {
        let mut pace = pace();
        for _ in 0..1000 {
            assert_eq!(brief(&mut pace, Verdict::Answered), Next::AtOnce);
            assert_eq!(pace.lost(Fake::long(Verdict::Fruitless)), Next::AtOnce);
        }
    }

    #[test]
    fn fruitless_connections_are_paced_and_in_the_end_a_failure() {
        let mut pace = pace();
        assert_eq!(brief(&mut pace, Verdict::Fruitless), Next::Soon(Duration::ZERO));
        for expected in [10, 20, 40, 80, 160] {
            let Next::Soon(pause) = brief(&mut pace, Verdict::Fruitless) else { panic!("too early") };
            let expected = Duration::from_millis(expected);
            assert!((expected * 8 / 10..=expected * 12 / 10).contains(&pause), "{pause:?} for {expected:?}");
        }
        for (seconds, in_a_row) in [(1, 6), (2, 7), (4, 8), (8, 9)] {
            let expected = Next::Failing(seconds * SECOND, in_a_row);
            assert_eq!(brief(&mut pace, Verdict::Fruitless), expected);
        }
        // The SETTINGS of such a peer end no backoff.
        assert_eq!(pace.failed(), 16 * SECOND);
        assert_eq!(brief(&mut pace, Verdict::Answered), Next::AtOnce);
        assert_eq!(pace.failed(), SECOND);
        assert_eq!(brief(&mut pace, Verdict::Fruitless), Next::Soon(Duration::ZERO));
    }

    /// As long as calls are in flight on what takes no new ones, nothing is decided.
    #[test]
    fn calls_may_be_answered_after_their_connection_takes_no_new_ones() {
        let mut pace = pace();
        let earlier: Vec<_> = (0..20).map(|_| Fake::brief(Verdict::Open)).collect();
        for connection in &earlier {
            assert_eq!(pace.lost(connection.clone()), Next::Soon(Duration::ZERO));
        }
        for connection in &earlier {
            connection.0.set(Verdict::Fruitless);
        }
        assert_eq!(pace.lost(Fake::brief(Verdict::Open)), Next::Failing(SECOND, 20));
        earlier[3].0.set(Verdict::Answered);
        assert_eq!(pace.lost(Fake::brief(Verdict::Open)), Next::Soon(Duration::ZERO));
    }

    #[test]
    fn memory_is_bounded_while_calls_stay_open() {
        let mut pace = pace();
        for _ in 0..10 * REMEMBERED {
            brief(&mut pace, Verdict::Open);
        }
        assert_eq!(pace.brief.len(), REMEMBERED);
    }
}
