//! Calls waiting for stream capacity (MAX_CONCURRENT_STREAMS), first come first served.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn calls_are_served_in_the_order_in_which_they_joined() {
        let waiters = Arc::new(CapacityWaiters::default());
        let first = waiters.join().await;
        let (mut second, mut third) = (Box::pin(waiters.join()), Box::pin(waiters.join()));
        assert!(third.as_mut().now_or_never().is_none() || second.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiters.any());
        let head = third.as_mut().now_or_never();
        assert!(head.is_some(), "the one that was polled first is next");
        drop(head);
        assert!(second.as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn capacity_that_was_freed_before_the_head_waits_is_not_missed() {
        let waiters = CapacityWaiters::default();
        let head = waiters.join().await;
        waiters.wake();
        head.freed().await;
        drop(head);
        assert!(!waiters.any());
        // A call that leaves the line passes nothing on, and holds nothing back.
        drop(Box::pin(waiters.join()));
        assert!(waiters.join().now_or_never().is_some());
    }
}
