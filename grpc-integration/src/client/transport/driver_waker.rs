//! The waker that h2 gets: the connection's task does not wake itself.

use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};

use crate::client::sync::{AtomicBool, Ordering, fence};

/// Wakes the task of a connection, unless the task is about to poll h2 anyway.
///
/// h2 wakes its task for each request that it is given and each stream that is dropped. The task does both itself, and
/// would be polled once more for nothing.
#[derive(Debug, Default)]
pub(super) struct DriverWaker {
    task: OnceLock<Waker>,
    muted: AtomicBool,
}

impl DriverWaker {
    /// Ignores what wakes until [`unmute`](Self::unmute). `task` is the waker of the task, which stays the same.
    pub(super) fn mute(&self, task: &Waker) {
        self.task.get_or_init(|| task.clone());
        self.muted.store(true, Ordering::Relaxed);
    }

    /// Has to be followed by a poll of h2, which finds what was changed meanwhile: the state is changed before the wake-up.
    pub(super) fn unmute(&self) {
        self.muted.store(false, Ordering::Relaxed);
        // With the one in `wake`: either the poll sees the changed state, or `wake` sees that it is not muted.
        fence(Ordering::SeqCst);
    }
}

impl Wake for DriverWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        if !self.muted.load(Ordering::Relaxed)
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }
}
