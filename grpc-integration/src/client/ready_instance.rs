//! One ready instance, with its connections and its load.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use hither_core::Instance;
use tokio::sync::Notify;

use super::capacity::CapacityWaiters;
use super::transport::Connection;

/// One instance that calls can be sent to. Cheap to clone; clones are equal and share the load.
///
/// An endpoint outlives changes of its instance's metadata, weight or state: those make a new `ReadyInstance`
/// value that shares the counters and the connections of the old one.
#[derive(Clone)]
pub struct ReadyInstance {
    instance: Arc<Instance>,
    core: Arc<Core>,
}

/// What stays the same while the instance's description changes.
#[derive(Debug, Default)]
struct Core {
    room: Arc<CapacityWaiters>,
    in_flight: AtomicUsize,
    /// Oldest first. Emptied when the instance is removed, so that no picker that is still around keeps a
    /// connection open.
    connections: ArcSwap<Vec<Arc<Connection>>>,
    closed: AtomicBool,
    wants_more: Notify,
}

impl ReadyInstance {
    /// An endpoint without a connection: for tests of policies.
    pub fn new(instance: Arc<Instance>) -> Self {
        Self { instance, core: Arc::default() }
    }

    /// The instance, as the registry last described it.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// How many calls are under way on it, through this channel. A call counts until its response body has
    /// ended or was dropped.
    pub fn in_flight(&self) -> usize {
        self.core.in_flight.load(Ordering::Relaxed)
    }

    /// An endpoint without a connection, that tells `room` when a call has ended on it.
    pub(crate) fn in_pool(instance: Arc<Instance>, room: &Arc<CapacityWaiters>) -> Self {
        Self { instance, core: Arc::new(Core { room: Arc::clone(room), ..Core::default() }) }
    }

    /// The same endpoint with another description.
    pub(crate) fn described_as(&self, instance: Arc<Instance>) -> Self {
        Self { instance, core: Arc::clone(&self.core) }
    }

    /// Room for one call on the oldest connection that has some. Without any, another connection is asked
    /// for.
    pub(crate) fn reserve(&self) -> Option<Reservation> {
        let connections = self.core.connections.load();
        let Some(connection) = connections.iter().find(|connection| connection.try_reserve()) else {
            self.core.wants_more.notify_one();
            return None;
        };
        self.core.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Reservation { endpoint: self.clone(), connection: Arc::clone(connection) })
    }

    /// Completes when calls have found no room; also when that was a while ago.
    pub(crate) async fn wants_more(&self) {
        self.core.wants_more.notified().await;
    }

    /// Replaces the connections. Only the endpoint's subchannel does.
    pub(crate) fn set_connections(&self, connections: Vec<Arc<Connection>>) {
        self.core.connections.store(Arc::new(connections));
        // The subchannel may be in the middle of this while the pool closes the endpoint.
        if self.core.closed.load(Ordering::SeqCst) {
            self.core.connections.store(Arc::default());
        }
        self.core.room.opened();
    }

    /// Lets go of all connections for good: each closes when its last call is done.
    pub(crate) fn close(&self) {
        self.core.closed.store(true, Ordering::SeqCst);
        self.core.connections.store(Arc::default());
    }
}

impl PartialEq for ReadyInstance {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.core, &other.core)
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

/// Room for one call, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    endpoint: ReadyInstance,
    connection: Arc<Connection>,
}

impl Reservation {
    pub(crate) fn endpoint(&self) -> &ReadyInstance {
        &self.endpoint
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.endpoint.core.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.connection.release();
        self.endpoint.core.room.freed();
    }
}
