//! The waker that a byte stream gets: it knows whether there may be something to read.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use crate::client::sync::{AtomicBool, Ordering};

/// Wakes the task of a connection when its byte stream does.
///
/// h2 reads each time that it is polled, and nearly half of the time it was polled to send a request. A stream that was pending
/// and has not called its waker since is still pending, so it need not be polled. Reads, writes and flushes all pass this waker:
/// some streams keep a single one, that of the last poll.
#[derive(Debug)]
pub(super) struct StreamWaker {
    task: Waker,
    /// Whether the stream has woken since reading began last.
    woken: AtomicBool,
}

impl StreamWaker {
    /// Returns one that has woken, and its waker.
    #[cold]
    pub(super) fn new(task: &Waker) -> (Arc<Self>, Waker) {
        let this = Arc::new(Self { task: task.clone(), woken: AtomicBool::new(true) });
        let waker = Waker::from(Arc::clone(&this));
        (this, waker)
    }

    /// Whether it wakes the task that polls with `cx`.
    pub(super) fn is_of(&self, cx: &Context<'_>) -> bool {
        self.task.will_wake(cx.waker())
    }

    /// Reading begins. Returns whether the stream has woken since the last time.
    pub(super) fn begin(&self) -> bool {
        // Nobody else resets it, so most of the time it need not be written to be known.
        self.woken.load(Ordering::Relaxed) && self.woken.swap(false, Ordering::SeqCst)
    }

    /// There was something to read, and there may be more.
    pub(super) fn again(&self) {
        self.woken.store(true, Ordering::Relaxed);
    }
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task runs.
        self.woken.store(true, Ordering::SeqCst);
        self.task.wake_by_ref();
    }
}
