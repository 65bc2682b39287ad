//! What the protection remembers: a count within a window, and values with dates.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::InstanceId;

/// The peak of a count within a window.
///
/// An announced removal is subtracted from all counts, as if the instance had never been there.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Counts that are larger than all later ones, oldest first, and when the next count came. The last is the present
    /// one. All are stored as if there had been no announced removal.
    larger: VecDeque<(usize, Option<Instant>)>,
    announced: usize,
}

impl Counts {
    pub(super) fn push(&mut self, now: Instant, count: usize) {
        let count = count.saturating_add(self.announced);
        if let Some((_, until)) = self.larger.back_mut() {
            *until = Some(now);
        }
        while self.larger.back().is_some_and(|(earlier, _)| *earlier <= count) {
            self.larger.pop_back();
        }
        self.larger.push_back((count, None));
    }

    pub(super) fn announced_removal(&mut self) {
        self.announced = self.announced.saturating_add(1);
    }

    pub(super) fn peak(&self) -> usize {
        self.larger.front().map_or(0, |(count, _)| count.saturating_sub(self.announced))
    }

    /// Forgets the counts that were replaced before the window.
    pub(super) fn forget(&mut self, now: Instant, window: Duration) {
        let is_old = |until: &Option<Instant>| until.is_some_and(|until| now.duration_since(until) > window);
        while self.larger.front().is_some_and(|(_, until)| is_old(until)) {
            self.larger.pop_front();
        }
    }
}

/// Values by id, each with a date. Dates never decrease.
#[derive(Debug)]
pub(super) struct Dated<T> {
    by_id: BTreeMap<InstanceId, (Instant, T)>,
    /// In order; what was removed or replaced since stays until it is the first.
    by_date: VecDeque<(Instant, InstanceId)>,
}

impl<T> Dated<T> {
    pub(super) fn insert(&mut self, id: InstanceId, at: Instant, value: T) {
        self.by_date.push_back((at, id.clone()));
        self.by_id.insert(id, (at, value));
        self.skip_removed();
    }

    pub(super) fn remove(&mut self, id: &InstanceId) -> Option<T> {
        let removed = self.by_id.remove(id);
        self.skip_removed();
        removed.map(|(_, value)| value)
    }

    /// The first date.
    pub(super) fn first(&self) -> Option<Instant> {
        self.by_date.front().map(|(at, _)| *at)
    }

    pub(super) fn pop_first(&mut self) -> Option<(InstanceId, T)> {
        let (_, id) = self.by_date.pop_front()?;
        let removed = self.by_id.remove(&id);
        self.skip_removed();
        removed.map(|(_, value)| (id, value))
    }

    fn skip_removed(&mut self) {
        while let Some((at, id)) = self.by_date.front()
            && self.by_id.get(id).is_none_or(|(present, _)| present != at)
        {
            self.by_date.pop_front();
        }
    }
}

impl<T> Default for Dated<T> {
    fn default() -> Self {
        Self { by_id: BTreeMap::new(), by_date: VecDeque::new() }
    }
}
