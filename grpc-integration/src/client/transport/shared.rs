//! What a connection's handle, its streams and its task share.

use std::sync::Arc;

use super::ending::Ending;
use super::peer::Peer;
use super::queue::Queue;
use super::resets::ResetBudget;
use super::wire::WireFacts;
use crate::client::capacity::InstanceCapacity;
use crate::client::sync::{AtomicUsize, Ordering};

/// What a connection's handle, its streams and its task share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) peer: Peer,
    pub(super) wire: Arc<WireFacts>,
    pub(super) reset_budget: ResetBudget,
    /// How many calls have a slot.
    reserved: AtomicUsize,
    capacity: Arc<InstanceCapacity>,
}

impl Shared {
    pub(super) fn new(wire: Arc<WireFacts>, capacity: Arc<InstanceCapacity>) -> Self {
        Self {
            queue: Queue::default(),
            peer: Peer::new(),
            wire,
            reset_budget: ResetBudget::new(),
            reserved: AtomicUsize::new(0),
            capacity,
        }
    }

    /// Returns how many streams are reserved or open.
    pub(super) fn reserved(&self) -> usize {
        self.reserved.load(Ordering::SeqCst)
    }

    /// Reserves a stream, if there is capacity.
    pub(super) fn try_reserve(&self) -> bool {
        if !self.peer.is_open() {
            return false;
        }
        let max = self.peer.max_streams();
        let take = |reserved: usize| (reserved < max).then_some(reserved + 1);
        self.reserved.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }

    pub(super) fn release(&self) {
        self.reserved.fetch_sub(1, Ordering::SeqCst);
        self.capacity.wake();
    }

    /// The peer's SETTINGS allow this many streams.
    pub(super) fn on_settings(&self, max_streams: usize) {
        if self.peer.on_settings(max_streams) {
            self.capacity.wake();
        }
    }

    /// The connection is gone, for this reason. What was not sent is given back.
    pub(super) fn close(&self, ending: Ending) {
        self.peer.close(ending);
        let work = self.queue.close();
        for ticket in &work.tickets {
            ticket.give_back();
        }
    }
}
