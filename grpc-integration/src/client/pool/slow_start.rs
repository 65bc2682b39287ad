//! Slow start: the weights of instances that have become ready grow.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use hither_core::{HasId, InstanceId, SortedById};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use crate::client::balance::SlowStart;
use crate::client::ready_instance::ReadyInstance;

/// Into how many steps the window is cut.
const STEPS: u32 = 20;
const MIN_STEP: Duration = Duration::from_millis(100);
/// What is back sooner was not restarted.
const ABSENCE: Duration = Duration::from_secs(1);

/// The ready instances, those that are new among them with less weight.
///
/// All that become ready within one step begin together, so that they are equal for each other.
#[derive(Debug)]
pub(super) struct SlowStarts {
    config: SlowStart,
    began: Instant,
    /// The step that the weights are as of.
    step: u32,
    /// As it was given last.
    ready: SortedById<ReadyInstance>,
    weighted: SortedById<ReadyInstance>,
    /// The steps at which the windows of those that are new have begun.
    starts: BTreeMap<InstanceId, u32>,
    absent: HashMap<usize, Absent>,
    /// When which were no longer ready, the earliest first. Those that are back are here, too, until then.
    departures: VecDeque<(Instant, usize)>,
}

/// An instance that is not ready any more.
#[derive(Debug)]
struct Absent {
    since: Instant,
    start: Option<u32>,
    /// Kept, because it is known by its address in memory.
    _instance: ReadyInstance,
}

impl SlowStarts {
    pub(super) fn new(config: SlowStart) -> Self {
        Self {
            config,
            began: Instant::now(),
            step: 0,
            ready: SortedById::new(),
            weighted: SortedById::new(),
            starts: BTreeMap::new(),
            absent: HashMap::new(),
            departures: VecDeque::new(),
        }
    }

    /// Returns when the weights are to be computed anew.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.starts.is_empty()).then(|| self.began + self.length() * (self.step + 1))
    }

    /// Returns the ready instances with the weights that they have now. What it does depends on what has changed and on how
    /// many are new, and yields.
    pub(super) async fn weighted(&mut self, ready: SortedById<ReadyInstance>) -> SortedById<ReadyInstance> {
        let now = Instant::now();
        // As many steps as fit take 13 years.
        let step = ((now - self.began).as_nanos() / self.length().as_nanos()) as u32;
        let is_next = step != std::mem::replace(&mut self.step, step);
        self.forget(now).await;
        if !ready.is_same(&self.ready) {
            self.follow(ready, now).await;
        }
        if is_next {
            self.grow().await;
        }
        self.weighted.clone()
    }

    /// Forgets those that have been absent for long. Each is looked at once, however often this is called.
    async fn forget(&mut self, now: Instant) {
        while let Some((since, key)) =
            self.departures.front().copied().filter(|(since, _)| now - *since >= ABSENCE)
        {
            consume_budget().await;
            self.departures.pop_front();
            // It may have been back since, and gone again.
            if self.absent.get(&key).is_some_and(|absent| absent.since == since) {
                self.absent.remove(&key);
            }
        }
    }

    async fn follow(&mut self, ready: SortedById<ReadyInstance>, now: Instant) {
        let before = std::mem::replace(&mut self.ready, ready.clone());
        for (old, new) in ready.merge(&before) {
            consume_budget().await;
            if let Some(old) = old.filter(|old| new.is_none_or(|new| new != *old)) {
                self.weighted.remove(old.id());
                let start = self.starts.remove(old.id());
                self.absent.insert(old.key(), Absent { since: now, start, _instance: old.clone() });
                self.departures.push_back((now, old.key()));
            }
        }
        for (old, new) in ready.merge(&before) {
            consume_budget().await;
            let Some(new) = new.filter(|new| old.is_none_or(|old| !old.is_same(new))) else { continue };
            if old != Some(new) {
                let start = self.absent.remove(&new.key()).map_or(Some(self.step), |absent| absent.start);
                if let Some(start) = start {
                    self.starts.insert(new.id().clone(), start);
                }
            }
            let factor = self.starts.get(new.id()).and_then(|start| self.factor(*start));
            self.weighted.insert(factor.map_or_else(|| new.clone(), |factor| new.with_factor(factor)));
        }
        before.discard().await;
    }

    async fn grow(&mut self) {
        for (id, start) in std::mem::take(&mut self.starts) {
            consume_budget().await;
            let Some(ready) = self.ready.get(&id) else { continue };
            let Some(factor) = self.factor(start) else {
                self.weighted.insert(ready.clone());
                continue;
            };
            let weighted = ready.with_factor(factor);
            if self.weighted.get(&id).map(ReadyInstance::weight) != Some(weighted.weight()) {
                self.weighted.insert(weighted);
            }
            self.starts.insert(id, start);
        }
    }

    fn factor(&self, start: u32) -> Option<f64> {
        self.config.factor(self.length() * (self.step - start))
    }

    fn length(&self) -> Duration {
        (self.config.window / STEPS).max(MIN_STEP)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hither_core::Instance;
    use tokio::time::{advance, sleep_until};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn instance(id: usize, weight: u32) -> ReadyInstance {
        let instance = Instance::new("h:1".parse().unwrap()).with_id(format!("i{id:02}").parse().unwrap());
        ReadyInstance::new(Arc::new(instance.with_weight(weight)))
    }

    fn list(instances: &[&ReadyInstance]) -> SortedById<ReadyInstance> {
        instances.iter().map(|instance| (*instance).clone()).collect()
    }

    async fn weights(starts: &mut SlowStarts, ready: &[&ReadyInstance]) -> Vec<f64> {
        starts.weighted(list(ready)).await.iter().map(ReadyInstance::weight).collect()
    }

    fn minute() -> SlowStarts {
        SlowStarts::new(SlowStart::new(60 * SECOND))
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_joins_grows_step_by_step_and_the_others_stay_as_they_are() {
        let (mut starts, a, b) = (minute(), instance(1, 10), instance(2, 10));
        assert_eq!(weights(&mut starts, &[&a]).await, [1.0]);
        let alone = list(&[&a]);
        while let Some(due) = starts.due() {
            sleep_until(due).await;
            starts.weighted(alone.clone()).await;
        }
        assert_eq!(weights(&mut starts, &[&a]).await, [10.0]);

        let both = list(&[&a, &b]);
        let joined = Instant::now();
        let mut last = starts.weighted(both.clone()).await;
        assert_eq!(last.iter().map(ReadyInstance::weight).collect::<Vec<_>>(), [10.0, 1.0]);
        let mut steps = 0;
        while let Some(due) = starts.due() {
            sleep_until(due).await;
            let next = starts.weighted(both.clone()).await;
            let (weight, part) = (next[1].weight(), joined.elapsed().as_secs_f64() / 60.0);
            assert!((weight - 10.0 * part.max(0.1)).abs() < 1e-9, "{weight} after {part}");
            assert!(next[0].is_same(&a) && weight >= last[1].weight());
            assert_eq!(next.is_same(&last), weight == last[1].weight(), "no new list without a change");
            last = next;
            steps += 1;
        }
        assert_eq!((steps, joined.elapsed()), (STEPS, 60 * SECOND));
        assert!(last[1].is_same(&b));
    }

    /// envoy#29008: slow start ended when further instances joined.
    #[tokio::test(start_paused = true)]
    async fn another_that_joins_or_changes_ends_no_window() {
        let (mut starts, a, b, c) = (minute(), instance(1, 10), instance(2, 10), instance(3, 10));
        weights(&mut starts, &[&a]).await;
        advance(100 * SECOND).await;
        weights(&mut starts, &[&a]).await;
        weights(&mut starts, &[&a, &b]).await;
        advance(30 * SECOND).await;
        assert_eq!(weights(&mut starts, &[&a, &b, &c]).await, [10.0, 5.0, 1.0]);
        let b = b.described_as(instance(2, 20).instance().clone());
        assert_eq!(weights(&mut starts, &[&a, &b, &c]).await, [10.0, 10.0, 1.0]);
        let b = b.described_as(instance(0, 20).instance().clone());
        assert_eq!(weights(&mut starts, &[&a, &b, &c]).await, [10.0, 10.0, 1.0], "the first has another id");
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_are_new_are_equal() {
        let (mut starts, a, b, c) = (minute(), instance(1, 1), instance(2, 1), instance(3, 1));
        weights(&mut starts, &[&a]).await;
        advance(SECOND / 2).await;
        weights(&mut starts, &[&a, &b]).await;
        advance(SECOND).await;
        let equal = weights(&mut starts, &[&a, &b, &c]).await;
        advance(30 * SECOND).await;
        for weights in [equal, weights(&mut starts, &[&a, &b, &c]).await] {
            assert!(weights.iter().all(|weight| *weight == weights[0]), "{weights:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_gone_for_a_second_begins_anew_and_one_that_has_reconnected_does_not() {
        let (mut starts, a, b) = (minute(), instance(1, 10), instance(2, 10));
        for _ in 0..2 {
            weights(&mut starts, &[&a, &b]).await;
            advance(100 * SECOND).await;
        }
        assert_eq!(weights(&mut starts, &[&a, &b]).await, [10.0, 10.0]);
        weights(&mut starts, &[&a]).await;
        advance(SECOND / 2).await;
        assert_eq!(weights(&mut starts, &[&a, &b]).await, [10.0, 10.0]);
        weights(&mut starts, &[]).await;
        advance(SECOND).await;
        assert_eq!(weights(&mut starts, &[&b]).await, [1.0]);
        advance(30 * SECOND).await;
        weights(&mut starts, &[]).await;
        advance(SECOND / 2).await;
        assert_eq!(weights(&mut starts, &[&b]).await, [5.0], "within its window, too");
        advance(2 * SECOND).await;
        weights(&mut starts, &[&b]).await;
        assert!(starts.absent.is_empty() && starts.departures.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_lost_again_and_again_does_not_begin_anew() {
        let (mut starts, a, b) = (minute(), instance(1, 10), instance(2, 10));
        weights(&mut starts, &[&a, &b]).await;
        advance(100 * SECOND).await;
        for _ in 0..10 {
            weights(&mut starts, &[&a]).await;
            advance(3 * SECOND / 10).await;
            assert_eq!(weights(&mut starts, &[&a, &b]).await, [10.0, 10.0]);
            advance(SECOND / 10).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_is_that_of_the_server_and_not_of_its_id() {
        let (mut starts, a, b) = (minute(), instance(1, 10), instance(2, 10));
        weights(&mut starts, &[&a]).await;
        advance(100 * SECOND).await;
        weights(&mut starts, &[&a, &b]).await;
        advance(30 * SECOND).await;
        assert_eq!(weights(&mut starts, &[&a, &b]).await, [10.0, 5.0]);
        let [a, b] = [a.described_as(b.instance().clone()), b.described_as(a.instance().clone())];
        assert_eq!(weights(&mut starts, &[&b, &a]).await, [5.0, 10.0], "they have changed their ids");
        assert_eq!(weights(&mut starts, &[&instance(1, 10), &a]).await, [1.0, 10.0], "another server");
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_window_has_steps_that_are_not_too_short() {
        let mut starts = SlowStarts::new(SlowStart::new(Duration::from_nanos(1)));
        let a = instance(1, 10);
        weights(&mut starts, &[&a]).await;
        assert_eq!(starts.due(), Some(starts.began + MIN_STEP));
        advance(MIN_STEP).await;
        assert_eq!(weights(&mut starts, &[&a]).await, [10.0]);
        assert_eq!(starts.due(), None);
    }
}
