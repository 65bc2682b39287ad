//! Calls waiting for stream capacity (MAX_CONCURRENT_STREAMS), first come first served.

use super::sync::{AtomicUsize, Notified, Notify, Ordering, Semaphore, SemaphorePermit};

/// The calls that wait for capacity on a connection. Shared by all instances of a channel.
///
/// They form one line, and only the first in it looks for capacity: a call that comes later does not overtake. When it
/// has found some, the next one looks at once, so all for which there is room go together.
#[derive(Debug)]
pub(crate) struct CapacityWaiters {
    waiting: AtomicUsize,
    /// One permit: the head of the line. Tokio's semaphores are fair.
    head: Semaphore,
    freed: Notify,
}

impl Default for CapacityWaiters {
    fn default() -> Self {
        Self { waiting: AtomicUsize::new(0), head: Semaphore::new(1), freed: Notify::new() }
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
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waiter = Waiter(self);
        // It is never closed.
        let permit = self.head.acquire().await.ok();
        Head { waiters: self, _waiter: waiter, _permit: permit }
    }

    /// There is capacity for one call more, or for many: the head looks for it.
    pub(crate) fn wake(&self) {
        // Nearly always no call waits, and this load is all.
        if self.any() {
            self.freed.notify_one();
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
}

/// Counts one waiting call until it is dropped.
#[derive(Debug)]
struct Waiter<'a>(&'a CapacityWaiters);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
