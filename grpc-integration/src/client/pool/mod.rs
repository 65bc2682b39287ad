//! The pool: a task that follows the registry, and keeps connections to the instances that it finds.

mod changes;
mod connecting_lists;
mod connections;
mod desired;
mod dialer;
mod joined;
mod outage;
mod outage_log;
mod pace;
mod ready_lists;
mod renewals;
mod server_pace;
mod slow_start;
mod state;
mod subchannel;
mod tally;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use hither_core::{Discovery, Freshness, ServiceName, ServiceView, SortedById, Update};
use tokio::sync::watch;
use tokio::task::coop::consume_budget;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

pub(crate) use dialer::Dialer;
pub(crate) use renewals::Renewals;
pub(crate) use state::{NotReadyReason, Ready, State, StateReader, closed};
pub(crate) use subchannel::SubchannelConfig;

use super::balance::{PATIENCE, Policy, SlowStart};
use super::metrics::{Counts, Gauges};
use super::outliers::{OutlierDetection, Outliers};
use super::ready_instance::ReadyInstance;
use super::selection::{Condition, List, Placed, Selection, Selector, Share};
use super::server_key::ServerKey;
use crate::task::Task;
use changes::{Changes, Notifier};
use joined::Joined;
use outage_log::OutageLog;
use server_pace::Paces;
use slow_start::SlowStarts;
pub(crate) use state::StatePublisher;
use subchannel::Subchannel;
use tally::{Counted, Tally};

/// For how many servers an update is followed before calls that wait are given what is ready by then.
const BATCH: usize = 256;

/// How often in one turn the selection is asked what it makes of what it has just changed: once or twice is enough, unless it
/// has a bug.
const ROUNDS: usize = 100;

/// Follows one service.
#[derive(Debug)]
pub(crate) struct Pool {
    service: ServiceName,
    discovery: Discovery,
    view: ServiceView,
    policy: Policy,
    config: SubchannelConfig,
    /// The selection that the program has set, and the one at work.
    selection: watch::Receiver<Selection>,
    selector: Selector,
    /// Whether the selection has more to change.
    is_unsettled: bool,
    subchannels: BTreeMap<ServerKey, Member>,
    paces: Paces,
    tally: Tally,
    outliers: Option<Outliers>,
    joined: Joined,
    slow_starts: Option<SlowStarts>,
    /// The latest update of the registry; `None` before the first.
    update: Option<Update>,
    /// The subchannels whose connectivity has changed.
    changes: Arc<Changes>,
    outages: Arc<OutageLog>,
    /// How long calls wait for an instance with a weight, since they do, and whether they do now.
    weight_awaited_until: Option<Instant>,
    is_weight_awaited: bool,
    /// The last picker, and the instances that it was made for.
    last: Option<Ready>,
    gauges: Gauges,
    publisher: StatePublisher,
}

/// A subchannel, and what it counts as.
#[derive(Debug)]
struct Member {
    list: List,
    subchannel: Subchannel,
    counted: Counted,
}

impl Pool {
    /// Starts to follow `service`. The pool ends when the task is dropped.
    pub(crate) fn start(
        discovery: Discovery,
        service: ServiceName,
        policy: Policy,
        mut selection: watch::Receiver<Selection>,
        outlier_detection: Option<OutlierDetection>,
        slow_start: Option<SlowStart>,
        config: SubchannelConfig,
    ) -> (Arc<StateReader>, Task) {
        let span = tracing::debug_span!("channel", %service);
        let publisher = StatePublisher::new(State::Connecting(NotReadyReason::unresolved(service.clone())));
        let reader = Arc::clone(publisher.reader());
        let selector = Selector::new(selection.borrow_and_update().clone(), config.server_keys.clone());
        publisher.known().set_server_keys(config.server_keys.clone());
        let mut pool = Self {
            view: discovery.service(&service),
            outages: Arc::new(OutageLog::new(service.clone())),
            outliers: outlier_detection.map(|outliers| {
                Outliers::new(service.clone(), outliers, config.metrics.clone(), Instant::now())
            }),
            service,
            discovery,
            gauges: config.metrics.gauges(),
            config,
            selector,
            selection,
            is_unsettled: false,
            subchannels: BTreeMap::new(),
            paces: Paces::default(),
            tally: Tally::default(),
            slow_starts: slow_start.filter(|_| policy.has_slow_start()).map(SlowStarts::new),
            joined: Joined::default(),
            policy,
            update: None,
            changes: Arc::default(),
            weight_awaited_until: None,
            is_weight_awaited: false,
            last: None,
            publisher,
        };
        (reader, Task::spawn(async move { pool.run().await }.instrument(span)))
    }

    async fn run(&mut self) {
        loop {
            let (summary, due, selection) = (self.outages.due(), self.picker_due(), self.selector.due());
            let (age, weight) = (self.gauges.due(), self.weight_awaited_until);
            let mut is_shown = true;
            let slow_start = self.slow_starts.as_ref().and_then(SlowStarts::due);
            tokio::select! {
                biased;
                update = self.view.changed() => match update {
                    Ok(update) => self.on_update(update).await,
                    // The runtime that another channel started this watch on is gone. Ours is not.
                    Err(_) => self.view = self.discovery.service(&self.service),
                },
                // The channel that sets it keeps the pool, too.
                Ok(()) = self.selection.changed() => self.on_selection().await,
                () = self.changes.notified() => {
                    self.count_changed().await;
                    self.follow_selector().await;
                }
                () = at(selection) => self.follow_selector().await,
                () = yield_now(), if self.is_unsettled => self.follow_selector().await,
                () = outliers_due(self.outliers.as_ref()) => {
                    if let Some(outliers) = &mut self.outliers {
                        let (subchannels, keys) = (&self.subchannels, &self.config.server_keys);
                        let is_ready = |instance: &ReadyInstance| {
                            let member = subchannels.get(&keys.of(instance.instance()));
                            member.is_some_and(|member| matches!(member.counted, Counted::Ready(_)))
                        };
                        outliers.work(Instant::now(), is_ready).await;
                    }
                    if !self.observe_outliers() {
                        continue;
                    }
                    self.follow_selector().await;
                }
                () = at(summary) => {
                    self.outages.summarize();
                    continue;
                }
                // Calls that are queued ask the new picker. A status does not show it.
                () = at(due) => is_shown = false,
                () = at(age) => {
                    self.measure();
                    continue;
                }
                () = at(slow_start) => is_shown = false,
                () = at(weight), if self.is_weight_awaited => {}
            }
            self.publish(is_shown).await;
        }
    }

    /// Brings the subchannels in line with the registry. What it does depends on what has changed, and yields.
    async fn on_update(&mut self, update: Update) {
        let registered = update.snapshot.as_ref().map(|snapshot| snapshot.instances().clone());
        let held = update.held.clone();
        self.publisher.known().set_update(update.clone());
        self.update = Some(update);
        let changed = self.selector.update(registered.unwrap_or_default(), held).await;
        self.follow_all(changed).await;
    }

    /// Brings the subchannels in line with another selection.
    async fn on_selection(&mut self) {
        let selection = self.selection.borrow_and_update().clone();
        let condition =
            |key: &ServerKey| self.subchannels.get(key).map_or(Condition::Pending, Member::condition);
        let changed = self.selector.set(selection, condition).await;
        self.follow_all(changed).await;
    }

    async fn follow_all(&mut self, changed: Vec<ServerKey>) {
        for (number, key) in changed.into_iter().enumerate() {
            consume_budget().await;
            self.follow(&key);
            if number % BATCH == BATCH - 1 && !self.is_published_ready() {
                self.count_changed().await;
                // Only what is ready: of the others those that are to be connected to may come later. So not for a policy that
                // follows these.
                if self.tally.any_ready() && !self.policy.follows_others() {
                    self.publish(true).await;
                }
            }
        }
        self.follow_selector().await;
    }

    /// Brings the subchannels in line with what the selection makes of their connectivity, and of time. What it cannot
    /// settle in a turn is left to the next one, so that nothing else waits for it.
    async fn follow_selector(&mut self) {
        self.is_unsettled = true;
        for _ in 0..ROUNDS {
            let changed = self.selector.take_changed().await;
            if changed.is_empty() {
                self.is_unsettled = false;
                return;
            }
            for key in changed {
                consume_budget().await;
                self.follow(&key);
            }
        }
    }

    /// Brings the subchannel of one server in line with what the selection makes of it.
    fn follow(&mut self, key: &ServerKey) {
        let Some(Placed { instance, list, connect }) = self.selector.place(key) else {
            if let Some(mut member) = self.subchannels.remove(key) {
                self.paces.keep(key, member.subchannel.pace());
                self.publisher.known().remove(member.subchannel.ready_instance());
                self.tally.forget(&mut member.counted);
                self.selector.observe(key, || Condition::Pending);
                if let Some(outliers) = &mut self.outliers {
                    outliers.forget(member.subchannel.ready_instance());
                }
            }
            if !self.selector.has(key) {
                self.paces.remove(key);
            }
            return;
        };
        let member = match self.subchannels.entry(Arc::clone(key)) {
            Entry::Occupied(entry) => {
                let member = entry.into_mut();
                member.list = list;
                member.subchannel.describe(instance, list.tier(), self.publisher.known());
                member.subchannel.set_connect(connect);
                member
            }
            Entry::Vacant(entry) if connect => {
                let capacity = self.publisher.reader().capacity();
                let ready_instance = match &mut self.outliers {
                    Some(outliers) => {
                        outliers.watch(|outcomes| ReadyInstance::in_pool(instance, capacity, Some(outcomes)))
                    }
                    None => ReadyInstance::in_pool(instance, capacity, None),
                };
                let notifier = Notifier { key: Arc::clone(key), changes: Arc::clone(&self.changes) };
                let (config, outages) = (self.config.fork(&ready_instance), Arc::clone(&self.outages));
                let pace = self.paces.remove(key);
                let subchannel =
                    Subchannel::start(ready_instance, list.tier(), config, pace, notifier, outages);
                self.publisher.known().insert(subchannel.subject());
                entry.insert(Member { list, subchannel, counted: Counted::default() })
            }
            Entry::Vacant(_) => return,
        };
        member.count(&mut self.tally);
        self.selector.observe(key, || member.condition());
    }

    /// Counts the subchannels that have changed.
    async fn count_changed(&mut self) {
        for key in self.changes.take() {
            consume_budget().await;
            if let Some(member) = self.subchannels.get_mut(&key) {
                member.count(&mut self.tally);
                self.selector.observe(&key, || member.condition());
            }
        }
    }

    /// One that is ejected is of no use to the selection. Returns whether there are any changes.
    fn observe_outliers(&mut self) -> bool {
        let changed = self.outliers.as_mut().map(Outliers::take_changed).unwrap_or_default();
        for instance in &changed {
            let key = self.config.server_keys.of(instance.instance());
            if let Some(member) = self.subchannels.get(&key) {
                self.selector.observe(&key, || member.condition());
            }
        }
        !changed.is_empty()
    }

    fn is_published_ready(&self) -> bool {
        matches!(**self.publisher.reader().load(), State::Ready(_))
    }

    /// `is_shown`: whether statuses show what has changed.
    async fn publish(&mut self, is_shown: bool) {
        self.measure();
        let shares = self.selector.shares();
        let ready = self.tally.callable(&shares).await;
        let ready = match &mut self.outliers {
            Some(outliers) => outliers.filter(ready).await,
            None => ready,
        };
        let ready = self.with_tried(ready, &shares).await;
        let ready = match &mut self.slow_starts {
            Some(slow_starts) => {
                let weighted = slow_starts.weighted(ready.clone()).await;
                // A tier that takes over is new as a whole, and gets its share nevertheless.
                if shares.len() < 2 { weighted } else { ready }
            }
            None => ready,
        };
        let before = self.last.as_ref().map(|last| last.instances.clone());
        self.is_weight_awaited = self.awaits_weight(&ready);
        let state = if ready.is_empty() || self.is_weight_awaited {
            self.not_ready()
        } else {
            self.picker_over(ready, &shares)
        };
        self.publisher.publish(state, is_shown);
        // The state that had it is gone, and the picker unless calls in flight still refer to it: the last of them drops it.
        if let Some(before) = before {
            before.discard().await;
        }
    }

    /// Adds the instances that are being tried of the tiers that have no share of the calls, because too much of them is
    /// ejected: each takes a call at a time. Not those of the tiers below, which stand by.
    async fn with_tried(
        &mut self,
        ready: SortedById<ReadyInstance>,
        shares: &[Share],
    ) -> SortedById<ReadyInstance> {
        let Some(outliers) = &self.outliers else { return ready };
        let mut tried = Vec::new();
        for instance in outliers.tried() {
            consume_budget().await;
            let member = self.subchannels.get(&self.config.server_keys.of(instance.instance()));
            if let Some(Counted::Ready(ready)) = member.map(|member| &member.counted)
                && shares.last().is_some_and(|last| ready.list < last.list)
            {
                tried.push(ready.instance.clone());
            }
        }
        self.joined.of(ready, tried).await
    }

    fn measure(&mut self) {
        let Some(update) = &self.update else { return };
        let [ready, connecting, failing] = self.tally.counts();
        let registered = update.snapshot.as_ref().map_or(0, |snapshot| snapshot.len());
        let ejected = self.outliers.as_ref().map_or(0, Outliers::ejected);
        let held = update.held.len();
        self.gauges.set(Counts { registered, held, ready, connecting, failing, ejected });
        self.gauges.set_age(match update.freshness {
            Freshness::Stale { since, age, .. } => Some(age.saturating_add(since.elapsed())),
            _ => None,
        });
    }

    /// When the picker is to be made anew, if there is one in use.
    fn picker_due(&self) -> Option<Instant> {
        self.policy.due().filter(|_| self.is_published_ready())
    }

    /// Returns the state with a picker over the ready instances. If the policy panics the last picker stays, until they
    /// change again: of what it picks, calls take what would still be picked, and any other instance if there is none.
    fn picker_over(&mut self, instances: SortedById<ReadyInstance>, shares: &[Share]) -> State {
        let are_others_new = self.policy.follows_others() && self.policy.others(&self.tally.others(shares));
        if let Some(last) = &self.last
            && !are_others_new
            && last.instances.is_same(&instances)
            && self.policy.due().is_none_or(|due| due > Instant::now())
        {
            return State::Ready(last.clone());
        }
        let last = self.last.as_ref().map(|last| &last.picker);
        let (picker, is_picker_old) = match (self.policy.picker(&instances, &self.config.metrics), last) {
            (Ok(picker), _) => (Arc::new(picker), false),
            (Err(_), Some(last)) => (Arc::clone(last), true),
            (Err(panic), None) => {
                return State::Failing(NotReadyReason { policy_panic: Some(panic), ..self.reason() });
            }
        };
        let ready = Ready { picker, instances, is_picker_old };
        self.last = Some(ready.clone());
        State::Ready(ready)
    }

    /// Whether calls wait because all that are ready were taken out by weight 0, and others are being connected to for the first
    /// time. Not where calls go to them already.
    fn awaits_weight(&mut self, ready: &SortedById<ReadyInstance>) -> bool {
        let awaits = !self.is_published_ready()
            && !ready.is_empty()
            && ready.iter().all(|instance| instance.weight() <= 0.0)
            && self.tally.any_weight_connecting();
        if !awaits {
            self.weight_awaited_until = None;
            return false;
        }
        let now = Instant::now();
        *self.weight_awaited_until.get_or_insert_with(|| now + PATIENCE) > now
    }

    fn not_ready(&self) -> State {
        let reason = self.reason();
        // While the selection has more to change, what it selects next may be connected to.
        let is_connecting = self.update.is_none() || self.tally.any_connecting() || self.is_unsettled;
        if is_connecting { State::Connecting(reason) } else { State::Failing(reason) }
    }

    fn reason(&self) -> NotReadyReason {
        let service = self.service.clone();
        let Some(update) = &self.update else { return NotReadyReason::unresolved(service) };
        let stale = match &update.freshness {
            Freshness::Stale { since, cause, .. } => Some((*since, cause.clone())),
            _ => None,
        };
        let registered = update.snapshot.as_ref().map(|snapshot| snapshot.len());
        let (is_any_selected, last_error) = (!self.selector.is_empty(), self.tally.last_error().cloned());
        NotReadyReason { service, registered, is_any_selected, last_error, stale, policy_panic: None }
    }
}

/// Completes then, if ever.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Completes when outlier detection has work to do, if it is on.
async fn outliers_due(outliers: Option<&Outliers>) {
    match outliers {
        Some(outliers) => outliers.due().await,
        None => std::future::pending().await,
    }
}

impl Member {
    fn count(&mut self, tally: &mut Tally) {
        let subchannel = &self.subchannel;
        let (connectivity, connects) = (subchannel.connectivity(), subchannel.connects());
        tally.count(&mut self.counted, self.list, subchannel.ready_instance(), connectivity, connects);
    }

    /// What it counts as.
    fn condition(&self) -> Condition {
        match self.counted {
            Counted::Ready(ref ready) if !ready.instance.is_in() => Condition::Ejected,
            Counted::Ready(ref ready) if ready.is_replaced => Condition::Replacing,
            Counted::Ready(_) => Condition::Ready,
            Counted::Failing(_) => Condition::Failing,
            Counted::Connecting(..) | Counted::Nothing => Condition::Pending,
        }
    }
}
