//! Calls waiting for stream capacity (MAX_CONCURRENT_STREAMS), first come first served.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use hither_core::InstanceId;

use super::sync::{
    ArcSwap, AtomicBool, AtomicUsize, Mutex, MutexGuard, Notified, Notify, Ordering, Semaphore,
    SemaphorePermit,
};

/// The calls that wait for capacity on a connection. Shared by all instances of a channel; those of a group have one of
/// their own besides, for calls that are limited to it.
///
/// They form one line, and only the first in it looks for capacity: a call that comes later does not overtake. When it
/// has found some, the next one looks at once, so all for which there is room go together.
///
/// While calls wait, an instance whose capacity grows is listed. So all instances are looked at once, and then those that
/// are listed: what a freed stream costs depends neither on the number of instances nor on that of calls.
#[derive(Debug)]
pub(crate) struct CapacityWaiters {
    /// Changed under the lock of the line.
    waiting: AtomicUsize,
    /// One permit: the head of the line. Tokio's semaphores are fair.
    head: Semaphore,
    freed: Notify,
    line: Mutex<Line>,
}

/// What is known for as long as calls wait.
#[derive(Debug, Default)]
struct Line {
    /// Whether all instances were full when they were looked at, so that only those that are listed may have capacity.
    full: bool,
    /// Which instances those were, if they are those of a group.
    version: u64,
    /// Instances whose capacity has grown since they were looked at.
    listed: VecDeque<Arc<InstanceCapacity>>,
}

impl Default for CapacityWaiters {
    fn default() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            head: Semaphore::new(1),
            freed: Notify::new(),
            line: Mutex::new(Line::default()),
        }
    }
}

impl CapacityWaiters {
    /// Returns whether calls wait, so that a new one has to join the line.
    pub(crate) fn any(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Joins the line, and waits to be its head.
    ///
    /// # Cancellation
    /// Leaves the line.
    pub(crate) async fn join(&self) -> Head<'_> {
        let waiter = Waiter::of(self);
        // It is never closed.
        let permit = self.head.acquire().await.ok();
        Head { waiters: self, _waiter: waiter, _permit: permit }
    }

    /// There are other instances: the head looks at all of them.
    pub(crate) fn on_other_instances(&self) {
        self.line().full = false;
        self.freed.notify_one();
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The capacity of one instance's connections, as far as calls wait for it.
#[derive(Debug, Default)]
pub(crate) struct InstanceCapacity {
    waiters: Arc<CapacityWaiters>,
    /// As the registry described the instance last.
    id: Mutex<Option<InstanceId>>,
    /// Changed under the lock of the line.
    is_listed: AtomicBool,
    /// Whether there ever was a group: nearly always not, and this load is all.
    is_grouped: AtomicBool,
    /// The same for the calls that are limited to a group: one for each policy that makes groups. Changed by the task of the
    /// channel alone.
    in_groups: ArcSwap<Vec<Arc<Self>>>,
}

impl InstanceCapacity {
    pub(crate) fn of(waiters: &Arc<CapacityWaiters>) -> Arc<Self> {
        Arc::new(Self { waiters: Arc::clone(waiters), ..Self::default() })
    }

    /// Returns whether calls wait that may go to this instance.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiters.any() || self.is_in_group(|in_group| in_group.waiters.any())
    }

    /// Makes it one of a group, until it [leaves](Self::leave): calls that wait in the group's line wait for it too.
    ///
    /// What was freed before may have been told to the last group. So the head of the new one has to look at all instances
    /// afterwards, for which there is their [version](Head::is_new).
    pub(crate) fn join(&self, group: &Arc<CapacityWaiters>) {
        if self.is_in_group(|in_group| Arc::ptr_eq(&in_group.waiters, group)) {
            return;
        }
        let in_group = Self::of(group);
        if let Some(id) = self.id() {
            in_group.set_id(id);
        }
        let mut in_groups = Vec::clone(&self.in_groups.load());
        in_groups.push(in_group);
        self.in_groups.store(Arc::new(in_groups));
        self.is_grouped.store(true, Ordering::SeqCst);
    }

    /// Makes it one of this group no longer.
    pub(crate) fn leave(&self, group: &Arc<CapacityWaiters>) {
        let mut in_groups = Vec::clone(&self.in_groups.load());
        in_groups.retain(|in_group| !Arc::ptr_eq(&in_group.waiters, group));
        self.in_groups.store(Arc::new(in_groups));
    }

    /// Returns whether an instance that was taken off a list is this one.
    pub(crate) fn is(self: &Arc<Self>, listed: &Arc<Self>) -> bool {
        Arc::ptr_eq(self, listed) || self.is_in_group(|in_group| Arc::ptr_eq(in_group, listed))
    }

    #[inline]
    fn in_groups(&self) -> Option<Arc<Vec<Arc<Self>>>> {
        if self.is_grouped.load(Ordering::SeqCst) { Some(Arc::clone(&self.in_groups.load())) } else { None }
    }

    fn is_in_group(&self, is_it: impl Fn(&Arc<Self>) -> bool) -> bool {
        self.in_groups().is_some_and(|in_groups| in_groups.iter().any(is_it))
    }

    pub(crate) fn set_id(&self, id: InstanceId) {
        for in_group in self.in_groups().iter().flat_map(|in_groups| in_groups.iter()) {
            in_group.set_id(id.clone());
        }
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    pub(crate) fn id(&self) -> Option<InstanceId> {
        self.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// There is capacity for one call more, or for many: the head looks for it.
    pub(crate) fn wake(self: &Arc<Self>) {
        // Nearly always no call waits, and this load is all.
        if self.waiters.any() {
            let mut line = self.waiters.line();
            // The last call may have left meanwhile. Listed then, the instance would be in a cycle of references.
            if self.waiters.any() {
                self.list(&mut line, VecDeque::push_back);
                drop(line);
                self.waiters.freed.notify_one();
            }
        }
        for in_group in self.in_groups().iter().flat_map(|in_groups| in_groups.iter()) {
            in_group.wake();
        }
    }

    fn list(self: &Arc<Self>, line: &mut Line, push: fn(&mut VecDeque<Arc<Self>>, Arc<Self>)) {
        if !self.is_listed.swap(true, Ordering::Relaxed) {
            push(&mut line.listed, Arc::clone(self));
        }
    }
}

/// The head of the line. Dropping it makes the next call the head.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    waiters: &'a CapacityWaiters,
    _waiter: Waiter<'a>,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Head<'_> {
    /// Completes when capacity was freed, now or since the last time.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.waiters.freed.notified()
    }

    /// Takes an instance off the list.
    pub(crate) fn next_listed(&self) -> Option<Arc<InstanceCapacity>> {
        let mut line = self.waiters.line();
        let next = line.listed.pop_front()?;
        next.is_listed.store(false, Ordering::Relaxed);
        Some(next)
    }

    /// An instance that was taken off the list had capacity, and may have more.
    pub(crate) fn list_again(&self, instance: &Arc<InstanceCapacity>) {
        instance.list(&mut self.waiters.line(), VecDeque::push_front);
    }

    /// Begins to look for capacity; returns whether at all instances.
    pub(crate) fn begin(&self) -> bool {
        !std::mem::replace(&mut self.waiters.line().full, true)
    }

    /// Returns whether the instances of its group are others than at the last time: then it looks at all of them.
    pub(crate) fn is_new(&self, version: u64) -> bool {
        std::mem::replace(&mut self.waiters.line().version, version) != version
    }

    /// Whether it is the head of this line.
    pub(crate) fn is_of(&self, waiters: &CapacityWaiters) -> bool {
        std::ptr::eq(self.waiters, waiters)
    }

    /// The instances were not all full, or not all looked at.
    pub(crate) fn not_full(&self) {
        self.waiters.line().full = false;
    }
}

/// Counts one waiting call until it is dropped.
#[derive(Debug)]
struct Waiter<'a>(&'a CapacityWaiters);

impl<'a> Waiter<'a> {
    fn of(waiters: &'a CapacityWaiters) -> Self {
        let _line = waiters.line();
        waiters.waiting.fetch_add(1, Ordering::SeqCst);
        Self(waiters)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut line = self.0.line();
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) > 1 {
            return;
        }
        // From here on no instance is listed.
        let known = std::mem::take(&mut *line);
        for instance in &known.listed {
            instance.is_listed.store(false, Ordering::Relaxed);
        }
        drop(line);
    }
}
