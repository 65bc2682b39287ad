//! One tier: how much of the load it can take, and whether it is connected to.

use std::time::Duration;

use tokio::time::Instant;

use super::choice::Condition;
use super::cut::Cut;

/// How much of a tier has to be usable: 1 / 1.4 = 71 % (Envoy's overprovisioning factor).
const OVERPROVISIONING: f64 = 1.4;
/// So long servers that are connecting count as usable, and the next tier is not connected to (gRFC A56's failover timer).
const FAILOVER: Duration = Duration::from_secs(10);
/// So long a tier stays connected when it is not needed any more (gRFC A56).
const LINGER: Duration = Duration::from_secs(15 * 60);

/// The servers of one tier. Those of weight 0 are taken, and count for nothing.
#[derive(Debug)]
pub(super) struct Tier {
    pub(super) cut: Cut,
    /// How many there are, taken or not.
    pub(super) members: usize,
    /// How many of those that are taken are ready, and how many are connecting.
    ready: usize,
    pending: usize,
    /// The weights of those that are ready.
    weight: u64,
    /// The most that are taken, but for those that are failing.
    most: usize,
    in_use: InUse,
    pending_since: Option<Instant>,
    unneeded_since: Option<Instant>,
}

/// Which of a tier's servers are connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InUse {
    Nothing,
    /// Those that were connected when the selection was set.
    Kept,
    All,
}

impl Tier {
    pub(super) fn new(most: usize) -> Self {
        Self {
            cut: Cut::new(most),
            members: 0,
            ready: 0,
            pending: 0,
            weight: 0,
            most,
            in_use: InUse::Nothing,
            pending_since: None,
            unneeded_since: None,
        }
    }

    /// Whether some of its servers are connected to.
    pub(super) fn is_active(&self) -> bool {
        self.in_use != InUse::Nothing
    }

    /// Whether a server of it is connected to, which was [kept](Self::keep) or not.
    pub(super) fn includes(&self, is_kept: bool) -> bool {
        match self.in_use {
            InUse::Nothing => false,
            InUse::Kept => is_kept,
            InUse::All => true,
        }
    }

    /// Some of its servers are connected already: they stay so for a while if the tier is not needed.
    pub(super) fn keep(&mut self) {
        if !self.is_active() {
            self.in_use = InUse::Kept;
        }
    }

    /// Sets whether its servers are connected to. When they are not needed any more they stay so for a while, or not at all.
    /// Returns whether it has changed.
    pub(super) fn set_needed(&mut self, is_needed: bool, lingers: bool, now: Instant) -> bool {
        let before = self.in_use;
        if is_needed {
            (self.in_use, self.unneeded_since) = (InUse::All, None);
        } else if self.is_active() {
            let since = *self.unneeded_since.get_or_insert(now);
            if !lingers || now >= since + LINGER {
                self.in_use = InUse::Nothing;
            }
        }
        if !self.is_active() {
            (self.pending_since, self.unneeded_since) = (None, None);
        }
        self.in_use != before
    }

    /// Counts a server of this weight anew: what it was, and what it is now.
    pub(super) fn recount(&mut self, weight: u32, before: Option<Condition>, now: Option<Condition>) {
        let ready =
            |condition| usize::from(matches!(condition, Some(Condition::Ready | Condition::Replacing)));
        let pending = |condition| usize::from(condition == Some(Condition::Pending));
        self.ready = self.ready + ready(now) - ready(before);
        self.pending = self.pending + pending(now) - pending(before);
        self.weight =
            self.weight + u64::from(weight) * ready(now) as u64 - u64::from(weight) * ready(before) as u64;
    }

    /// Returns the sum of the weights of those that are ready.
    #[allow(clippy::cast_precision_loss, reason = "a share needs no more precision")]
    pub(super) fn weight(&self) -> f64 {
        self.weight as f64
    }

    /// Returns how much of the load the tier can take: all of it, if it is more than 1.
    pub(super) fn availability(&self) -> f64 {
        self.share(self.ready)
    }

    /// The same if those that are connecting become ready soon; until the failover timer has expired.
    pub(super) fn expected(&mut self, now: Instant) -> f64 {
        // Most of a tier of which some are kept are not connected to.
        if self.pending == 0 || self.in_use == InUse::Kept {
            self.pending_since = None;
            return self.availability();
        }
        let since = *self.pending_since.get_or_insert(now);
        self.share(if now < since + FAILOVER { self.ready + self.pending } else { self.ready })
    }

    /// Returns when something changes by time alone.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let failover = self.pending_since.map(|since| since + FAILOVER).filter(|due| *due > now);
        // While it is not needed, neither are those after it.
        self.unneeded_since.map(|since| since + LINGER).or(failover)
    }

    #[allow(clippy::cast_precision_loss, reason = "numbers of servers")]
    fn share(&self, usable: usize) -> f64 {
        match self.members.min(self.most) {
            0 => 0.0,
            members => OVERPROVISIONING * usable as f64 / members as f64,
        }
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> [u64; 4] {
        [self.members as u64, self.ready as u64, self.pending as u64, self.weight]
    }
}
