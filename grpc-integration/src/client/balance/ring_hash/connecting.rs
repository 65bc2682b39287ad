//! The instances that are being connected to, for as long as calls wait for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{HasId, Instance, SortedById};
use tokio::time::Instant;

use crate::client::balance::PATIENCE;
use crate::client::ready_instance::ReadyInstance;

/// By how much longer at most, so that those that began one after the other are given up together: the ring is changed each time.
const STEP: Duration = Duration::from_millis(100);

/// Kept up with each change of one.
#[derive(Debug, Default)]
pub(super) struct Connecting {
    all: SortedById<Arc<Instance>>,
    /// Without those that were given up.
    awaited: SortedById<ReadyInstance>,
    /// Until when each is waited for, the first one first. Those behind it may have become ready since.
    ends: VecDeque<(Instant, ReadyInstance)>,
}

impl Connecting {
    /// Takes over the instances that are being connected to. It works from what has changed.
    pub(super) fn update(&mut self, connecting: &SortedById<Arc<Instance>>) {
        let (before, end) = (std::mem::replace(&mut self.all, connecting.clone()), Instant::now() + PATIENCE);
        for (old, new) in connecting.merge(&before) {
            match (old, new) {
                (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {}
                (Some(_), Some(new)) => {
                    if let Some(known) = self.awaited.get(new.id()) {
                        let described = known.described_as(Arc::clone(new));
                        self.awaited.insert(described);
                    }
                }
                (None, Some(new)) => {
                    let new = ReadyInstance::new(Arc::clone(new));
                    self.ends.push_back((end, new.clone()));
                    self.awaited.insert(new);
                }
                (Some(old), None) => drop(self.awaited.remove(old.id())),
                (None, None) => {}
            }
        }
    }

    /// Gives up those that are connected to for too long, once that is [due](Self::due).
    pub(super) fn give_up(&mut self) {
        let now = Instant::now();
        let is_due = self.ends.front().is_some_and(|(end, _)| *end + STEP <= now);
        while let Some((end, instance)) = self.ends.front() {
            if self.awaited.get(instance.id()) == Some(instance) {
                if !is_due || *end > now {
                    return;
                }
                self.awaited.remove(instance.id());
            }
            self.ends.pop_front();
        }
    }

    /// Returns when some are to be given up.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end + STEP)
    }

    /// Returns those that calls wait for: without a connection, whether they are ready or not.
    pub(super) fn awaited(&self) -> &SortedById<ReadyInstance> {
        &self.awaited
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep_until};

    use super::*;

    fn instance(name: &str) -> Arc<Instance> {
        Arc::new(Instance::new(format!("{name}:1").parse().unwrap()))
    }

    fn ids(connecting: &Connecting) -> Vec<String> {
        connecting.awaited().iter().map(|awaited| awaited.id().to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_awaited_for_a_second_from_when_it_begins_whatever_becomes_of_the_others() {
        let (mut all, mut connecting) = (SortedById::new(), Connecting::default());
        let began = Instant::now();
        for name in ["a", "b", "c"] {
            all.insert(instance(name));
            connecting.update(&all);
            advance(PATIENCE / 4).await;
        }
        // Described anew, which is no other attempt; and another attempt.
        all.insert(instance("a"));
        all.remove(instance("b").id());
        connecting.update(&all);
        connecting.give_up();
        all.insert(instance("b"));
        connecting.update(&all);
        assert!(Arc::ptr_eq(connecting.awaited()[0].instance(), &all[0]), "an old description");
        let mut gone = Vec::new();
        while let Some(due) = connecting.due() {
            sleep_until(due).await;
            let before = ids(&connecting);
            connecting.give_up();
            gone.extend(before.into_iter().filter(|id| !ids(&connecting).contains(id)));
            gone.push(format!("{}", began.elapsed().as_millis()));
        }
        assert_eq!(gone, ["a:1", "1100", "c:1", "1600", "b:1", "1850"]);
        // They are not awaited again before they were something else.
        connecting.update(&all);
        assert!(connecting.awaited().is_empty());
    }

    /// Each change of the ring has its price.
    #[tokio::test(start_paused = true)]
    async fn those_that_begin_one_after_the_other_are_given_up_in_few_steps() {
        let (mut all, mut connecting) = (SortedById::new(), Connecting::default());
        for number in 0..1000 {
            all.insert(instance(&format!("h{number}")));
            connecting.update(&all);
            connecting.give_up();
            advance(Duration::from_millis(1)).await;
        }
        let mut steps = 0;
        while let Some(due) = connecting.due() {
            sleep_until(due).await;
            connecting.give_up();
            steps += 1;
        }
        assert!(connecting.awaited().is_empty());
        assert!((5..=11).contains(&steps), "{steps}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_become_ready_is_kept_no_longer_than_for_its_second() {
        let (none, mut connecting) = (SortedById::new(), Connecting::default());
        for _ in 0..1000 {
            connecting.update(&SortedById::from_iter([instance("a")]));
            connecting.update(&none);
            connecting.give_up();
            assert_eq!((connecting.due(), connecting.ends.len()), (None, 0));
        }
    }
}
