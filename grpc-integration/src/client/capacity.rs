//! Where calls wait that found every connection full.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Wakes calls that wait for room on a connection. Shared by all instances of a channel.
#[derive(Debug, Default)]
pub(crate) struct CapacityWaiters {
    waiting: AtomicUsize,
    notify: Notify,
}

impl CapacityWaiters {
    /// Waits for room. What becomes free from now on is not missed, once the future was
    /// [enabled](Notified::enable).
    pub(crate) fn wait(&self) -> (Waiting<'_>, Notified<'_>) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        (Waiting(self), self.notify.notified())
    }

    /// There is room for one more call.
    pub(crate) fn freed(&self) {
        // Nearly always nobody waits, and then this is all.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.notify.notify_one();
        }
    }

    /// There may be room for many calls.
    pub(crate) fn opened(&self) {
        self.notify.notify_waiters();
    }
}

/// Counts one who waits.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a CapacityWaiters);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
