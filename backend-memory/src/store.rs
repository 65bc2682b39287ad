//! The lock around the state, and the way of a call to it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hither_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::Operation;
use crate::fault_plan::{Fault, Trouble};
use crate::state::{RegistrarId, State};

/// A registry: what all its handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// Wakes whoever waits for a change, of the records or of the faults. The number is the revision.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) state: State,
    pub(crate) trouble: Trouble,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), changes: watch::Sender::new(0) })
    }

    /// The registry as it is now: what has lapsed is gone. It is not kept across an await.
    pub(crate) fn enter(&self) -> Entered<'_> {
        let now = Instant::now();
        // Nothing in there panics half way through a change.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.state.expire(now);
        Entered { inner, shared: self, now }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Wakes all who wait, also where no record has changed.
    pub(crate) fn wake(&self) {
        self.changes.send_modify(|_| {});
    }

    /// One call of a process: past everything that stands in its way, and then at once.
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
        let deadline = Instant::now() + crate::MemoryRegistry::DEADLINE;
        let (fault, delay) = self.enter().trouble.begin(operation);
        travel(delay, deadline).await?;
        if let Some(Fault::Fails(kind)) = fault {
            return Err(Error::new(kind, "a fault that a test asked for"));
        }
        // Subscribed before it looks, so that no change falls between.
        let mut changes = self.changes();
        let mut entered = loop {
            if let Some(entered) = self.try_enter(registrar)? {
                break entered;
            }
            needs_runtime()?;
            if timeout_at(deadline, changes.changed()).await.is_err() {
                return Err(no_answer());
            }
        };
        let now = entered.now;
        let answer = apply(&mut entered, now);
        // Before an answer that is lost is dropped: a watch enters by itself to close.
        drop(entered);
        match fault {
            Some(Fault::AnswerLost) => Err(no_answer()),
            _ => answer,
        }
    }

    /// `None` while it is frozen.
    fn try_enter(&self, registrar: RegistrarId) -> Result<Option<Entered<'_>>> {
        let entered = self.enter();
        Ok(entered.trouble.let_through(registrar)?.then_some(entered))
    }
}

/// The registry, locked. Whoever waits for a change is woken when it is left.
pub(crate) struct Entered<'a> {
    inner: MutexGuard<'a, Inner>,
    shared: &'a Shared,
    pub(crate) now: Instant,
}

impl Deref for Entered<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Entered<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let revision = self.inner.state.revision();
        self.shared.changes.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
    }
}

pub(crate) fn no_answer() -> Error {
    Error::new(ErrorKind::Timeout, format!("no answer within {:?}", crate::MemoryRegistry::DEADLINE))
}

/// Waiting takes a clock, and without a runtime Tokio's panics.
pub(crate) fn needs_runtime() -> Result<()> {
    match Handle::try_current() {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(Error::new(ErrorKind::Unsupported, "there is no Tokio runtime here").with_source(error))
        }
    }
}

async fn travel(delay: Duration, deadline: Instant) -> Result<()> {
    if delay.is_zero() {
        return Ok(());
    }
    needs_runtime()?;
    let arrival = Instant::now().checked_add(delay).filter(|arrival| *arrival < deadline);
    sleep_until(arrival.unwrap_or(deadline)).await;
    arrival.map(drop).ok_or_else(no_answer)
}
