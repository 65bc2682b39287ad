//! A bad day, on demand.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{Claim, ErrorKind, Instance, InstanceId, Registration, ServiceName};

use crate::Operation;
use crate::fault_plan::Fault;
use crate::state::RegistrarId;
use crate::store::{Inner, Shared};

/// What goes wrong with a [`MemoryRegistry`](crate::MemoryRegistry): for tests.
///
/// Everything takes effect at once, and nothing here waits. A clone is the same.
///
/// - **Calls**: [`fail_next`](Self::fail_next), [`fail_next_of`](Self::fail_next_of),
///   [`lose_next_answer_of`](Self::lose_next_answer_of), [`delay`](Self::delay).
/// - **The registry as a whole**: [`stop`](Self::stop) and [`start`](Self::start), [`freeze`](Self::freeze) and
///   [`thaw`](Self::thaw), [`cut_watches`](Self::cut_watches).
/// - **The way to it from one process**: [`disconnect`](Self::disconnect) and [`reconnect`](Self::reconnect).
/// - **What stands in it**: [`expire`](Self::expire), [`expire_all`](Self::expire_all), [`lose`](Self::lose),
///   [`wipe`](Self::wipe), [`overwrite`](Self::overwrite), [`rewrite`](Self::rewrite),
///   [`put_without_lease`](Self::put_without_lease), [`put_garbage`](Self::put_garbage).
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
    shared: Arc<Shared>,
    registrar: RegistrarId,
}

/// Calls.
impl Faults {
    /// The next `calls` calls, whatever they are, fail with an error of this kind; nothing else happens: a
    /// pretended `LeaseExpired` leaves the lease alive.
    pub fn fail_next(&self, calls: u64, kind: ErrorKind) {
        self.change(|inner| inner.trouble.plan(None, Fault::Fails(kind), calls));
    }

    /// The next `calls` calls of this operation fail with an error of this kind.
    ///
    /// ```
    /// use hither_core::{Claim, ErrorKind, Instance, Registrar, Registration};
    /// use hither_memory::{MemoryRegistry, Operation};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_core::Result<()> {
    /// let registry = MemoryRegistry::new();
    /// registry.faults().fail_next_of(Operation::Renew, 1, ErrorKind::Unavailable);
    /// let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?));
    /// let mut lease = registry.register(&registration, Claim::TakeOver).await?;
    /// assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::Unavailable);
    /// assert!(lease.renew().await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_next_of(&self, operation: Operation, calls: u64, kind: ErrorKind) {
        self.change(|inner| inner.trouble.plan(Some(operation), Fault::Fails(kind), calls));
    }

    /// The next call of this operation does what it should, but its answer is lost: the caller sees a
    /// `Timeout`, at once.
    pub fn lose_next_answer_of(&self, operation: Operation) {
        self.change(|inner| inner.trouble.plan(Some(operation), Fault::AnswerLost, 1));
    }

    /// Every call takes this long from now on; from
    /// [`MemoryRegistry::DEADLINE`](crate::MemoryRegistry::DEADLINE) on it ends with `Timeout` instead.
    /// Watches that are open are not slowed. Zero ends it.
    pub fn delay(&self, delay: Duration) {
        self.change(|inner| inner.trouble.set_delay(delay));
    }
}

/// The registry as a whole.
impl Faults {
    /// The registry is down until [`start`](Self::start): every call fails with `Unavailable`, every watch
    /// ends. As with etcd no lease lapses meanwhile.
    pub fn stop(&self) {
        self.change(|inner| {
            inner.trouble.stop();
            inner.state.stop();
        });
    }

    /// The registry is back, with everything that stood in it; as after etcd's restart each lease has its whole
    /// TTL again.
    pub fn start(&self) {
        let mut entered = self.shared.enter();
        let now = entered.now;
        entered.trouble.start();
        entered.state.start(now);
        drop(entered);
        self.shared.wake();
    }

    /// The registry stays silent until [`thaw`](Self::thaw): calls and watches hang, those that are under way
    /// included, each for at most [`MemoryRegistry::DEADLINE`](crate::MemoryRegistry::DEADLINE), and then end
    /// with `Timeout`. Time goes on, and with it the TTLs.
    pub fn freeze(&self) {
        let mut entered = self.shared.enter();
        let now = entered.now;
        entered.trouble.freeze(now);
        drop(entered);
        self.shared.wake();
    }

    /// The registry answers again.
    pub fn thaw(&self) {
        self.change(|inner| inner.trouble.thaw());
    }

    /// Every watch that is open ends with `Unavailable`; new ones can be opened at once.
    pub fn cut_watches(&self) {
        self.change(|inner| inner.trouble.cut_watches(|_| true));
    }
}

/// The way to the registry.
impl Faults {
    /// Cuts the process that took these faults off, as a partition of the network does: for the
    /// [`MemoryRegistry`](crate::MemoryRegistry) they come from, and its clones, every call fails with
    /// `Unavailable`, and their watches end. Its leases lapse meanwhile, and who came by
    /// [`connect`](crate::MemoryRegistry::connect) notices nothing.
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
        self.change(|inner| inner.trouble.disconnect(self.registrar));
    }

    /// Ends [`disconnect`](Self::disconnect).
    pub fn reconnect(&self) {
        self.change(|inner| inner.trouble.reconnect(self.registrar));
    }
}

/// What stands in the registry. All of this works behind the owners' backs, also while the registry is stopped,
/// frozen or disconnected.
impl Faults {
    /// Lets the lease of an instance lapse now, and its record with it; whether there was one.
    pub fn expire(&self, service: &ServiceName, id: &InstanceId) -> bool {
        self.change(|inner| inner.state.expire_lease(service, id))
    }

    /// Lets all leases lapse now.
    pub fn expire_all(&self) {
        self.change(|inner| inner.state.expire_all());
    }

    /// Removes the record of an instance, while its lease lives on; whether there was one. Its owner's next
    /// renewal puts it back.
    pub fn lose(&self, service: &ServiceName, id: &InstanceId) -> bool {
        self.change(|inner| inner.state.lose(service, id))
    }

    /// Loses everything, records and leases, as a registry that comes up on an empty disk.
    pub fn wipe(&self) {
        self.change(|inner| inner.state.wipe());
    }

    /// Another owner takes the instance's id over, and keeps it: renewing the lease that stood there gives
    /// `Superseded`.
    pub fn overwrite(&self, service: &ServiceName, instance: Instance) {
        let registration = Registration::new(service.clone(), instance).with_ttl(Duration::MAX);
        let mut entered = self.shared.enter();
        let (owner, now) = (entered.state.new_registrar(), entered.now);
        // What is refused is an instance that no registrar could have put there either.
        if let Err(error) = entered.state.register(owner, &registration, Claim::TakeOver, now) {
            drop(entered);
            tracing::error!(error = error.report(), "nothing was overwritten");
        }
    }

    /// Changes what the record of this id says, under the lease that it stands on; whether there was one. Its
    /// owner's next renewal restores it.
    pub fn rewrite(&self, service: &ServiceName, instance: Instance) -> bool {
        self.change(|inner| inner.state.rewrite(service, instance))
    }

    /// Puts a record that stands on no lease, in place of whatever stood there, as an operator or another
    /// program does: it never lapses. An owner with the same address reclaims it.
    pub fn put_without_lease(&self, service: &ServiceName, instance: Instance) {
        self.change(|inner| inner.state.put_without_lease(service, instance));
    }

    /// Puts a record that cannot be decoded and stands on no lease, in place of whatever stood there. Readers
    /// skip it; to an owner of that id it is somebody else's.
    pub fn put_garbage(&self, service: &ServiceName, id: &InstanceId) {
        self.change(|inner| inner.state.put_garbage(service, id));
    }
}

/// Counters.
impl Faults {
    /// How many calls there have been, those that failed included.
    pub fn calls(&self) -> u64 {
        self.shared.enter().trouble.calls(None)
    }

    /// How many calls of this operation there have been, those that failed included.
    pub fn calls_of(&self, operation: Operation) -> u64 {
        self.shared.enter().trouble.calls(Some(operation))
    }

    /// How many leases live.
    pub fn live_leases(&self) -> usize {
        self.shared.enter().state.live_leases()
    }

    /// How many watches are open: neither dropped nor cut.
    pub fn open_watches(&self) -> usize {
        self.shared.enter().trouble.open_watches()
    }

    /// How many records were skipped because they could not be decoded, each counted once.
    pub fn skipped_records(&self) -> u64 {
        self.shared.enter().state.skipped()
    }
}

impl Faults {
    pub(crate) fn new(shared: Arc<Shared>, registrar: RegistrarId) -> Self {
        Self { shared, registrar }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let outcome = change(&mut self.shared.enter());
        self.shared.wake();
        outcome
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("registrar", &self.registrar.0).finish_non_exhaustive()
    }
}
