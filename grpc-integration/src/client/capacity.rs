//! Calls waiting for stream capacity (MAX_CONCURRENT_STREAMS).

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Wakes calls that wait for capacity on a connection. Shared by all instances of a channel.
#[derive(Debug, Default)]
pub(crate) struct CapacityWaiters {
    waiting: AtomicUsize,
    notify: Notify,
}

impl CapacityWaiters {
    /// Starts to wait. Capacity that is released once the future was [enabled](Notified::enable) is not missed.
    pub(crate) fn wait(&self) -> (Waiter<'_>, Notified<'_>) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        (Waiter(self), self.notify.notified())
    }

    /// Wakes one call: there is capacity for one more.
    pub(crate) fn wake_one(&self) {
        // Nearly always no call waits, and this load is all.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.notify.notify_one();
        }
    }

    /// Wakes all calls: there may be capacity for many.
    pub(crate) fn wake_all(&self) {
        self.notify.notify_waiters();
    }
}

/// Counts one waiting call until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiter<'a>(&'a CapacityWaiters);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
