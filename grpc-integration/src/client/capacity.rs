//! Calls waiting for stream capacity (MAX_CONCURRENT_STREAMS), first come first served.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use hither_core::InstanceId;

use super::sync::{
    AtomicBool, AtomicUsize, Mutex, MutexGuard, Notified, Notify, Ordering, Semaphore, SemaphorePermit,
};

/// The calls that wait for capacity on a connection. Shared by all instances of a channel.
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
}

impl InstanceCapacity {
    pub(crate) fn of(waiters: &Arc<CapacityWaiters>) -> Arc<Self> {
        Arc::new(Self { waiters: Arc::clone(waiters), ..Self::default() })
    }

    pub(crate) fn waiters(&self) -> &CapacityWaiters {
        &self.waiters
    }

    pub(crate) fn set_id(&self, id: InstanceId) {
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
