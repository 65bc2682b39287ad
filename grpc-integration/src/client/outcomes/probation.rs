//! Whether an instance is called, not called, or tried.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::client::sync::AtomicBool;

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
    /// Its outcome decides on the instance.
    Probe,
}

/// The calls that are let through to an instance.
#[derive(Debug, Default)]
pub(crate) struct Probation {
    standing: AtomicU8,
    /// Lets all calls through, because there are too few other instances.
    is_open: AtomicBool,
    has_probe: AtomicBool,
    /// The number of probes so far.
    probes: AtomicU64,
    verdict: AtomicU8,
}

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
        self.verdict.store(UNDECIDED, Ordering::SeqCst);
        self.free();
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
        let has_probe = self.has_probe.swap(true, Ordering::SeqCst);
        if has_probe && !self.is_open.load(Ordering::SeqCst) {
            return None;
        }
        self.probes.fetch_add(1, Ordering::Relaxed);
        Some(Admission::Probe)
    }

    /// A probe has ended. If it has decided on the instance, the next one waits for what the channel's task makes of it.
    pub(crate) fn release(&self) {
        if self.verdict.load(Ordering::SeqCst) == UNDECIDED {
            self.free();
        }
    }

    /// Written by a swap, as in [`admit`](Self::admit): then either that finds it free, or what wakes the calls that wait
    /// finds the one that came in between.
    fn free(&self) {
        self.has_probe.swap(false, Ordering::SeqCst);
    }

    /// Returns whether this outcome decides on the instance.
    pub(super) fn ended(&self, is_failure: bool, admission: Admission) -> bool {
        if admission != Admission::Probe || self.standing() != Standing::Probing {
            return false;
        }
        let verdict = if is_failure { FAILED } else { SUCCEEDED };
        self.verdict.compare_exchange(UNDECIDED, verdict, Ordering::SeqCst, Ordering::SeqCst).is_ok()
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
        self.has_probe.load(Ordering::SeqCst).then(|| self.probes.load(Ordering::Relaxed))
    }

    fn is_full(&self) -> bool {
        self.has_probe.load(Ordering::SeqCst) && !self.is_open.load(Ordering::SeqCst)
    }
}
