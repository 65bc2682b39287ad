//! A connection that is its capacity and nothing else.

use std::sync::Arc;

use crate::capacity::{CapacityWaiters, InstanceCapacity};
use crate::shared::Shared;

#[derive(Debug)]
pub(crate) struct Connection(Shared);

impl Connection {
    /// Opens one on which the peer allows so many streams.
    pub(crate) fn open(max_streams: usize, capacity: &Arc<CapacityWaiters>) -> Arc<Self> {
        Self::opened_for(max_streams, &InstanceCapacity::of(capacity))
    }

    /// Opens one of an instance.
    pub(crate) fn opened_for(max_streams: usize, capacity: &Arc<InstanceCapacity>) -> Arc<Self> {
        let shared = Shared::new(Arc::default(), Arc::clone(capacity));
        shared.on_settings(max_streams);
        Arc::new(Self(shared))
    }

    /// The peer allows another number from now on.
    pub(crate) fn on_settings(&self, max_streams: usize) {
        self.0.on_settings(max_streams);
    }

    pub(crate) fn try_reserve(self: &Arc<Self>) -> Option<Slot> {
        self.0.try_reserve().then(|| Slot(Arc::clone(self)))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.peer.max_streams() <= self.0.reserved()
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.0.peer.is_open()
    }

    pub(crate) fn reserved(&self) -> usize {
        self.0.reserved()
    }
}

#[derive(Debug)]
pub(crate) struct Slot(Arc<Connection>);

impl Slot {
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.release();
    }
}
