//! How the calls to an instance end, as outlier detection counts them.

mod all;
mod counts;
mod evidence;
mod probation;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use all::AllOutcomes;
use counts::Counter;
pub(crate) use counts::Counts;
pub(crate) use evidence::is_clearly_worse;
use probation::Probation;
pub(crate) use probation::{Admission, Standing, Trial};

/// The outcomes of one instance's calls. Calls add to it without a lock; the channel's task reads it.
#[derive(Debug)]
pub(crate) struct Outcomes {
    number: u64,
    all: Arc<AllOutcomes>,
    /// Since the last sweep.
    counts: Counter,
    /// Between that one and the one before.
    before: Counter,
    /// The number of failures since the last success.
    in_a_row: AtomicU64,
    /// All outcomes of the channel when the first of those failed.
    at_first: Counter,
    /// Whether the channel's task was notified, and has not looked since.
    is_listed: AtomicBool,
    probation: Probation,
    /// Why it is ejected.
    cause: Mutex<Option<Arc<str>>>,
}

impl Outcomes {
    /// Returns those of an instance, which has this number among all of the channel.
    pub(crate) fn new(number: u64, all: &Arc<AllOutcomes>) -> Self {
        Self {
            number,
            all: Arc::clone(all),
            counts: Counter::default(),
            before: Counter::default(),
            in_a_row: AtomicU64::new(0),
            at_first: Counter::default(),
            is_listed: AtomicBool::new(false),
            probation: Probation::default(),
            cause: Mutex::default(),
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn probation(&self) -> &Probation {
        &self.probation
    }

    /// Returns why it is ejected, or was before it is being tried.
    pub(crate) fn cause(&self) -> Option<Arc<str>> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_cause(&self, cause: Option<Arc<str>>) {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }

    /// Records a call that the server has answered or failed.
    pub(crate) fn record(&self, is_failure: bool, admission: Admission) {
        let first = is_failure && self.in_a_row.load(Ordering::Relaxed) == 0;
        if first {
            self.at_first.store(self.all.counts());
        }
        self.counts.add(is_failure);
        self.all.add(is_failure);
        if is_failure {
            self.in_a_row.fetch_add(1, Ordering::Relaxed);
        } else if self.in_a_row.load(Ordering::Relaxed) > 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        if self.probation.ended(is_failure, admission) || is_failure && self.is_suspect() {
            self.notify();
        }
    }

    /// Notes a call that was sent and tells nothing of the server: its caller has given it up, or its hedge was faster.
    pub(crate) fn given_up(&self, admission: Admission, has_responded: bool) {
        self.probation.given_up(admission, has_responded);
    }

    /// Returns what is known of the trial of the instance, unless a probe has decided. At the end of an interval.
    pub(crate) fn trial(&self) -> Option<Trial> {
        let others = self.others();
        self.probation.trial(others.succeeded > others.failed)
    }

    /// Returns how many calls have failed in a row, if they are enough to eject the instance.
    pub(crate) fn run(&self) -> Option<u64> {
        let enough = u64::from(self.all.consecutive_failures()?);
        let run = self.in_a_row.load(Ordering::Relaxed);
        if run < enough {
            return None;
        }
        let own = Counts { succeeded: 0, failed: run };
        // Both: what has begun to fail everywhere does so since the first of them, and what has been failing everywhere
        // for long may by chance have succeeded elsewhere in so short a time.
        let since = self.all.counts() - self.at_first.load() - own;
        (is_clearly_worse(own, since) && is_clearly_worse(own, self.others())).then_some(run)
    }

    /// Returns the outcomes of the other instances, in this interval and the one before.
    pub(crate) fn others(&self) -> Counts {
        self.all.recent() - (self.counts.load() + self.before.load())
    }

    /// Ends the interval of this instance: returns its counts.
    pub(crate) fn sweep(&self) -> Counts {
        let counts = self.counts.take();
        self.before.store(counts);
        self.looked_at();
        counts
    }

    /// The channel's task looks at it, and is to be notified again of what comes from now on. A swap, so that it sees what
    /// those calls have recorded that have found it listed.
    pub(crate) fn looked_at(&self) {
        self.is_listed.swap(false, Ordering::AcqRel);
    }

    /// Forgets the failures in a row.
    pub(crate) fn forget_run(&self) {
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    fn is_suspect(&self) -> bool {
        !self.is_listed.load(Ordering::Relaxed)
            && self.probation.standing() == Standing::In
            && self.run().is_some()
    }

    fn notify(&self) {
        if !self.is_listed.swap(true, Ordering::AcqRel) {
            self.all.list(self.number);
        }
    }
}
