//! One watch of one service.

use std::sync::Arc;

use futures_util::stream;
use hither_core::{Result, ServiceName, Snapshot, SnapshotStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::fault_plan::WatchId;
use crate::state::RegistrarId;
use crate::store::{DEADLINE, Inner, Store, needs_runtime, no_response};

/// An open watch; dropping it closes it. It has no task: a reader that waits for a snapshot wakes by itself
/// when the next lease expires.
pub(crate) struct MemoryWatch {
    store: Arc<Store>,
    id: WatchId,
    service: ServiceName,
    changes: watch::Receiver<u64>,
    /// The revision of the service's state that was sent last.
    sent: Option<u64>,
}

enum Step {
    Send(Snapshot),
    /// Nothing new: wait for a change, or until this time.
    Wait(Option<Instant>),
}

impl MemoryWatch {
    /// Opens a watch, with the registry locked.
    pub(crate) fn open(
        inner: &mut Inner,
        store: &Arc<Store>,
        registrar: RegistrarId,
        service: &ServiceName,
    ) -> Result<Self> {
        needs_runtime()?;
        Ok(Self {
            id: inner.faults.open_watch(registrar),
            store: Arc::clone(store),
            service: service.clone(),
            changes: store.changes(),
            sent: None,
        })
    }

    /// The snapshots, up to and including the first error.
    pub(crate) fn into_stream(self) -> SnapshotStream {
        Box::pin(stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(snapshot) => Some((Ok(snapshot), Some(watch))),
                Err(error) => Some((Err(error.with_operation("watch")), None)),
            }
        }))
    }

    async fn next(&mut self) -> Result<Snapshot> {
        loop {
            // Marked as seen before the look, so that no change in between is missed.
            self.changes.mark_unchanged();
            self.store.expire().await;
            let until = match self.step()? {
                Step::Send(snapshot) => return Ok(snapshot),
                Step::Wait(until) => until,
            };
            tokio::select! {
                _ = self.changes.changed() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
        }
    }

    fn step(&mut self) -> Result<Step> {
        let mut locked = self.store.lock();
        locked.faults.check_watch(self.id)?;
        if let Some(since) = locked.faults.frozen_since() {
            let deadline = since + DEADLINE;
            return if locked.now < deadline { Ok(Step::Wait(Some(deadline))) } else { Err(no_response()) };
        }
        let changed_at = locked.state.changed_at(&self.service);
        if self.sent == Some(changed_at) {
            return Ok(Step::Wait(locked.state.next_deadline()));
        }
        let snapshot = locked.state.snapshot(&self.service);
        drop(locked);
        self.sent = Some(changed_at);
        Ok(Step::Send(snapshot))
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.store.lock_as_it_is().faults.close_watch(self.id);
    }
}
