//! One watch of one service.

use std::sync::Arc;

use futures_util::stream;
use hither_core::{Result, ServiceName, Snapshot, SnapshotStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::MemoryRegistry;
use crate::fault_plan::WatchId;
use crate::state::RegistrarId;
use crate::store::{Inner, Shared, needs_runtime, no_answer};

/// An open watch; dropping it closes it. It holds no task: who waits for a snapshot wakes by itself when the
/// next lease lapses.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    id: WatchId,
    service: ServiceName,
    changes: watch::Receiver<u64>,
    /// What the reader has, so that its `Arc`s are used again.
    known: Option<Snapshot>,
    /// The state of the service that was sent last.
    sent: Option<u64>,
}

/// What a look at the registry comes to.
enum Step {
    Send(Snapshot),
    /// Nothing new: to wait for a change, or until then.
    Wait(Option<Instant>),
}

impl Watch {
    /// Opens a watch, with the registry locked.
    pub(crate) fn open(
        inner: &mut Inner,
        shared: &Arc<Shared>,
        registrar: RegistrarId,
        service: &ServiceName,
        since: Option<Snapshot>,
    ) -> Result<Self> {
        needs_runtime()?;
        Ok(Self {
            id: inner.trouble.open_watch(registrar),
            shared: Arc::clone(shared),
            service: service.clone(),
            changes: shared.changes(),
            known: since,
            sent: None,
        })
    }

    /// The snapshots, up to the first error.
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
            // Marked as seen before it looks, so that no change falls between.
            self.changes.mark_unchanged();
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
        let mut entered = self.shared.enter();
        entered.trouble.cut(self.id)?;
        if let Some(since) = entered.trouble.frozen_since() {
            let deadline = since + MemoryRegistry::DEADLINE;
            return if entered.now < deadline { Ok(Step::Wait(Some(deadline))) } else { Err(no_answer()) };
        }
        let changed_at = entered.state.changed_at(&self.service);
        if self.sent == Some(changed_at) {
            return Ok(Step::Wait(entered.state.next_deadline()));
        }
        let snapshot = entered.state.snapshot(&self.service);
        drop(entered);
        let snapshot = match &self.known {
            Some(known) => snapshot.reusing(known),
            None => snapshot,
        };
        self.sent = Some(changed_at);
        self.known = Some(snapshot.clone());
        Ok(Step::Send(snapshot))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.enter().trouble.close_watch(self.id);
    }
}
