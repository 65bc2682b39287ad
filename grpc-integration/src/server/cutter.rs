//! The switch that cuts all connections of a server, and what is open on them.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
// The counts order nothing, so the models need no others.
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

use super::sync::{AtomicBool, AtomicWaker, Mutex, MutexGuard, Ordering};

/// Cuts all connections of one server at once, and those that are accepted later too. Dropping it does so.
#[derive(Debug, Default)]
pub(super) struct Cutter(Arc<Switch>);

impl Cutter {
    /// Returns the state that connections check.
    pub(super) fn switch(&self) -> Arc<Switch> {
        Arc::clone(&self.0)
    }

    /// Cuts, and returns what was open.
    pub(super) fn cut(&self) -> Open {
        self.0.cut()
    }

    /// Returns what is open.
    pub(super) fn open(&self) -> Open {
        self.0.connections().open()
    }

    /// Waits until no call was in flight, and none began, for as long as `quiet`.
    pub(super) async fn idle(&self, quiet: Duration) {
        loop {
            let before = self.0.connections().changes();
            sleep(quiet).await;
            let connections = self.0.connections();
            if connections.open().calls == 0 && connections.changes() == before {
                return;
            }
        }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// How much is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) connections: usize,
    pub(super) calls: usize,
}

#[derive(Debug, Default)]
pub(super) struct Switch {
    cut: AtomicBool,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    open: BTreeMap<u64, Arc<ConnectionState>>,
    /// Calls that have begun or ended on connections that are closed.
    changes_of_closed: u64,
}

impl Connections {
    fn open(&self) -> Open {
        let calls = self.open.values().map(|connection| connection.calls.load(Ordering::Relaxed)).sum();
        Open { connections: self.open.len(), calls }
    }

    /// How many calls have begun or ended.
    fn changes(&self) -> u64 {
        let changes = |connection: &Arc<ConnectionState>| connection.changes.load(Ordering::Relaxed);
        self.open.values().map(changes).sum::<u64>() + self.changes_of_closed
    }
}

/// One connection, as others see it.
#[derive(Debug, Default)]
pub(super) struct ConnectionState {
    /// The tasks that wait on it. Two, because reading and writing may be two tasks.
    pub(super) read: AtomicWaker,
    pub(super) write: AtomicWaker,
    calls: AtomicUsize,
    changes: AtomicU64,
}

impl ConnectionState {
    /// Sets how many calls are in flight. Only the connection itself does.
    pub(super) fn set_calls(&self, calls: usize) {
        self.calls.store(calls, Ordering::Relaxed);
        let changes = self.changes.load(Ordering::Relaxed);
        self.changes.store(changes.wrapping_add(1), Ordering::Relaxed);
    }
}

impl Switch {
    fn cut(&self) -> Open {
        self.cut.store(true, Ordering::SeqCst);
        let (states, open) = {
            let connections = self.connections();
            (connections.open.values().cloned().collect::<Vec<_>>(), connections.open())
        };
        for state in states {
            state.read.wake();
            state.write.wake();
        }
        open
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
        Poll::Ready(Err(io::Error::new(ErrorKind::ConnectionAborted, "cut: the server has shut down")))
    }

    /// Adds a connection; returns its key and its state.
    pub(super) fn add(&self) -> (u64, Arc<ConnectionState>) {
        let state = Arc::<ConnectionState>::default();
        let mut connections = self.connections();
        let key = connections.next;
        connections.next += 1;
        connections.open.insert(key, Arc::clone(&state));
        (key, state)
    }

    pub(super) fn remove(&self, key: u64) {
        let mut connections = self.connections();
        if let Some(closed) = connections.open.remove(&key) {
            connections.changes_of_closed += closed.changes.load(Ordering::Relaxed);
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        // No code that can panic leaves the map half changed.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
