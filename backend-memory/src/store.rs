//! The lock around the state, and the path of a call to it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hither_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::Operation;
use crate::fault_plan::{Fault, FaultPlan};
use crate::state::{RegistrarId, State};

/// How many leases expire before others have their turn.
const EXPIRED: usize = 256;

/// How long a call or a watch waits for a frozen registry.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// One registry: what all its handles share.
#[derive(Debug)]
pub(crate) struct Store {
    inner: Mutex<Inner>,
    /// Wakes every task that waits for a change of the records or of the faults. The value is the revision.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) state: State,
    pub(crate) faults: FaultPlan,
}

impl Store {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), changes: watch::Sender::new(0) })
    }

    /// Locks the registry, after removing what has expired by now. The lock is never held across an await.
    pub(crate) fn lock(&self) -> Locked<'_> {
        let mut locked = self.lock_as_it_is();
        let now = locked.now;
        locked.state.expire(now, usize::MAX);
        locked
    }

    /// Locks the registry, for what does not depend on its records.
    pub(crate) fn lock_as_it_is(&self) -> Locked<'_> {
        // Nothing under this lock panics in the middle of a change, so a poisoned state is still consistent.
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { inner, store: self, now: Instant::now() }
    }

    /// Removes what has expired by now, and yields in between: many leases may expire at the same time. Before each
    /// [`lock`](Self::lock) that is for a process.
    pub(crate) async fn expire(&self) {
        let now = Instant::now();
        let expire = || self.inner.lock().unwrap_or_else(PoisonError::into_inner).state.expire(now, EXPIRED);
        // Those that wait are told by the lock that follows.
        while !expire() {
            yield_now().await;
        }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Wakes all waiting tasks, also when no record has changed.
    pub(crate) fn wake(&self) {
        self.changes.send_modify(|_| {});
    }

    /// Runs one call of a process: waits for the injected faults, then applies the call at once.
    pub(crate) async fn call<T>(
        &self,
        registrar: RegistrarId,
        operation: Operation,
        apply: impl FnOnce(&mut Inner, Instant) -> Result<T> + Send,
    ) -> Result<T> {
        self.attempt(registrar, operation, apply)
            .await
            .map_err(|error| error.with_operation(operation.name()))
    }

    async fn attempt<T>(
        &self,
        registrar: RegistrarId,
        operation: Operation,
        apply: impl FnOnce(&mut Inner, Instant) -> Result<T> + Send,
    ) -> Result<T> {
        let deadline = Instant::now() + DEADLINE;
        self.expire().await;
        let (fault, latency) = self.lock().faults.begin(operation);
        simulate_latency(latency, deadline).await?;
        if let Some(Fault::Fails(kind)) = fault {
            return Err(Error::new(kind, "injected fault"));
        }
        // Subscribed before the first look, so that no change in between is missed.
        let mut changes = self.changes();
        let mut locked = loop {
            self.expire().await;
            if let Some(locked) = self.try_lock(registrar)? {
                break locked;
            }
            needs_runtime()?;
            if timeout_at(deadline, changes.changed()).await.is_err() {
                return Err(no_response());
            }
        };
        let now = locked.now;
        let response = apply(&mut locked, now);
        // Unlocked before a lost response is dropped: dropping a watch takes the lock to close it.
        drop(locked);
        match fault {
            Some(Fault::LosesResponse) => Err(no_response()),
            _ => response,
        }
    }

    /// `None` while the registry is frozen.
    fn try_lock(&self, registrar: RegistrarId) -> Result<Option<Locked<'_>>> {
        let locked = self.lock();
        Ok(locked.faults.admits(registrar)?.then_some(locked))
    }
}

/// The locked registry. Dropping it wakes all tasks that wait for a change, if there was one.
pub(crate) struct Locked<'a> {
    inner: MutexGuard<'a, Inner>,
    store: &'a Store,
    pub(crate) now: Instant,
}

impl Deref for Locked<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let revision = self.inner.state.revision();
        self.store.changes.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
    }
}

pub(crate) fn no_response() -> Error {
    Error::new(ErrorKind::Timeout, format!("no response within {DEADLINE:?}"))
}

/// Checks for a runtime before a wait: Tokio's clock panics without one.
pub(crate) fn needs_runtime() -> Result<()> {
    match Handle::try_current() {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(Error::new(ErrorKind::Unsupported, "called outside a Tokio runtime").with_source(error))
        }
    }
}

async fn simulate_latency(latency: Duration, deadline: Instant) -> Result<()> {
    if latency.is_zero() {
        return Ok(());
    }
    needs_runtime()?;
    let arrival = Instant::now().checked_add(latency).filter(|arrival| *arrival < deadline);
    sleep_until(arrival.unwrap_or(deadline)).await;
    arrival.map(drop).ok_or_else(no_response)
}
