//! An instance with its connections and its load.

use std::fmt;
use std::mem;
use std::sync::Arc;

use hither_core::{HasId, Instance, InstanceId, SortedById};

use super::capacity::{CapacityWaiters, InstanceCapacity};
use super::failures::Failures;
use super::outcomes::{Admission, Outcomes, Standing};
use super::sync::{ArcSwap, AtomicBool, AtomicU64, AtomicUsize, Notify, Ordering};
use super::transport::{Connection, Slot};

/// One attempt that was started, above those in flight, which are fewer: a connection has at most 2047. They wrap after 10^12.
const STARTED: u64 = 1 << 24;

/// An instance that is connected, as load balancing policies see it. Cheap to clone; clones are equal and share the
/// load.
///
/// It outlives changes of the instance's metadata, weight or state: those make a new `ReadyInstance`, equal to the
/// old one, that shares its load and its connections.
#[derive(Clone)]
pub struct ReadyInstance(Arc<Described>);

/// One description of an instance. A single allocation, because a call clones its instance.
struct Described {
    instance: Arc<Instance>,
    /// What the registry's weight is multiplied by.
    factor: f64,
    inner: Arc<Inner>,
}

/// What stays the same while the description of the instance changes.
#[derive(Debug, Default)]
struct Inner {
    capacity: Arc<InstanceCapacity>,
    /// The attempts in flight, and above them, from [`STARTED`] on, all that were ever started: one step counts both.
    attempts: AtomicU64,
    /// The attempts that have ended with another status than OK.
    failed: AtomicU64,
    failures: Failures,
    /// If outlier detection is on.
    outcomes: Option<Arc<Outcomes>>,
    /// Oldest first. Emptied when the instance is removed, so that no picker that is still referenced keeps a
    /// connection open.
    connections: ArcSwap<Vec<Arc<Connection>>>,
    closed: AtomicBool,
    no_capacity: Notify,
}

impl ReadyInstance {
    /// The most that the registry's weight is multiplied by.
    pub const MAX_FACTOR: f64 = 1_000_000.0;

    /// Returns one without a connection: for tests of policies.
    pub fn new(instance: Arc<Instance>) -> Self {
        Self(Arc::new(Described { instance, factor: 1.0, inner: Arc::default() }))
    }

    /// Returns the instance, as the registry described it last.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.0.instance
    }

    /// Returns the weight in force: the registry's, times what the channel makes of it. It is relative to those of the
    /// other ready instances: twice the weight gets twice the calls, and 0 gets none unless no other is ready.
    pub fn weight(&self) -> f64 {
        f64::from(self.0.instance.weight()) * self.0.factor
    }

    /// Returns the same one with its weight multiplied: for policies that hand what is ready to another policy. At most
    /// [`MAX_FACTOR`](Self::MAX_FACTOR) of the registry's weight; what is negative or not a number counts as 0.
    #[must_use]
    pub fn with_factor(&self, factor: f64) -> Self {
        // Bounded before too: zero times infinity is not a number.
        let factor = if factor > 0.0 { factor.min(Self::MAX_FACTOR) } else { 0.0 };
        let factor = (self.0.factor * factor).min(Self::MAX_FACTOR);
        let Described { instance, inner, .. } = &*self.0;
        Self(Arc::new(Described { instance: Arc::clone(instance), factor, inner: Arc::clone(inner) }))
    }

    /// Returns the number of calls in flight on it, through this channel. A call counts until its response body has
    /// ended or was dropped.
    pub fn in_flight(&self) -> usize {
        (self.0.inner.attempts.load(Ordering::Relaxed) % STARTED) as usize
    }

    /// Returns the number of attempts that were ever started on it.
    pub(crate) fn started(&self) -> u64 {
        self.0.inner.attempts.load(Ordering::Relaxed) / STARTED
    }

    /// Returns the number of attempts that have ended with another status than OK.
    pub(crate) fn failed(&self) -> u64 {
        self.0.inner.failed.load(Ordering::Relaxed)
    }

    /// Counts an attempt that has ended with another status than OK.
    pub(crate) fn count_failed(&self) {
        self.0.inner.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of connections that take calls.
    pub(crate) fn connections(&self) -> usize {
        self.0.inner.connections.load().len()
    }

    /// Whether no connection takes calls, for a moment if it is among the ready ones: the last one is being replaced.
    pub(crate) fn is_disconnected(&self) -> bool {
        !self.0.inner.connections.load().iter().any(|connection| connection.is_usable())
    }

    /// Whether both are one description of one instance, with one weight.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The same for all that are the [same](Self::is_same) while one of them exists.
    pub(crate) fn version(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// The same for all that are equal while one of them exists.
    pub(crate) fn key(&self) -> usize {
        Arc::as_ptr(&self.0.inner) as usize
    }

    /// Its failures, over all changes of its description and of the set.
    pub(crate) fn failures(&self) -> &Failures {
        &self.0.inner.failures
    }

    /// How its calls end, if outlier detection is on.
    pub(crate) fn outcomes(&self) -> Option<&Arc<Outcomes>> {
        self.0.inner.outcomes.as_ref()
    }

    /// Whether it is called like the others: not left out nor being tried, because it fails more than others.
    pub(crate) fn is_in(&self) -> bool {
        self.outcomes().is_none_or(|outcomes| outcomes.probation().standing() == Standing::In)
    }

    /// Returns one without a connection, that wakes `capacity` when a call on it has ended.
    pub(crate) fn in_pool(
        instance: Arc<Instance>,
        capacity: &Arc<CapacityWaiters>,
        outcomes: Option<Arc<Outcomes>>,
    ) -> Self {
        let inner = Inner { capacity: InstanceCapacity::of(capacity), outcomes, ..Inner::default() };
        inner.capacity.set_id(instance.id().clone());
        Self(Arc::new(Described { instance, factor: 1.0, inner: Arc::new(inner) }))
    }

    /// Returns the same one with another description.
    pub(crate) fn described_as(&self, instance: Arc<Instance>) -> Self {
        self.0.inner.capacity.set_id(instance.id().clone());
        let Described { factor, inner, .. } = &*self.0;
        Self(Arc::new(Described { instance, factor: *factor, inner: Arc::clone(inner) }))
    }

    /// Asks for another connection.
    pub(crate) fn ask(&self) {
        self.0.inner.no_capacity.notify_one();
    }

    pub(crate) fn has_capacity(&self) -> bool {
        self.outcomes().is_none_or(|outcomes| outcomes.probation().has_room()) && self.has_stream()
    }

    fn has_stream(&self) -> bool {
        let connections = self.0.inner.connections.load();
        connections.iter().any(|connection| connection.is_usable() && !connection.is_full())
    }

    /// What its connections tell of their capacity.
    pub(crate) fn capacity(&self) -> &Arc<InstanceCapacity> {
        &self.0.inner.capacity
    }

    /// Completes when a call has found no capacity, now or since the last time.
    pub(crate) async fn no_capacity(&self) {
        self.0.inner.no_capacity.notified().await;
    }

    /// Returns whether calls are waiting for capacity, on this instance or another one of its channel or its group.
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.inner.capacity.is_awaited()
    }

    /// Returns the oldest of the connections that accept new calls.
    pub(crate) fn oldest_connection(&self) -> Option<Arc<Connection>> {
        self.0.inner.connections.load().iter().find(|connection| connection.is_usable()).cloned()
    }

    /// Replaces the connections. Called by the instance's subchannel only.
    pub(crate) fn set_connections(&self, connections: Vec<Arc<Connection>>) {
        self.0.inner.connections.store(Arc::new(connections));
        // The pool may close it on another thread at this moment.
        if self.0.inner.closed.load(Ordering::SeqCst) {
            self.0.inner.connections.store(Arc::default());
        }
        self.0.inner.capacity.wake();
    }

    /// A call has ended, by which it may have been tried.
    fn release(&self, admission: Admission) {
        if let Admission::Probe(probe) = admission
            && let Some(outcomes) = self.outcomes()
        {
            outcomes.probation().release(probe);
            self.0.inner.capacity.wake();
        }
    }

    /// Releases all connections for good: each closes when its last call has ended.
    pub(crate) fn close(&self) {
        self.0.inner.closed.store(true, Ordering::SeqCst);
        self.0.inner.connections.store(Arc::default());
    }
}

impl HasId for ReadyInstance {
    fn id(&self) -> &InstanceId {
        self.instance().id()
    }
}

impl AsRef<Self> for ReadyInstance {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl PartialEq for ReadyInstance {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.inner, &other.0.inner)
    }
}

impl Eq for ReadyInstance {}

impl fmt::Debug for ReadyInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyInstance")
            .field("id", self.0.instance.id())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// What a policy has picked: an instance, and a number of the picker's own, which it is given back at the end of the
/// attempt (an index of something that it keeps, for one).
#[derive(Debug, Clone)]
pub struct Picked {
    instance: ReadyInstance,
    token: usize,
    /// Where the attempt counts while it is in flight, besides its instance.
    total: Option<Arc<AtomicUsize>>,
    /// `None`: the call may go to any instance instead.
    group: Option<Arc<InstanceGroup>>,
}

/// Some of the ready instances: calls that are limited to them wait for capacity in a line of their own, so that they hold
/// back no others. An instance is in one group of each policy that makes them.
#[derive(Debug)]
pub(crate) struct InstanceGroup {
    instances: SortedById<ReadyInstance>,
    waiters: Arc<CapacityWaiters>,
    /// Another one for each set of instances that it has.
    version: u64,
}

impl InstanceGroup {
    pub(crate) fn new(waiters: &Arc<CapacityWaiters>) -> Self {
        Self { instances: SortedById::new(), waiters: Arc::clone(waiters), version: 0 }
    }

    /// Returns the group with other instances, each of which was [added](Self::add) to it.
    pub(crate) fn with(&self, instances: SortedById<ReadyInstance>) -> Self {
        Self { instances, waiters: Arc::clone(&self.waiters), version: self.version.wrapping_add(1) }
    }

    /// Makes an instance one of this group, until it is [removed](Self::remove).
    pub(crate) fn add(&self, instance: &ReadyInstance) {
        instance.capacity().join(&self.waiters);
    }

    /// Makes an instance one of this group no longer.
    pub(crate) fn remove(&self, instance: &ReadyInstance) {
        instance.capacity().leave(&self.waiters);
    }

    pub(crate) fn instances(&self) -> &SortedById<ReadyInstance> {
        &self.instances
    }

    pub(crate) fn waiters(&self) -> &Arc<CapacityWaiters> {
        &self.waiters
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }
}

impl Picked {
    /// The token for which none is set.
    pub const NO_TOKEN: usize = usize::MAX;

    /// Sets the token. Default [`NO_TOKEN`](Self::NO_TOKEN).
    #[must_use]
    pub fn with_token(mut self, token: usize) -> Self {
        self.token = token;
        self
    }

    /// Returns the instance.
    pub fn instance(&self) -> &ReadyInstance {
        &self.instance
    }

    /// Returns the token.
    pub fn token(&self) -> usize {
        self.token
    }

    /// Counts the attempt in a total of the policy's while it is in flight.
    pub(crate) fn counted_in(mut self, total: &Arc<AtomicUsize>) -> Self {
        self.total = Some(Arc::clone(total));
        self
    }

    /// The total that the attempt counts in.
    pub(crate) fn total(&self) -> Option<&Arc<AtomicUsize>> {
        self.total.as_ref()
    }

    /// Limits the call to a group: it goes to no instance outside of it if this one has no capacity or was tried before. A
    /// group that was set before is the narrower one, and stays.
    pub(crate) fn or_within(mut self, group: &Arc<InstanceGroup>) -> Self {
        self.group.get_or_insert_with(|| Arc::clone(group));
        self
    }

    /// Whether the call is limited to a group.
    #[inline]
    pub(crate) fn has_group(&self) -> bool {
        self.group.is_some()
    }

    pub(crate) fn take_group(&mut self) -> Option<Arc<InstanceGroup>> {
        self.group.take()
    }

    /// Reserves a stream for one call, on the oldest connection that has capacity. If none has, asks for another
    /// connection. None either if it is being tried by another call (half-open). Then this is returned.
    #[inline(always)]
    pub(crate) fn reserve(self) -> Result<(InFlight, Slot), Self> {
        let inner = &self.instance.0.inner;
        let admission = match &inner.outcomes {
            Some(outcomes) => {
                let probation = outcomes.probation();
                // To release its place would wake the calls that wait for one, and this one may be looking for what wakes it.
                if probation.standing() == Standing::Probing && !self.instance.has_stream() {
                    inner.no_capacity.notify_one();
                    return Err(self);
                }
                match probation.admit() {
                    Some(admission) => admission,
                    None => return Err(self),
                }
            }
            None => Admission::Call,
        };
        let Some(slot) = inner.connections.load().iter().find_map(Connection::try_reserve) else {
            self.instance.release(admission);
            inner.no_capacity.notify_one();
            return Err(self);
        };
        Ok((self.start(admission), slot))
    }

    /// Counts an attempt.
    fn start(self, admission: Admission) -> InFlight {
        self.instance.0.inner.attempts.fetch_add(STARTED + 1, Ordering::Relaxed);
        if let Some(total) = &self.total {
            total.fetch_add(1, Ordering::Relaxed);
        }
        InFlight { picked: self, admission, is_over: false }
    }

    /// Counts an attempt that needs no connection: for tests of policies.
    #[cfg(test)]
    pub(crate) fn started(self) -> InFlight {
        self.start(Admission::Call)
    }
}

impl From<ReadyInstance> for Picked {
    fn from(instance: ReadyInstance) -> Self {
        Self { instance, token: Self::NO_TOKEN, total: None, group: None }
    }
}

impl PartialEq for Picked {
    fn eq(&self, other: &Self) -> bool {
        (&self.instance, self.token) == (&other.instance, other.token)
    }
}

impl Eq for Picked {}

/// A call in flight on an instance, counted until it [ends](Self::end) or this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    picked: Picked,
    admission: Admission,
    is_over: bool,
}

impl InFlight {
    /// It is in flight no longer.
    pub(crate) fn end(&mut self) {
        if !mem::replace(&mut self.is_over, true) {
            let instance = &self.picked.instance;
            instance.0.inner.attempts.fetch_sub(1, Ordering::Relaxed);
            if let Some(total) = &self.picked.total {
                total.fetch_sub(1, Ordering::Relaxed);
            }
            instance.release(self.admission);
        }
    }

    pub(crate) fn picked(&self) -> &Picked {
        &self.picked
    }

    pub(crate) fn admission(&self) -> Admission {
        self.admission
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end();
    }
}
