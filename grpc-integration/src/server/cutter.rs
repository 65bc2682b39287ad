//! The switch that cuts all connections of a server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::task::AtomicWaker;

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
    open: HashMap<u64, Arc<Wakers>>,
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

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
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

    fn connections(&self) -> MutexGuard<'_, Connections> {
        // No code that can panic leaves the map half changed.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
