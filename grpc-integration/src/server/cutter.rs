//! The switch that cuts all connections of a server.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use super::sync::{AtomicBool, AtomicWaker, Mutex, MutexGuard, Ordering};

/// Cuts all connections of one server at once, and those that are accepted later too. Dropping it does so.
#[derive(Debug, Default)]
pub(super) struct Cutter(Arc<Switch>);

impl Cutter {
    /// Returns the state that connections check.
    pub(super) fn switch(&self) -> Arc<Switch> {
        Arc::clone(&self.0)
    }

    /// Cuts, and returns how many connections were open.
    pub(super) fn cut(&self) -> usize {
        self.0.cut()
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.0.cut();
    }
}

#[derive(Debug, Default)]
pub(super) struct Switch {
    cut: AtomicBool,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    open: BTreeMap<u64, Arc<Wakers>>,
}

/// The tasks that wait on one connection. Two, because reading and writing may be two tasks.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    pub(super) read: AtomicWaker,
    pub(super) write: AtomicWaker,
}

impl Switch {
    fn cut(&self) -> usize {
        self.cut.store(true, Ordering::SeqCst);
        let open: Vec<_> = self.connections().open.values().cloned().collect();
        for wakers in &open {
            wakers.read.wake();
            wakers.write.wake();
        }
        open.len()
    }

    /// Does `io` unless it was cut, and registers the task with `waker`, one of the connection's, to be woken by a cut.
    pub(super) fn unless_cut<T>(
        &self,
        cx: &mut Context<'_>,
        waker: &AtomicWaker,
        io: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if !self.is_cut() {
            let outcome = io(cx);
            if outcome.is_ready() {
                return outcome;
            }
            // Registered first and checked after: a cut in between is not missed.
            waker.register(cx.waker());
            if !self.is_cut() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Err(io::Error::new(
            ErrorKind::ConnectionAborted,
            "cut: the server's drain timeout is over",
        )))
    }

    /// Adds a connection; returns its key and its wakers.
    pub(super) fn add(&self) -> (u64, Arc<Wakers>) {
        let wakers = Arc::<Wakers>::default();
        let mut connections = self.connections();
        let key = connections.next;
        connections.next += 1;
        connections.open.insert(key, Arc::clone(&wakers));
        (key, wakers)
    }

    pub(super) fn remove(&self, key: u64) {
        self.connections().open.remove(&key);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        // No code that can panic leaves the map half changed.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
