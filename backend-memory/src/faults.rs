//! Fault injection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{Claim, ErrorKind, Instance, InstanceId, Registration, ServiceName};

use crate::Operation;
use crate::fault_plan::Fault;
use crate::state::RegistrarId;
use crate::store::{Inner, Store};

/// Injects faults into a [`MemoryRegistry`](crate::MemoryRegistry), for tests.
///
/// Every method takes effect at once, and none waits. A clone controls the same registry.
///
/// - **Calls**: [`fail_next`](Self::fail_next), [`fail_next_of`](Self::fail_next_of),
///   [`lose_next_response_of`](Self::lose_next_response_of), [`delay`](Self::delay).
/// - **The registry as a whole**: [`stop`](Self::stop) and [`start`](Self::start), [`freeze`](Self::freeze) and
///   [`thaw`](Self::thaw), [`cut_watches`](Self::cut_watches).
/// - **The connection of one process**: [`disconnect`](Self::disconnect) and [`reconnect`](Self::reconnect).
/// - **Its content**: [`expire`](Self::expire), [`expire_all`](Self::expire_all),
///   [`delete_record`](Self::delete_record), [`change_record`](Self::change_record),
///   [`take_over`](Self::take_over), [`wipe`](Self::wipe), [`put_without_lease`](Self::put_without_lease),
///   [`put_garbage`](Self::put_garbage).
/// - **Counters**: [`calls`](Self::calls), [`calls_of`](Self::calls_of), [`live_leases`](Self::live_leases),
///   [`open_watches`](Self::open_watches), [`skipped_records`](Self::skipped_records).
///
/// ```
/// use hither_core::{ErrorKind, Resolver};
/// use hither_memory::MemoryRegistry;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let registry = MemoryRegistry::new();
/// let faults = registry.faults();
/// faults.fail_next(1, ErrorKind::PermissionDenied);
/// let error = registry.resolve(&"greeter".parse()?).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::PermissionDenied);
/// assert!(registry.resolve(&"greeter".parse()?).await.is_ok());
/// assert_eq!(faults.calls(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Faults {
    store: Arc<Store>,
    registrar: RegistrarId,
}

/// Calls.
impl Faults {
    /// Fails the next `calls` calls of any operation with an error of this kind. They have no other effect: an
    /// injected `LeaseExpired` leaves the lease alive.
    pub fn fail_next(&self, calls: u64, kind: ErrorKind) {
        self.change(|inner| inner.faults.plan(None, Fault::Fails(kind), calls));
    }

    /// Fails the next `calls` calls of this operation with an error of this kind.
    ///
    /// ```
    /// use hither_core::{Claim, ErrorKind, Instance, Registrar, Registration};
    /// use hither_memory::{MemoryRegistry, Operation};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_core::Result<()> {
    /// let registry = MemoryRegistry::new();
    /// registry.faults().fail_next_of(Operation::Renew, 1, ErrorKind::Unavailable);
    /// let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?))?;
    /// let mut lease = registry.register(&registration, Claim::TakeOver).await?;
    /// assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::Unavailable);
    /// assert!(lease.renew().await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_next_of(&self, operation: Operation, calls: u64, kind: ErrorKind) {
        self.change(|inner| inner.faults.plan(Some(operation), Fault::Fails(kind), calls));
    }

    /// Loses the response to the next call of this operation: the call takes effect, and the caller gets a
    /// `Timeout`, at once.
    pub fn lose_next_response_of(&self, operation: Operation) {
        self.change(|inner| inner.faults.plan(Some(operation), Fault::LosesResponse, 1));
    }

    /// Sets the latency of every call from now on. A call whose latency reaches
    /// [`MemoryRegistry::DEADLINE`](crate::MemoryRegistry::DEADLINE) ends there with `Timeout` and has no effect.
    /// Open watches are not delayed. Zero removes the latency.
    pub fn delay(&self, delay: Duration) {
        self.change(|inner| inner.faults.set_latency(delay));
    }
}

/// The registry as a whole.
impl Faults {
    /// Stops the registry until [`start`](Self::start): every call fails with `Unavailable`, and every watch
    /// ends. As with etcd, no lease expires meanwhile.
    pub fn stop(&self) {
        self.change(|inner| {
            inner.faults.stop();
            inner.state.stop();
        });
    }

    /// Starts a stopped registry, with all its content. As after a restart of etcd, each lease has its whole TTL
    /// again.
    pub fn start(&self) {
        let mut locked = self.store.lock();
        let now = locked.now;
        locked.faults.start();
        locked.state.start(now);
        drop(locked);
        self.store.wake();
    }

    /// Freezes the registry until [`thaw`](Self::thaw): calls and watches hang, including those in flight, each
    /// for at most [`MemoryRegistry::DEADLINE`](crate::MemoryRegistry::DEADLINE), and then end with `Timeout`.
    /// Leases keep expiring.
    pub fn freeze(&self) {
        let mut locked = self.store.lock();
        let now = locked.now;
        locked.faults.freeze(now);
        drop(locked);
        self.store.wake();
    }

    /// Ends [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.change(|inner| inner.faults.thaw());
    }

    /// Ends every open watch with `Unavailable`. New ones can be opened at once.
    pub fn cut_watches(&self) {
        self.change(|inner| inner.faults.cut_watches(|_| true));
    }
}

/// The connection of one process.
impl Faults {
    /// Disconnects one process, as a network partition does: calls of the
    /// [`MemoryRegistry`](crate::MemoryRegistry) that returned this `Faults`, and of its clones, fail with
    /// `Unavailable`, and their watches end. Their leases expire meanwhile. Handles from
    /// [`connect`](crate::MemoryRegistry::connect) are not affected.
    ///
    /// ```
    /// use hither_core::Resolver;
    /// use hither_memory::MemoryRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_core::Result<()> {
    /// let here = MemoryRegistry::new();
    /// let there = here.connect();
    /// here.faults().disconnect();
    /// assert!(here.resolve(&"greeter".parse()?).await.is_err());
    /// assert!(there.resolve(&"greeter".parse()?).await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn disconnect(&self) {
        self.change(|inner| inner.faults.disconnect(self.registrar));
    }

    /// Ends [`disconnect`](Self::disconnect).
    pub fn reconnect(&self) {
        self.change(|inner| inner.faults.reconnect(self.registrar));
    }
}

/// The content of the registry. The owners of the records are not notified. All of this also works while the
/// registry is stopped, frozen or disconnected.
impl Faults {
    /// Expires the lease of an instance now, which removes its record. Returns whether there was one.
    pub fn expire(&self, service: &ServiceName, id: &InstanceId) -> bool {
        self.change(|inner| inner.state.expire_lease(service, id))
    }

    /// Expires all leases now.
    pub fn expire_all(&self) {
        self.change(|inner| inner.state.expire_all());
    }

    /// Deletes the record of an instance and keeps its lease. Returns whether there was one. The owner's next
    /// renewal restores it.
    pub fn delete_record(&self, service: &ServiceName, id: &InstanceId) -> bool {
        self.change(|inner| inner.state.delete_record(service, id))
    }

    /// Removes all records and leases, as a registry that starts with an empty disk.
    pub fn wipe(&self) {
        self.change(|inner| inner.state.wipe());
    }

    /// Registers the instance for another owner, in place of any record of its id, for a year: renewing the lease
    /// that had the id returns `Superseded`.
    pub fn take_over(&self, service: &ServiceName, instance: Instance) {
        let registration = Registration::new(service.clone(), instance)
            .and_then(|registration| registration.with_ttl(Registration::MAX_TTL));
        let registered = registration.and_then(|registration| {
            let mut locked = self.store.lock();
            let (owner, now) = (locked.state.new_registrar(), locked.now);
            locked.state.register(owner, &registration, Claim::TakeOver, now)
        });
        if let Err(error) = registered {
            tracing::error!(cause = error.report(), "take-over refused");
        }
    }

    /// Replaces the content of the record with the instance's id and keeps its lease. Returns whether there was
    /// one. The owner's next renewal restores the old content.
    pub fn change_record(&self, service: &ServiceName, instance: Instance) -> bool {
        self.change(|inner| inner.state.change_record(service, instance))
    }

    /// Puts a record without a lease, in place of any record of its id, as an operator or another program does.
    /// It never expires. A registrar of an instance with the same address reclaims it.
    pub fn put_without_lease(&self, service: &ServiceName, instance: Instance) {
        self.change(|inner| inner.state.put_without_lease(service, instance));
    }

    /// Puts a record that cannot be decoded and has no lease, in place of any record of its id. Readers skip it;
    /// for a registrar of that id it has another owner.
    pub fn put_garbage(&self, service: &ServiceName, id: &InstanceId) {
        self.change(|inner| inner.state.put_garbage(service, id));
    }
}

/// Counters.
impl Faults {
    /// Returns the number of calls, including those that failed.
    pub fn calls(&self) -> u64 {
        self.store.lock().faults.calls(None)
    }

    /// Returns the number of calls of this operation, including those that failed.
    pub fn calls_of(&self, operation: Operation) -> u64 {
        self.store.lock().faults.calls(Some(operation))
    }

    /// Returns the number of live leases.
    pub fn live_leases(&self) -> usize {
        self.store.lock().state.live_leases()
    }

    /// Returns the number of open watches: neither dropped nor cut.
    pub fn open_watches(&self) -> usize {
        self.store.lock().faults.open_watches()
    }

    /// Returns the number of records that were skipped because they could not be decoded, each counted once.
    pub fn skipped_records(&self) -> u64 {
        self.store.lock().state.skipped()
    }
}

impl Faults {
    pub(crate) fn new(store: Arc<Store>, registrar: RegistrarId) -> Self {
        Self { store, registrar }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.store.lock());
        self.store.wake();
        result
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("registrar", &self.registrar.0).finish_non_exhaustive()
    }
}
