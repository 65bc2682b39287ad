//! Whether an instance is called, not called, or tried.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::client::sync::{AtomicBool, AtomicU64};

/// How an instance stands. Set by the channel's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Called like the others.
    In,
    /// Left out, unless too many are.
    Ejected,
    /// Its ejection is over: it is tried by one call at a time (half-open).
    Probing,
}

/// What a call is to its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Call,
    /// Its outcome decides on the instance. It has this number.
    Probe(u64),
}

/// The calls that are let through to an instance.
#[derive(Debug, Default)]
pub(crate) struct Probation {
    standing: AtomicU8,
    /// Lets all calls through, because there are too few other instances.
    is_open: AtomicBool,
    /// The number of the probe that is in flight; [`NONE`] if there is none.
    probe: AtomicU64,
    /// The number of the latest probe.
    latest: AtomicU64,
    /// The number of the latest probe when this trial began: those up to it are of other trials.
    before: AtomicU64,
    verdict: AtomicU8,
    /// The number of the latest probe that was sent and has decided on nothing; [`NONE`] if there is none.
    given_up: AtomicU64,
    /// The same of those whose responses had begun.
    given_up_late: AtomicU64,
}

/// What is known of a trial that is not decided.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trial {
    /// The number of the probe that is in flight.
    pub(crate) probe: Option<u64>,
    /// The number of the latest probe that was given up: by its caller, or because its hedge was faster.
    pub(crate) given_up: Option<u64>,
    /// Whether the response of any of those had begun.
    pub(crate) has_responded: bool,
    /// Whether most of the others' calls have succeeded in the last interval.
    pub(crate) do_others_succeed: bool,
}

const NONE: u64 = 0;
const UNDECIDED: u8 = 0;
const SUCCEEDED: u8 = 1;
const FAILED: u8 = 2;

impl Probation {
    pub(crate) fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Acquire) {
            0 => Standing::In,
            1 => Standing::Ejected,
            _ => Standing::Probing,
        }
    }

    pub(crate) fn set(&self, standing: Standing) {
        self.before.store(self.latest.load(Ordering::SeqCst), Ordering::SeqCst);
        self.verdict.store(UNDECIDED, Ordering::SeqCst);
        // Written by a swap, as in `admit`.
        self.probe.swap(NONE, Ordering::SeqCst);
        self.standing.store(standing as u8, Ordering::Release);
    }

    /// Sets whether all calls are let through.
    pub(crate) fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::SeqCst);
    }

    /// Returns whether a call would be let through.
    pub(crate) fn has_room(&self) -> bool {
        self.standing() != Standing::Probing || !self.is_full()
    }

    /// Lets a call through, or not. A probe holds the place until it is [released](Self::release).
    pub(crate) fn admit(&self) -> Option<Admission> {
        if self.standing() != Standing::Probing {
            return Some(Admission::Call);
        }
        let number = self.latest.fetch_add(1, Ordering::Relaxed) + 1;
        let is_admitted = self.replace(NONE, number) || self.is_open.load(Ordering::SeqCst);
        is_admitted.then_some(Admission::Probe(number))
    }

    /// This probe has ended. If it has decided on the instance, the next one waits for what the channel's task makes of it.
    /// One from before the instance was ejected again holds the place no more.
    pub(crate) fn release(&self, probe: u64) {
        if self.verdict.load(Ordering::SeqCst) == UNDECIDED {
            self.replace(probe, NONE);
        }
    }

    /// Returns whether the place was held by `from`, as it is by `to` now. It is written in either case: then a call that
    /// finds it held is found by what wakes the calls that wait when it is freed.
    fn replace(&self, from: u64, to: u64) -> bool {
        let change = |held| Some(if held == from { to } else { held });
        self.probe.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change) == Ok(from)
    }

    /// Returns whether this outcome decides on the instance.
    pub(super) fn ended(&self, is_failure: bool, admission: Admission) -> bool {
        let Admission::Probe(number) = admission else { return false };
        if self.standing() != Standing::Probing || number <= self.before.load(Ordering::SeqCst) {
            return false;
        }
        let verdict = if is_failure { FAILED } else { SUCCEEDED };
        self.verdict.compare_exchange(UNDECIDED, verdict, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// This attempt was sent, and its outcome tells nothing. `has_responded`: whether its response had begun.
    pub(super) fn given_up(&self, admission: Admission, has_responded: bool) {
        let Admission::Probe(number) = admission else { return };
        self.given_up.fetch_max(number, Ordering::SeqCst);
        if has_responded {
            self.given_up_late.fetch_max(number, Ordering::SeqCst);
        }
    }

    /// Returns what is known of the trial, unless a probe has decided.
    pub(super) fn trial(&self, do_others_succeed: bool) -> Option<Trial> {
        let before = self.before.load(Ordering::SeqCst);
        let of_this_one = |number: &u64| *number > before;
        self.verdict().is_none().then(|| Trial {
            probe: self.probe(),
            given_up: Some(self.given_up.load(Ordering::SeqCst)).filter(of_this_one),
            has_responded: of_this_one(&self.given_up_late.load(Ordering::SeqCst)),
            do_others_succeed,
        })
    }

    /// Returns whether a probe has succeeded, if one has ended.
    pub(crate) fn verdict(&self) -> Option<bool> {
        match self.verdict.load(Ordering::SeqCst) {
            SUCCEEDED => Some(true),
            FAILED => Some(false),
            _ => None,
        }
    }

    /// Returns the number of the probe that is in flight.
    pub(crate) fn probe(&self) -> Option<u64> {
        Some(self.probe.load(Ordering::SeqCst)).filter(|probe| *probe != NONE)
    }

    fn is_full(&self) -> bool {
        self.probe().is_some() && !self.is_open.load(Ordering::SeqCst)
    }
}
