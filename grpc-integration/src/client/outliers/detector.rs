//! The detector: decides which instances are ejected, and for how long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hither_core::{ServiceName, SortedById};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};

use super::admitted::Admitted;
use super::config::OutlierDetection;
use super::ejection::{Ejection, Stage, Swept};
use super::log::EjectionLog;
use super::rates::{by_failure_percentage, by_success_rate};
use crate::client::metrics::{ChannelMetrics, outlier};
use crate::client::outcomes::{AllOutcomes, Counts, Outcomes, Standing, is_clearly_worse};
use crate::client::ready_instance::ReadyInstance;

/// Which instances of a channel are ejected. Owned by its pool, which hands it the time.
#[derive(Debug)]
pub(crate) struct Outliers {
    config: OutlierDetection,
    all: Arc<AllOutcomes>,
    watched: BTreeMap<u64, Watched>,
    next_number: u64,
    /// Those that are ejected or being tried.
    out: BTreeSet<u64>,
    /// Those of them that count for the maximum: not those that are not ready, or are to be tried and get no calls.
    places: BTreeSet<u64>,
    admitted: Admitted,
    /// Whether all are called, because too few would be left.
    is_panic: bool,
    /// Those that were ejected, are being tried or called again since the last time.
    changed: Vec<ReadyInstance>,
    next_sweep: Instant,
    random: fastrand::Rng,
    log: EjectionLog,
    metrics: ChannelMetrics,
}

/// An instance of the pool.
#[derive(Debug)]
struct Watched {
    instance: ReadyInstance,
    outcomes: Arc<Outcomes>,
    ejection: Ejection,
}

impl Outliers {
    pub(crate) fn new(
        service: ServiceName,
        config: OutlierDetection,
        metrics: ChannelMetrics,
        now: Instant,
    ) -> Self {
        Self {
            all: Arc::new(AllOutcomes::new(config.consecutive_failures)),
            watched: BTreeMap::new(),
            next_number: 0,
            out: BTreeSet::new(),
            places: BTreeSet::new(),
            admitted: Admitted::default(),
            is_panic: false,
            changed: Vec::new(),
            next_sweep: now + config.interval,
            random: config.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed),
            log: EjectionLog::new(service),
            metrics,
            config,
        }
    }

    /// Watches an instance, which is made with what its calls count on.
    pub(crate) fn watch(&mut self, make: impl FnOnce(Arc<Outcomes>) -> ReadyInstance) -> ReadyInstance {
        let number = self.next_number;
        self.next_number += 1;
        let outcomes = Arc::new(Outcomes::new(number, &self.all));
        let instance = make(Arc::clone(&outcomes));
        let watched = Watched { instance: instance.clone(), outcomes, ejection: Ejection::default() };
        self.watched.insert(number, watched);
        instance
    }

    /// The instance has left the pool.
    pub(crate) fn forget(&mut self, instance: &ReadyInstance) {
        if let Some(outcomes) = instance.outcomes() {
            let number = outcomes.number();
            self.watched.remove(&number);
            self.out.remove(&number);
            self.places.remove(&number);
        }
    }

    /// Returns how many are ejected or being tried.
    pub(crate) fn ejected(&self) -> usize {
        self.out.len()
    }

    /// Completes when there is [work](Self::work) to do.
    ///
    /// # Cancellation
    /// Safe.
    pub(crate) async fn due(&self) {
        let next = self.log.due().map_or(self.next_sweep, |due| due.min(self.next_sweep));
        tokio::select! {
            () = self.all.notified() => {}
            () = sleep_until(next) => {}
        }
    }

    /// Does what there is to do. `is_ready`: whether an instance is ready, whether its tier has a share of the calls or not.
    /// Yields.
    pub(crate) async fn work(&mut self, now: Instant, is_ready: impl Fn(&ReadyInstance) -> bool) {
        self.look(now).await;
        self.sweep(now, is_ready).await;
    }

    /// Looks at the instances that were notified of: those that have failed often in a row, and those that were tried.
    pub(super) async fn look(&mut self, now: Instant) {
        for number in self.all.take() {
            consume_budget().await;
            let Some(watched) = self.watched.get(&number) else { continue };
            let (outcomes, stage) = (Arc::clone(&watched.outcomes), watched.ejection.stage());
            if stage != Stage::In {
                // Before the verdict is read: that of the next probe lists it again.
                outcomes.looked_at();
            }
            match (stage, outcomes.probation().verdict()) {
                (Stage::In, _) => {
                    // It is listed until the next sweep if no more may be ejected, so that its calls notify no more.
                    let run = outcomes.run();
                    let mut eject = |run| {
                        let cause = format!("{run} failures in a row");
                        self.eject(number, now, outlier::CONSECUTIVE_FAILURES, &cause)
                    };
                    if run.is_none_or(&mut eject) {
                        outcomes.looked_at();
                    }
                }
                (Stage::Probing(_), Some(true)) => self.admit(number),
                (Stage::Probing(_), Some(false)) => {
                    let others = outcomes.others();
                    if others.failed > others.succeeded {
                        // So would be another's: it is tried again.
                        self.restand(number, Standing::Probing);
                    } else {
                        self.eject_anew(number, now, outlier::PROBE, "it has failed again");
                    }
                }
                (Stage::Probing(_), None) | (Stage::Ejected { .. }, _) => {}
            }
        }
    }

    /// Ends an interval, if it is over: compares the instances, and looks for ejections that are over.
    pub(super) async fn sweep(&mut self, now: Instant, is_ready: impl Fn(&ReadyInstance) -> bool) {
        self.log.summarize(self.out.len());
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + self.config.interval;
        let (mut numbers, mut counts, mut sum) = (Vec::new(), Vec::new(), Counts::default());
        for (number, watched) in &self.watched {
            consume_budget().await;
            let interval = watched.outcomes.sweep();
            sum += interval;
            if watched.ejection.stage() == Stage::In {
                numbers.push(*number);
                counts.push(interval);
            }
        }
        self.all.sweep();
        self.compare(&numbers, &counts, sum, now);
        self.place(is_ready).await;
        self.age(now).await;
    }

    /// Returns the instances that were ejected, are being tried or called again since the last time.
    pub(crate) fn take_changed(&mut self) -> Vec<ReadyInstance> {
        std::mem::take(&mut self.changed)
    }

    /// Returns the instances that are called, of those that are ready: without the ejected ones, or all if those are too
    /// many. Never none if one is ready.
    pub(crate) async fn filter(&mut self, ready: SortedById<ReadyInstance>) -> SortedById<ReadyInstance> {
        let has_changed = self.admitted.follow(&ready, !self.out.is_empty()).await;
        let (left, of) = self.admitted.counts();
        let is_few = left == 0 || left * 100 < of * self.config.panic_threshold as usize;
        // While none is ready, those that are left are no more than before.
        let is_panic = if of == 0 { self.is_panic } else { is_few };
        let was_panic = std::mem::replace(&mut self.is_panic, is_panic);
        if is_panic != was_panic {
            self.log.panics(is_panic, left, of);
        }
        if is_panic != was_panic || is_panic && has_changed {
            for number in &self.out {
                consume_budget().await;
                self.open(&self.watched[number]);
            }
        }
        if is_panic { self.admitted.ready().clone() } else { self.admitted.left().clone() }
    }

    /// Returns the instances whose ejection is over, ready or not: each takes one call at a time.
    pub(crate) fn tried(&self) -> impl Iterator<Item = &ReadyInstance> {
        let watched = self.out.iter().filter_map(|number| self.watched.get(number));
        watched
            .filter(|watched| matches!(watched.ejection.stage(), Stage::Probing(_)))
            .map(|watched| &watched.instance)
    }

    /// Lets all calls through to an instance that is being tried if too few are left. Those of which it is one: another
    /// tier's does not have to take their calls.
    fn open(&self, watched: &Watched) {
        let is_open = self.is_panic && self.admitted.has(&watched.instance);
        watched.outcomes.probation().set_open(is_open);
        watched.instance.capacity().wake();
    }

    /// Ejects those that A50's algorithms find, and that do worse than the others.
    fn compare(&mut self, numbers: &[u64], counts: &[Counts], sum: Counts, now: Instant) {
        let by_rate = self.config.success_rate.as_ref().map(|config| {
            let outliers = by_success_rate(config, counts);
            (outliers, config.enforcement_percent, outlier::SUCCESS_RATE, "success rate below the others'")
        });
        let by_percentage = self.config.failure_percentage.as_ref().map(|config| {
            let outliers = by_failure_percentage(config, counts);
            (outliers, config.enforcement_percent, outlier::FAILURE_PERCENTAGE, "too many failures")
        });
        for (outliers, enforcement, method, cause) in by_rate.into_iter().chain(by_percentage) {
            for (index, rate) in outliers {
                let (number, own) = (numbers[index], counts[index]);
                let is_enforced = self.random.u32(..100) < enforcement;
                if self.out.contains(&number) {
                    continue;
                }
                if !is_enforced {
                    self.metrics.not_ejected(method, outlier::BY_ENFORCEMENT);
                } else if !is_clearly_worse(own, sum - own) {
                    self.metrics.not_ejected(method, outlier::BY_EVIDENCE);
                } else {
                    let cause = format!("{cause}: {:.1} % of {} calls", rate * 100.0, own.total());
                    self.eject(number, now, method, &cause);
                }
            }
        }
    }

    /// Frees the places of those that would get no calls if they were not ejected either, so that others can be. Not of those
    /// whose tier has no share of the calls: that may be because they are ejected.
    async fn place(&mut self, is_ready: impl Fn(&ReadyInstance) -> bool) {
        for number in &self.out {
            consume_budget().await;
            let Watched { instance, outcomes, ejection } = &self.watched[number];
            if ejection.is_idle(outcomes.trial()) || !is_ready(instance) {
                self.places.remove(number);
            } else {
                self.places.insert(*number);
            }
        }
    }

    /// Looks for ejections and trials that are over.
    async fn age(&mut self, now: Instant) {
        let mut changed = Vec::new();
        for (number, Watched { outcomes, ejection, .. }) in &mut self.watched {
            consume_budget().await;
            let is_tried = matches!(ejection.stage(), Stage::Probing(_));
            let trial = if is_tried { outcomes.trial() } else { None };
            // One that has just been ejected has had no clean interval either.
            let swept = ejection.sweep(now, self.config.interval, trial);
            if swept != Swept::Nothing {
                changed.push((*number, swept));
            }
        }
        for (number, swept) in changed {
            match swept {
                Swept::Nothing => {}
                Swept::Tried => self.restand(number, Standing::Probing),
                Swept::Back => self.admit(number),
                Swept::Unanswered => self.eject_anew(number, now, outlier::PROBE, "no probe was answered"),
            }
        }
    }

    /// Ejects an instance unless enough are; returns whether it has.
    fn eject(&mut self, number: u64, now: Instant, method: &'static str, cause: &str) -> bool {
        let most = self.config.max_ejection_percent as usize;
        if self.places.len() * 100 >= most * self.watched.len() {
            self.metrics.not_ejected(method, outlier::BY_MAXIMUM);
            return false;
        }
        self.eject_anew(number, now, method, cause);
        true
    }

    fn eject_anew(&mut self, number: u64, now: Instant, method: &'static str, cause: &str) {
        let of = self.watched.len();
        let Some(watched) = self.watched.get_mut(&number) else { return };
        let time = watched.ejection.eject(now, &self.config);
        watched.outcomes.set_cause(Some(cause.into()));
        self.out.insert(number);
        self.places.insert(number);
        self.metrics.ejected(method);
        self.log.ejected(&watched.instance, cause, time, self.out.len(), of);
        self.restand(number, Standing::Ejected);
    }

    /// Its calls succeed: it is called like the others.
    fn admit(&mut self, number: u64) {
        let Some(watched) = self.watched.get_mut(&number) else { return };
        watched.ejection.admit();
        watched.outcomes.set_cause(None);
        self.out.remove(&number);
        self.places.remove(&number);
        self.log.returned(&watched.instance);
        self.restand(number, Standing::In);
    }

    fn restand(&mut self, number: u64, standing: Standing) {
        let Some(watched) = self.watched.get(&number) else { return };
        let Watched { instance, outcomes, .. } = watched;
        let before = outcomes.probation().standing();
        outcomes.probation().set(standing);
        outcomes.forget_run();
        self.admitted.restand(instance, before);
        self.changed.push(instance.clone());
        // Calls may wait for it.
        self.open(watched);
    }
}
