//! The task behind a registration: a reconciler of what its owner wants and what the registry has.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::config::KeepAliveConfig;
use super::state::{RegistrationStatus, Told, Wish};
use crate::{Backoff, Claim, Error, ErrorKind, Instance, Lease, Registrar, Registration, Result};

/// The task: the only one that touches the lease.
pub(super) struct Keeper {
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
    pub(super) fn new(
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

    pub(super) async fn run(mut self) {
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
