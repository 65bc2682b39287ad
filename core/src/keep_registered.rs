//! Keeping one registration in the registry, whatever happens to it.

use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::Instrument;

use crate::{Backoff, Claim, Error, ErrorKind, Instance, Lease, Registrar, Registration, Result};

/// How a registration is kept.
#[derive(Debug, Clone)]
pub struct KeepAliveConfig {
    attempt_timeout: Duration,
    deregister_timeout: Duration,
    seed: Option<u64>,
}

impl KeepAliveConfig {
    /// Sets how long one call to the registry may take. Default 5 s; a backend's own deadline is usually shorter.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sets how long [`RegistrationHandle::deregister`] waits for the registry's word. Default 5 s.
    #[must_use]
    pub fn with_deregister_timeout(mut self, timeout: Duration) -> Self {
        self.deregister_timeout = timeout;
        self
    }

    /// Draws all chance from this seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl Default for KeepAliveConfig {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(5),
            deregister_timeout: Duration::from_secs(5),
            seed: None,
        }
    }
}

/// How it stands with a registration.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RegistrationStatus {
    /// The first attempts are under way.
    Registering,
    /// The registry has the record, on a lease that is being renewed.
    Registered,
    /// The registry cannot be reached or has lost the record; it is being tried again, for ever.
    Retrying {
        /// Since when.
        since: Instant,
        /// The newest reason.
        cause: Error,
    },
    /// Somebody else registered under the same id later. Final: two owners never fight.
    Superseded,
    /// The registry will never take this registration. Final.
    Failed(Error),
    /// The record is being removed.
    Deregistering,
    /// The record is removed, or nothing renews it any more. Final.
    Deregistered,
}

impl RegistrationStatus {
    /// Whether nothing will change any more.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Superseded | Self::Failed(_) | Self::Deregistered)
    }
}

/// Registers, and keeps registered until the handle says otherwise.
///
/// A task of its own renews at a third of the granted TTL (±10 %; the first time between 40 and 130 % of it, so that
/// those who register together do not renew together), puts back what the registry lost, and registers anew when the
/// lease is gone: for ever, with jittered backoff from 0.2 s up to 10 s or a third of the TTL, whichever is less. Its
/// first success takes over whatever stands under the id, for a restarted process meets its own old record; ever after
/// it only takes a vacant id, so an owner that returns from a partition does not push out its successor
/// ([`RegistrationStatus::Superseded`]). It waits two TTLs for that, because who stands there may be dead: a registry
/// that was restored from a copy has the records of the time before.
///
/// Only `InvalidArgument`, `Unsupported` and `Closed` end it as [`RegistrationStatus::Failed`].
/// `Unauthenticated` and `PermissionDenied` are tried again at the longest backoff: a mistake of five minutes in
/// the roles must not remove healthy servers for good.
///
/// Called outside a Tokio runtime, the registration is `Failed` from the start.
///
/// ```
/// use hither_core::{Instance, KeepAliveConfig, Registration, keep_registered};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// # let registry = hither_memory::MemoryRegistry::new();
/// let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?));
/// let handle = keep_registered(registry, registration, KeepAliveConfig::default());
/// handle.registered().await?;
/// // ... serve ...
/// handle.deregister().await?;
/// # Ok(())
/// # }
/// ```
pub fn keep_registered(
    registrar: impl Registrar,
    registration: Registration,
    config: KeepAliveConfig,
) -> RegistrationHandle {
    let (wish, wishes) =
        watch::channel(Wish { instance: registration.instance().clone(), version: 0, leave: false });
    let (told, tells) = watch::channel(Told::default());
    let deregister_timeout = config.deregister_timeout;
    match Handle::try_current() {
        Ok(runtime) => {
            let span = tracing::info_span!(
                "registration",
                service = %registration.service(),
                id = %registration.instance().id()
            );
            let keeper = Keeper::new(registrar, registration, config, wishes, told);
            runtime.spawn(keeper.run().instrument(span));
        }
        Err(_) => {
            let why = "a registration can only be kept inside a Tokio runtime";
            let error = Error::new(ErrorKind::Unexpected, why).with_operation("register");
            told.send_modify(|told| told.status = RegistrationStatus::Failed(error));
        }
    }
    RegistrationHandle { wish, tells, deregister_timeout }
}

/// The owner of a registration that [`keep_registered`] keeps.
///
/// Dropping it deregisters in the background, best effort: for one TTL at most, while the runtime lives. Prefer
/// [`deregister`](Self::deregister), which tells how it went.
#[derive(Debug)]
pub struct RegistrationHandle {
    wish: watch::Sender<Wish>,
    tells: watch::Receiver<Told>,
    deregister_timeout: Duration,
}

impl RegistrationHandle {
    /// How it stands now.
    pub fn status(&self) -> RegistrationStatus {
        self.tells.borrow().status.clone()
    }

    /// How it stands, beginning with now; what came between two looks is skipped. Ends after a final status.
    pub fn statuses(&self) -> impl Stream<Item = RegistrationStatus> + Send + 'static + use<> {
        let mut tells = self.tells.clone();
        tells.mark_changed();
        stream::unfold(tells, |mut tells| async move {
            tells.changed().await.ok()?;
            let status = tells.borrow_and_update().status.clone();
            Some((status, tells))
        })
    }

    /// Waits until the registry has the record; while it is not reached, that is as long as it takes.
    ///
    /// # Errors
    /// `Superseded`, `Closed` (deregistered), or why it failed: it never will be.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn registered(&self) -> Result<()> {
        self.settled(|told| match told.status {
            RegistrationStatus::Registered => Some(Ok(())),
            _ => None,
        })
        .await
    }

    /// Says something else under the same id, and waits until the registry has it.
    ///
    /// The wish stands from the first poll on and outlives this future: it is sent again after any failure, and
    /// with any new lease. A later update replaces it, and answers for it.
    ///
    /// # Errors
    /// `InvalidArgument` when the instance has another id, or the registry will not take what it says: then the
    /// content before stays. Else as [`registered`](Self::registered).
    ///
    /// # Cancellation
    /// Takes nothing back.
    pub async fn update(&self, instance: Instance) -> Result<()> {
        let mut version = 0;
        let mut result = Ok(());
        self.wish.send_if_modified(|wish| {
            if wish.instance.id() != instance.id() {
                let why = format!("an update of {} cannot make it {}", wish.instance.id(), instance.id());
                result = Err(Error::new(ErrorKind::InvalidArgument, why).with_operation("update"));
                return false;
            }
            wish.version += 1;
            version = wish.version;
            wish.instance = instance;
            true
        });
        result?;
        self.settled(|told| match &told.refused {
            Some((refused, error)) if *refused == version => Some(Err(error.clone())),
            _ => (told.version >= Some(version)).then_some(Ok(())),
        })
        .await
    }

    /// Removes the record, and waits for the registry's word on it.
    ///
    /// The wish is final from the first poll on: no reconnect brings the record back. Calling it again waits
    /// again.
    ///
    /// # Errors
    /// `Timeout` or `Unavailable`: not confirmed. The record lapses within a TTL of the registry's recovery, and
    /// the task tries on meanwhile, as long as this handle lives and one TTL longer.
    ///
    /// # Cancellation
    /// Takes nothing back.
    pub async fn deregister(&self) -> Result<()> {
        self.wish.send_modify(|wish| wish.leave = true);
        let mut tells = self.tells.clone();
        let left = tells.wait_for(|told| told.status.is_final());
        let unconfirmed = match timeout(self.deregister_timeout, left).await {
            Ok(Ok(told)) => told.trouble.clone(),
            Ok(Err(_)) => Some(runtime_gone()),
            Err(_) => {
                let why = format!("the registry did not confirm within {:?}", self.deregister_timeout);
                Some(
                    self.tells
                        .borrow()
                        .trouble
                        .clone()
                        .unwrap_or_else(|| Error::new(ErrorKind::Timeout, why)),
                )
            }
        };
        unconfirmed.map_or(Ok(()), |error| Err(error.with_operation("deregister")))
    }

    async fn settled(&self, mut look: impl FnMut(&Told) -> Option<Result<()>>) -> Result<()> {
        let mut tells = self.tells.clone();
        let mut settled = None;
        let waited = tells
            .wait_for(|told| {
                settled = look(told).or_else(|| match &told.status {
                    RegistrationStatus::Superseded => Some(Err(superseded())),
                    RegistrationStatus::Failed(error) => Some(Err(error.clone())),
                    RegistrationStatus::Deregistering | RegistrationStatus::Deregistered => Some(Err(
                        Error::new(ErrorKind::Closed, "it was deregistered").with_operation("register"),
                    )),
                    _ => None,
                });
                settled.is_some()
            })
            .await
            .map(|_| ());
        settled.unwrap_or_else(|| waited.map_err(|_| runtime_gone()))
    }
}

/// What the owner wants.
#[derive(Debug, Clone)]
struct Wish {
    instance: Instance,
    version: u64,
    leave: bool,
}

/// What the task has to tell.
#[derive(Debug)]
struct Told {
    status: RegistrationStatus,
    /// The newest wish that the registry has.
    version: Option<u64>,
    /// The newest wish that the registry will not take.
    refused: Option<(u64, Error)>,
    /// Why it is not known that the record is removed.
    trouble: Option<Error>,
}

impl Default for Told {
    fn default() -> Self {
        Self { status: RegistrationStatus::Registering, version: None, refused: None, trouble: None }
    }
}

/// The task: the only one that touches the lease.
struct Keeper {
    registrar: Arc<dyn Registrar>,
    /// With the content that the registry took last, or that nothing speaks against yet.
    registration: Registration,
    config: KeepAliveConfig,
    wishes: watch::Receiver<Wish>,
    told: watch::Sender<Told>,
    random: fastrand::Rng,
    backoff: Backoff,
    claim: Claim,
    lease: Option<Held>,
    /// As it was granted last, or is asked for.
    ttl: Duration,
    /// Since when somebody else stands under our id, as far as the registry has said so without a break.
    contested: Option<Instant>,
}

struct Held {
    lease: Box<dyn Lease>,
    ttl: Duration,
    renew_at: Instant,
    /// The wish that the registry has.
    version: u64,
}

enum Step {
    Register,
    Renew,
    Update,
    Rest(Instant),
}

impl Keeper {
    fn new(
        registrar: impl Registrar,
        registration: Registration,
        config: KeepAliveConfig,
        wishes: watch::Receiver<Wish>,
        told: watch::Sender<Told>,
    ) -> Self {
        let mut random = config.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let backoff = backoff(registration.ttl(), &mut random);
        let (registrar, claim) = (Arc::new(registrar), Claim::TakeOver);
        let (lease, ttl, contested) = (None, registration.ttl(), None);
        Self { registrar, registration, config, wishes, told, random, backoff, claim, lease, ttl, contested }
    }

    async fn run(mut self) {
        while self.wishes.has_changed().is_ok() {
            let wish = self.wishes.borrow_and_update().clone();
            if wish.leave {
                break;
            }
            let step = self.next_step(&wish);
            let done = match step {
                Step::Rest(until) => {
                    self.rest(until, true).await;
                    continue;
                }
                Step::Register => self.register(&wish).await,
                Step::Renew => self.renew().await,
                Step::Update => self.update(&wish).await,
            };
            match done {
                Ok(()) => {
                    self.backoff.reset();
                    let version = self.lease.as_ref().map(|held| held.version);
                    if self.is_retrying() && !matches!(step, Step::Register) {
                        tracing::info!("registered as before");
                    }
                    self.told.send_modify(|told| {
                        told.status = RegistrationStatus::Registered;
                        told.version = version;
                    });
                }
                Err(error) => {
                    let Some(delay) = self.judge(error, &wish, &step) else { return };
                    self.rest(Instant::now() + delay, false).await;
                }
            }
        }
        self.leave().await;
    }

    fn next_step(&self, wish: &Wish) -> Step {
        match &self.lease {
            None => Step::Register,
            // Before any update, so that a flood of them cannot starve the lease.
            Some(held) if held.renew_at <= Instant::now() => Step::Renew,
            Some(held) if held.version != wish.version => Step::Update,
            Some(held) => Step::Rest(held.renew_at),
        }
    }

    async fn register(&mut self, wish: &Wish) -> Result<()> {
        let registration = self.registration.clone().with_instance(self.content(wish));
        let register = self.registrar.register(&registration, self.claim);
        let lease = within(self.config.attempt_timeout, "register", register).await?;
        // A backend that grants nothing would have us renew without a pause.
        let ttl = lease.ttl().max(Duration::from_millis(100));
        self.registration = registration;
        (self.claim, self.ttl) = (Claim::IfVacant, ttl);
        self.backoff = backoff(ttl, &mut self.random);
        // Those who register together are spread over nearly a whole pause at once. The latest of them still has time
        // for an attempt that times out, and another one.
        let renew_at = Instant::now() + (ttl / 3).mul_f64(0.4 + 0.9 * self.random.f64());
        self.lease = Some(Held { lease, ttl, renew_at, version: wish.version });
        tracing::info!(?ttl, "registered");
        Ok(())
    }

    async fn renew(&mut self) -> Result<()> {
        let Some(held) = &mut self.lease else { return Ok(()) };
        let deadline = self.config.attempt_timeout.min(held.ttl / 3);
        within(deadline, "renew", held.lease.renew()).await?;
        let ttl = held.ttl;
        let renew_at = Instant::now() + self.pause(ttl);
        if let Some(held) = &mut self.lease {
            held.renew_at = renew_at;
        }
        Ok(())
    }

    async fn update(&mut self, wish: &Wish) -> Result<()> {
        // Where the wish was refused this is what stood there before: a lease may have taken the new content for
        // its own all the same.
        let content = self.content(wish);
        let Some(held) = &mut self.lease else { return Ok(()) };
        let deadline = self.config.attempt_timeout.min(held.ttl / 3);
        within(deadline, "update", held.lease.update(&content)).await?;
        held.version = wish.version;
        self.registration = self.registration.clone().with_instance(content);
        Ok(())
    }

    /// What an error means: when to go on, or `None` at the end.
    fn judge(&mut self, error: Error, wish: &Wish, step: &Step) -> Option<Duration> {
        if error.kind() != ErrorKind::Superseded {
            // A registry that was away may give every lease its whole TTL again.
            self.contested = None;
        }
        match error.kind() {
            ErrorKind::Superseded if self.may_lapse(step) => {}
            ErrorKind::Superseded => {
                tracing::warn!(cause = error.report(), "another owner has this registration");
                self.lease = None;
                self.tell(RegistrationStatus::Superseded);
                return None;
            }
            ErrorKind::InvalidArgument | ErrorKind::Unsupported if self.refuse(&error, wish, step) => {
                return Some(Duration::ZERO);
            }
            ErrorKind::InvalidArgument | ErrorKind::Unsupported | ErrorKind::Closed => {
                tracing::error!(cause = error.report(), "the registry will not take this registration");
                self.lease = None;
                self.tell(RegistrationStatus::Failed(error));
                return None;
            }
            ErrorKind::LeaseExpired => self.lease = None,
            _ => {}
        }
        let delay = match error.kind() {
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied if !error.is_retryable() => {
                self.backoff.longest_delay()
            }
            _ => self.backoff.next_delay(),
        };
        // Once for each trouble, however long it lasts.
        if self.is_retrying() {
            tracing::debug!(cause = error.report(), ?delay, "still not registered as wished");
        } else {
            tracing::warn!(cause = error.report(), "not registered as wished, and trying on");
        }
        self.told.send_modify(|told| {
            let since = match &told.status {
                RegistrationStatus::Retrying { since, .. } => *since,
                _ => Instant::now(),
            };
            told.status = RegistrationStatus::Retrying { since, cause: error };
        });
        Some(delay)
    }

    /// Whether the record of another owner may be that of a dead one, which nobody renews: its lease ends within a TTL,
    /// give or take the time that the registry takes for that.
    fn may_lapse(&mut self, step: &Step) -> bool {
        let since = *self.contested.get_or_insert_with(Instant::now);
        matches!(step, Step::Register) && since.elapsed() < 2 * self.ttl
    }

    /// Falls back to the content before, where it was an update that the registry will not take.
    fn refuse(&mut self, error: &Error, wish: &Wish, step: &Step) -> bool {
        let is_new_content = wish.instance != *self.registration.instance();
        if matches!(step, Step::Renew) || !is_new_content || self.is_refused(wish) {
            return false;
        }
        tracing::error!(cause = error.report(), "the registry will not take the update; what it had stays");
        self.told.send_modify(|told| told.refused = Some((wish.version, error.clone())));
        true
    }

    fn is_refused(&self, wish: &Wish) -> bool {
        self.told.borrow().refused.as_ref().is_some_and(|(version, _)| *version == wish.version)
    }

    /// What the wish says, unless the registry has said no to it.
    fn content(&self, wish: &Wish) -> Instance {
        if self.is_refused(wish) { self.registration.instance().clone() } else { wish.instance.clone() }
    }

    /// Removes the record, and tries on while there is an owner, and one TTL longer.
    async fn leave(mut self) {
        // Whether a registration that failed stands in the registry all the same, nobody knows.
        let mut trouble = match (&self.lease, &self.told.borrow().status) {
            (None, RegistrationStatus::Retrying { cause, .. })
                if cause.is_retryable() && cause.kind() != ErrorKind::LeaseExpired =>
            {
                Some(cause.clone())
            }
            _ => None,
        };
        self.tell(RegistrationStatus::Deregistering);
        self.backoff.reset();
        let mut give_up = None;
        while let Some(held) = &mut self.lease {
            let revoke = within(self.config.attempt_timeout, "deregister", held.lease.revoke());
            let error = match revoke.await {
                Err(error) if !matches!(error.kind(), ErrorKind::LeaseExpired | ErrorKind::Superseded) => {
                    error
                }
                _ => {
                    trouble = None;
                    break;
                }
            };
            tracing::debug!(cause = error.report(), "not deregistered yet");
            let is_lost_cause = !error.is_retryable();
            trouble = Some(error);
            self.told.send_modify(|told| told.trouble.clone_from(&trouble));
            if self.wishes.has_changed().is_err() {
                give_up.get_or_insert(Instant::now() + held.ttl);
            }
            if is_lost_cause || give_up.is_some_and(|at| at <= Instant::now()) {
                break;
            }
            sleep(self.backoff.next_delay()).await;
        }
        self.told.send_modify(|told| {
            told.trouble = trouble;
            told.status = RegistrationStatus::Deregistered;
        });
    }

    /// Waits, but not past the owner's leaving; for any wish, if `any`.
    async fn rest(&mut self, until: Instant, any: bool) {
        let wished = async {
            loop {
                // An error: the handle was dropped.
                if self.wishes.changed().await.is_err() || any || self.wishes.borrow().leave {
                    return;
                }
            }
        };
        tokio::select! {
            () = wished => {}
            () = sleep_until(until) => {}
        }
    }

    /// A third of the TTL, give or take a tenth, so that the renewals of many spread out.
    fn pause(&mut self, ttl: Duration) -> Duration {
        (ttl / 3).mul_f64(0.9 + 0.2 * self.random.f64())
    }

    fn is_retrying(&self) -> bool {
        matches!(self.told.borrow().status, RegistrationStatus::Retrying { .. })
    }

    fn tell(&self, status: RegistrationStatus) {
        self.told.send_modify(|told| told.status = status);
    }
}

/// From 0.2 s, doubling, up to the smaller of 10 s and a third of the TTL.
fn backoff(ttl: Duration, random: &mut fastrand::Rng) -> Backoff {
    let longest = (ttl / 3).min(Duration::from_secs(10));
    Backoff::full_jitter(Duration::from_millis(200), 2.0, longest).with_seed(random.u64(..))
}

async fn within<T>(
    deadline: Duration,
    operation: &'static str,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout(deadline, call).await.unwrap_or_else(|_| {
        let why = format!("the registry did not answer within {deadline:?}");
        Err(Error::new(ErrorKind::Timeout, why).with_operation(operation))
    })
}

fn superseded() -> Error {
    Error::new(ErrorKind::Superseded, "another owner registered under the same id").with_operation("register")
}

fn runtime_gone() -> Error {
    Error::new(ErrorKind::Closed, "the runtime that kept the registration is gone")
}
