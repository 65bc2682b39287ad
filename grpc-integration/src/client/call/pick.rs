//! Waiting for an instance with capacity.

use std::pin::pin;
use std::sync::Arc;

use http::HeaderMap;
use tonic::Status;

use super::attempt::Attempt;
use super::progress::Progress;
use crate::client::balance::{CallInfo, Pick};
use crate::client::pool::{Ready, State, StateReader, closed};
use crate::client::ready_instance::ReadyInstance;
use crate::client::transport::Slot;

/// How often the picker is asked while it picks instances without capacity.
const TRIES: usize = 3;

/// An attempt, and the stream that was reserved for it.
pub(super) type Picked = (Attempt, Slot);

/// The outcome of one look at the state.
enum Look {
    Done(Result<Picked, Status>),
    /// No connection has capacity.
    Full,
    /// The call is queued until the state changes.
    Queued,
}

/// Picks for one call.
pub(super) struct Picking<'a> {
    pub(super) state: &'a StateReader,
    pub(super) path: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) wait_for_ready: bool,
}

impl Picking<'_> {
    /// Picks an instance with capacity if there is one now: nearly always, and without a lock.
    pub(super) fn now(&self, progress: &mut Progress) -> Option<Result<Picked, Status>> {
        // Those who wait come first.
        if self.state.capacity().any() {
            return None;
        }
        match self.look(progress) {
            Look::Done(picked) => Some(picked),
            Look::Full | Look::Queued => None,
        }
    }

    /// Waits for an instance with capacity.
    pub(super) async fn wait(&self, progress: &mut Progress) -> Result<Picked, Status> {
        let capacity = self.state.capacity();
        // When there are no more changes, the pool has published `Closed`.
        let mut changes = self.state.changes();
        loop {
            if !capacity.any() {
                match self.look(progress) {
                    Look::Done(picked) => return picked,
                    Look::Full => {}
                    Look::Queued => {
                        let _ = changes.changed().await;
                        continue;
                    }
                }
            }
            *progress = Progress::Full;
            let head = capacity.join().await;
            loop {
                let mut freed = pin!(head.freed());
                freed.as_mut().enable();
                changes.mark_unchanged();
                match self.look(progress) {
                    Look::Done(picked) => return picked,
                    // It waits for something else, and leaves the line meanwhile.
                    Look::Queued => break,
                    Look::Full => tokio::select! {
                        _ = changes.changed() => {}
                        () = freed => {}
                    },
                }
            }
            drop(head);
            let _ = changes.changed().await;
        }
    }

    fn look(&self, progress: &mut Progress) -> Look {
        match &**self.state.load() {
            State::Ready(ready) => self.pick_among(ready, progress),
            State::Failing(reason) if !self.wait_for_ready => Look::Done(Err(reason.error().into())),
            State::Failing(reason) | State::Connecting(reason) => {
                *progress = Progress::Waiting(reason.to_string());
                Look::Queued
            }
            State::Closed => Look::Done(Err(closed().into())),
        }
    }

    fn pick_among(&self, ready: &Ready, progress: &mut Progress) -> Look {
        let info = CallInfo::new(self.path, self.headers);
        let reserve = |instance: ReadyInstance| {
            let (in_flight, slot) = instance.reserve()?;
            let attempt = Attempt::new(in_flight, Arc::clone(slot.connection()), Arc::clone(&ready.picker));
            Some(Look::Done(Ok((attempt, slot))))
        };
        for _ in 0..TRIES {
            match ready.picker.pick(&info) {
                Pick::Instance(instance) => {
                    if let Some(done) = reserve(instance) {
                        return done;
                    }
                }
                Pick::Queue => return Look::Queued,
                Pick::Fail(status) if self.wait_for_ready => {
                    *progress = Progress::Waiting(status.message().to_owned());
                    return Look::Queued;
                }
                Pick::Fail(status) | Pick::Drop(status) => return Look::Done(Err(status)),
            }
        }
        let mut others: Vec<_> = ready.instances.iter().collect();
        others.sort_by_cached_key(|instance| instance.in_flight());
        if let Some(done) = others.into_iter().find_map(|instance| reserve(instance.clone())) {
            return done;
        }
        *progress = Progress::Full;
        Look::Full
    }
}
