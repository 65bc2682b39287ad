//! Calls by which an instance is tried, whose ends meet the detector's work.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::channel::{Channel, consecutive_only, number};
use crate::client::outcomes::{Outcomes, Standing};

/// A call that waits for an instance: as soon as it is woken, it is sent and fails.
struct Waiting {
    outcomes: Arc<Outcomes>,
    is_over: AtomicBool,
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        if !self.is_over.swap(true, Ordering::SeqCst) {
            let admission = self.outcomes.probation().admit().unwrap();
            self.outcomes.record(true, admission);
            self.outcomes.probation().release(number(admission));
        }
    }
}

/// Three instances that all fail, of which the first is tried.
async fn tried() -> (Channel, Arc<Outcomes>) {
    let mut channel = Channel::new(3, consecutive_only());
    channel.fails(0, 5, 1);
    for _ in 0..3 {
        (1..3).for_each(|index| channel.calls(index, 0, 20));
        channel.interval().await;
    }
    assert_eq!(channel.standing(0), Standing::Probing);
    let outcomes = Arc::clone(channel.instances[0].outcomes().unwrap());
    (channel, outcomes)
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_ends_while_the_one_before_is_looked_at_is_looked_at_too() {
    let (mut channel, outcomes) = tried().await;
    let capacity = Arc::clone(&channel.capacity);
    let head = capacity.join().await;
    let waiting = Arc::new(Waiting { outcomes: Arc::clone(&outcomes), is_over: AtomicBool::new(false) });
    let mut freed = pin!(head.freed());
    freed.as_mut().enable();
    assert!(freed.poll(&mut Context::from_waker(&Arc::clone(&waiting).into())).is_pending());
    channel.calls(0, 0, 1);
    assert!(waiting.is_over.load(Ordering::SeqCst));
    assert_eq!(outcomes.probation().verdict(), Some(false));
    channel.outliers.look(Instant::now()).now_or_never().unwrap();
    assert_eq!((outcomes.probation().verdict(), outcomes.probation().has_room()), (None, true));
}

#[tokio::test(start_paused = true)]
async fn the_probe_after_one_that_has_decided_waits_until_that_is_looked_at() {
    for is_failure in [false, true] {
        let (mut channel, outcomes) = tried().await;
        let probe = outcomes.probation().admit().unwrap();
        outcomes.record(is_failure, probe);
        outcomes.probation().release(number(probe));
        assert_eq!((outcomes.probation().admit(), outcomes.probation().has_room()), (None, false));
        channel.outliers.look(Instant::now()).now_or_never().unwrap();
        assert!(outcomes.probation().admit().is_some());
    }
}

/// There are several at once while too few other instances are left.
#[tokio::test(start_paused = true)]
async fn of_several_probes_the_first_to_end_decides() {
    for is_failure in [false, true] {
        let (channel, outcomes) = tried().await;
        outcomes.probation().set_open(true);
        let probes = [(); 2].map(|()| outcomes.probation().admit().unwrap());
        outcomes.record(is_failure, probes[1]);
        outcomes.record(!is_failure, probes[0]);
        assert_eq!(outcomes.probation().verdict(), Some(!is_failure));
        drop(channel);
    }
}

/// Of a call that is held, for example, until a hedge of it has ended.
#[tokio::test(start_paused = true)]
async fn a_probe_that_ends_late_makes_no_room_for_another_one() {
    let (mut channel, outcomes) = tried().await;
    let late = outcomes.probation().admit().unwrap();
    outcomes.record(true, late);
    // The others fail as well: it is tried again.
    channel.outliers.look(Instant::now()).now_or_never().unwrap();
    assert!(outcomes.probation().admit().is_some());
    outcomes.probation().release(number(late));
    assert_eq!(outcomes.probation().admit(), None);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_has_failed_does_not_last() {
    let (mut channel, outcomes) = tried().await;
    let probe = outcomes.probation().admit().unwrap();
    for _ in 0..2 {
        channel.interval().await;
    }
    outcomes.record(true, probe);
    outcomes.probation().release(number(probe));
    for _ in 0..3 {
        channel.interval().await;
        assert_eq!(channel.standing(0), Standing::Probing);
    }
    channel.outliers.look(Instant::now()).now_or_never().unwrap();
    assert_eq!(channel.standing(0), Standing::Ejected);
}

/// Of a stream that lasts, for example, until the instance has been ejected again and is tried anew.
#[tokio::test(start_paused = true)]
async fn a_probe_of_an_earlier_trial_decides_on_nothing() {
    for is_failure in [false, true] {
        let (channel, outcomes) = tried().await;
        let old = outcomes.probation().admit().unwrap();
        for standing in [Standing::In, Standing::Ejected, Standing::Probing] {
            outcomes.probation().set(standing);
        }
        outcomes.record(is_failure, old);
        assert_eq!(outcomes.probation().verdict(), None);
        let new = outcomes.probation().admit().unwrap();
        outcomes.record(!is_failure, new);
        assert_eq!(outcomes.probation().verdict(), Some(is_failure));
        drop(channel);
    }
}

/// While the others answer: a server that is frozen, and a stream that its callers leave before its end.
#[tokio::test(start_paused = true)]
async fn probes_that_are_given_up_decide_in_the_end() {
    for (has_responded, expected) in [(false, Standing::Ejected), (true, Standing::In)] {
        let (mut channel, outcomes) = tried().await;
        for _ in 0..4 {
            assert_eq!(channel.standing(0), Standing::Probing);
            (1..3).for_each(|index| channel.calls(index, 20, 0));
            channel.give_up(0, has_responded);
            channel.interval().await;
        }
        assert_eq!(channel.standing(0), expected);
        let cause = (!has_responded).then_some("no probe was answered");
        assert_eq!(outcomes.cause().as_deref(), cause);
    }
}

#[tokio::test(start_paused = true)]
async fn probes_that_are_given_up_decide_nothing_while_the_others_fail() {
    let (mut channel, _) = tried().await;
    for round in 0..30 {
        // Or have no calls.
        let (succeeded, failed) = [(0, 20), (10, 20), (0, 0)][round % 3];
        (1..3).for_each(|index| channel.calls(index, succeeded, failed));
        channel.give_up(0, false);
        channel.interval().await;
        assert_eq!(channel.standing(0), Standing::Probing);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_in_an_earlier_trial_counts_for_nothing() {
    let (mut channel, outcomes) = tried().await;
    let old = outcomes.probation().admit().unwrap();
    channel.give_up(0, true);
    for standing in [Standing::In, Standing::Ejected, Standing::Probing] {
        outcomes.probation().set(standing);
    }
    outcomes.given_up(old, true);
    let trial = outcomes.trial().unwrap();
    assert_eq!((trial.probe, trial.given_up, trial.has_responded), (None, None, false));
    channel.give_up(0, false);
    let trial = outcomes.trial().unwrap();
    assert!(trial.given_up.is_some() && !trial.has_responded);
}
