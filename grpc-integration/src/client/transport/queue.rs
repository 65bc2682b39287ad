//! The queue between calls and the task of their connection.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::{Arc, PoisonError};
use std::task::Waker;

use h2::RecvStream;

use super::resets::Cancelled;
use super::ticket::Ticket;
use crate::client::sync::{Mutex, MutexGuard};

/// How many requests may be queued before those of ended calls are removed.
const SWEEP: usize = 256;
/// How many ended streams are kept until the task runs for another reason.
const FINISHED: usize = 64;

/// The requests and cancellations for a connection's task, in the order in which they came.
#[derive(Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    tickets: VecDeque<Arc<Ticket>>,
    cancelled: Vec<Cancelled>,
    finished: Vec<RecvStream>,
    waker: Option<Waker>,
    /// Whether the task was woken since it looked last, so that it is woken once for many calls.
    woken: bool,
    /// At how many requests those are removed whose calls have ended.
    sweep_at: usize,
    /// The task accepts nothing any more.
    closed: bool,
    /// There is no handle of the connection any more.
    orphaned: bool,
}

/// What the task was given.
#[derive(Default)]
pub(super) struct Work {
    pub(super) tickets: VecDeque<Arc<Ticket>>,
    pub(super) cancelled: Vec<Cancelled>,
    /// The streams of responses that have ended.
    pub(super) finished: Vec<RecvStream>,
    pub(super) orphaned: bool,
}

impl Queue {
    /// Adds a request; `false` if the task accepts none.
    pub(super) fn push(&self, ticket: &Arc<Ticket>) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        if state.tickets.len() >= state.sweep_at {
            // The task holds them back, because the peer does not read: those of calls that have ended need not wait.
            state.tickets.retain(|ticket| !ticket.is_over());
            state.sweep_at = state.tickets.len().saturating_mul(2).max(SWEEP);
        }
        state.tickets.push_back(Arc::clone(ticket));
        Self::wake(state);
        true
    }

    /// Hands over the stream of a call that was dropped.
    pub(super) fn cancel(&self, cancelled: Cancelled) {
        let mut state = self.lock();
        if state.closed {
            // Dropped without the lock: it may hold the last handle of the connection.
            drop(state);
            drop(cancelled);
            return;
        }
        state.cancelled.push(cancelled);
        Self::wake(state);
    }

    /// Hands over the stream of a response that has ended. The task drops it when it runs for another reason: h2 would
    /// wake it for the drop alone.
    pub(super) fn finish(&self, stream: RecvStream) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            drop(stream);
            return;
        }
        state.finished.push(stream);
        if state.finished.len() >= FINISHED {
            Self::wake(state);
        }
    }

    /// There is no handle of the connection any more.
    pub(super) fn orphan(&self) {
        let mut state = self.lock();
        state.orphaned = true;
        Self::wake(state);
    }

    /// Moves everything into `work`, but for what `work` still has some of, and for the requests if they are to be held
    /// back. Returns how many requests are left here.
    pub(super) fn take(&self, waker: &Waker, hold: bool, work: &mut Work) -> usize {
        let mut state = self.lock();
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        // From here on whatever comes wakes the task again.
        state.woken = false;
        work.orphaned = state.orphaned;
        work.cancelled.append(&mut state.cancelled);
        if work.finished.is_empty() {
            mem::swap(&mut state.finished, &mut work.finished);
        }
        if work.tickets.is_empty() && (!hold || state.orphaned) {
            mem::swap(&mut state.tickets, &mut work.tickets);
            state.sweep_at = SWEEP;
        }
        state.tickets.len()
    }

    /// Accepts nothing more. What is in the queue is returned.
    pub(super) fn close(&self) -> Work {
        let mut state = self.lock();
        state.closed = true;
        state.waker = None;
        Work {
            tickets: mem::take(&mut state.tickets),
            cancelled: mem::take(&mut state.cancelled),
            finished: mem::take(&mut state.finished),
            orphaned: state.orphaned,
        }
    }

    fn wake(mut state: MutexGuard<'_, State>) {
        if mem::replace(&mut state.woken, true) {
            return;
        }
        let waker = state.waker.clone();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue")
    }
}
