//! An instance with its connections and its load.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use hither_core::Instance;
use tokio::sync::Notify;

use super::capacity::CapacityWaiters;
use super::transport::Connection;

/// An instance that is connected, as load balancing policies see it. Cheap to clone; clones are equal and share the
/// load.
///
/// It outlives changes of the instance's metadata, weight or state: those make a new `ReadyInstance`, equal to the
/// old one, that shares its load and its connections.
#[derive(Clone)]
pub struct ReadyInstance {
    instance: Arc<Instance>,
    inner: Arc<Inner>,
}

/// What stays the same while the description of the instance changes.
#[derive(Debug, Default)]
struct Inner {
    capacity: Arc<CapacityWaiters>,
    in_flight: AtomicUsize,
    /// Oldest first. Emptied when the instance is removed, so that no picker that is still referenced keeps a
    /// connection open.
    connections: ArcSwap<Vec<Arc<Connection>>>,
    closed: AtomicBool,
    no_capacity: Notify,
}

impl ReadyInstance {
    /// Returns one without a connection: for tests of policies.
    pub fn new(instance: Arc<Instance>) -> Self {
        Self { instance, inner: Arc::default() }
    }

    /// Returns the instance, as the registry described it last.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// Returns the number of calls in flight on it, through this channel. A call counts until its response body has
    /// ended or was dropped.
    pub fn in_flight(&self) -> usize {
        self.inner.in_flight.load(Ordering::Relaxed)
    }

    /// Returns one without a connection, that wakes `capacity` when a call on it has ended.
    pub(crate) fn in_pool(instance: Arc<Instance>, capacity: &Arc<CapacityWaiters>) -> Self {
        let inner = Inner { capacity: Arc::clone(capacity), ..Inner::default() };
        Self { instance, inner: Arc::new(inner) }
    }

    /// Returns the same one with another description.
    pub(crate) fn described_as(&self, instance: Arc<Instance>) -> Self {
        Self { instance, inner: Arc::clone(&self.inner) }
    }

    /// Reserves a stream for one call, on the oldest connection that has capacity. If none has, asks for another
    /// connection.
    pub(crate) fn reserve(&self) -> Option<Reservation> {
        let connections = self.inner.connections.load();
        let Some(connection) = connections.iter().find(|connection| connection.try_reserve()) else {
            self.inner.no_capacity.notify_one();
            return None;
        };
        self.inner.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Reservation { instance: self.clone(), connection: Arc::clone(connection) })
    }

    /// Completes when a call has found no capacity, now or since the last time.
    pub(crate) async fn no_capacity(&self) {
        self.inner.no_capacity.notified().await;
    }

    /// Replaces the connections. Called by the instance's subchannel only.
    pub(crate) fn set_connections(&self, connections: Vec<Arc<Connection>>) {
        self.inner.connections.store(Arc::new(connections));
        // The pool may close it on another thread at this moment.
        if self.inner.closed.load(Ordering::SeqCst) {
            self.inner.connections.store(Arc::default());
        }
        self.inner.capacity.wake_all();
    }

    /// Releases all connections for good: each closes when its last call has ended.
    pub(crate) fn close(&self) {
        self.inner.closed.store(true, Ordering::SeqCst);
        self.inner.connections.store(Arc::default());
    }
}

impl PartialEq for ReadyInstance {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for ReadyInstance {}

impl fmt::Debug for ReadyInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyInstance")
            .field("id", self.instance.id())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// A stream reserved for one call, released when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    instance: ReadyInstance,
    connection: Arc<Connection>,
}

impl Reservation {
    pub(crate) fn instance(&self) -> &ReadyInstance {
        &self.instance
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.instance.inner.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.connection.release();
        self.instance.inner.capacity.wake_one();
    }
}
