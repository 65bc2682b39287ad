//! The task behind a registration: it reconciles the desired state with the registry.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::config::RegistrationConfig;
use super::state::{Desired, Observed, Presence, RegistrationStatus};
use crate::contain::{Contained, drop_contained};
use crate::metrics::{Operation, RegistrationMetrics};
use crate::time::after;
use crate::{Backoff, Claim, Error, ErrorKind, Lease, Registrar, Registration, Result};

/// The shortest TTL that is believed: a backend that grants none would be called without a pause.
const SHORTEST_TTL: Duration = Duration::from_millis(100);

/// A granted TTL is believed up to twice the one asked for, and up to this in any case: etcd grants at least one and a
/// half election timeouts, which may be 50 s.
const BELIEVED_TTL: Duration = Duration::from_secs(120);

/// The task: the only one that uses the lease.
pub(super) struct Reconciler {
    registrar: Arc<dyn Registrar>,
    /// With the content that the registry accepted last, or that it has not refused yet.
    registration: Registration,
    config: RegistrationConfig,
    desired: watch::Receiver<Desired>,
    observed: watch::Sender<Observed>,
    random: fastrand::Rng,
    backoff: Backoff,
    claim: Claim,
    lease: Option<ActiveLease>,
    /// As granted last, or as asked for.
    ttl: Duration,
    /// Since when another record has held our id, as far as every answer since then has confirmed it.
    contested: Option<Instant>,
    metrics: RegistrationMetrics,
}

struct ActiveLease {
    lease: Box<dyn Lease>,
    ttl: Duration,
    renew_at: Instant,
    /// The version of the desired state that the registry has.
    version: u64,
    /// It may be revoked already: it is no longer renewed or updated.
    is_revoking: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Register,
    Renew,
    Update,
    Withdraw,
    /// Nothing is to be registered.
    Wait,
    Sleep(Instant),
}

impl Step {
    fn operation(self) -> Operation {
        match self {
            Self::Renew => Operation::Renew,
            Self::Update => Operation::Update,
            Self::Withdraw => Operation::Deregister,
            Self::Register | Self::Wait | Self::Sleep(_) => Operation::Register,
        }
    }

    /// Its name in the log.
    fn name(self) -> &'static str {
        match self {
            Self::Renew => "renewal",
            Self::Update => "update",
            Self::Withdraw => "withdrawal",
            Self::Register | Self::Wait | Self::Sleep(_) => "registration",
        }
    }
}

impl Reconciler {
    pub(super) fn new(
        registrar: impl Registrar,
        registration: Registration,
        config: RegistrationConfig,
        desired: watch::Receiver<Desired>,
        observed: watch::Sender<Observed>,
    ) -> Self {
        let mut random = config.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let ttl = registration.ttl();
        Self {
            backoff: backoff(ttl, &mut random),
            registrar: Arc::new(registrar),
            metrics: RegistrationMetrics::new(registration.service()),
            registration,
            config,
            desired,
            observed,
            random,
            claim: Claim::TakeOver,
            lease: None,
            ttl,
            contested: None,
        }
    }

    pub(super) async fn run(mut self) {
        while self.desired.has_changed().is_ok() {
            let desired = self.desired.borrow_and_update().clone();
            if desired.presence == Presence::Leaving {
                break;
            }
            let step = self.next_step(&desired);
            let done = match step {
                Step::Sleep(until) => {
                    self.sleep(until, Wake::OnAnyChange).await;
                    continue;
                }
                Step::Wait => {
                    self.on_withdrawn();
                    // An error: the handle was dropped, which ends the loop.
                    let _ = self.desired.changed().await;
                    continue;
                }
                Step::Register => self.register(&desired).await,
                Step::Withdraw => self.withdraw().await,
                Step::Renew => self.renew().await,
                Step::Update => self.update(&desired).await,
            };
            self.metrics.attempted(step.operation(), done.as_ref().err().map(Error::kind));
            match done {
                Ok(()) => self.on_success(step),
                Err(error) => {
                    let Some(delay) = self.on_error(error, &desired, step) else { return };
                    self.sleep(after(Instant::now(), delay), Wake::OnLeaving).await;
                }
            }
        }
        self.deregister().await;
    }

    fn next_step(&self, desired: &Desired) -> Step {
        let is_withdrawn = desired.presence == Presence::Withdrawn;
        match &self.lease {
            None if is_withdrawn => Step::Wait,
            None => Step::Register,
            // A revocation that has begun is finished, whatever is wanted now: the record may be gone.
            Some(active) if is_withdrawn || active.is_revoking => Step::Withdraw,
            // Before any update, so that frequent updates cannot starve the lease.
            Some(active) if active.renew_at <= Instant::now() => Step::Renew,
            Some(active) if active.version != desired.version => Step::Update,
            Some(active) => Step::Sleep(active.renew_at),
        }
    }

    async fn register(&mut self, desired: &Desired) -> Result<()> {
        let registration = self.content(desired);
        let register = async {
            let lease = self.registrar.register(&registration, self.claim).await?;
            let ttl = lease.ttl();
            Ok((lease, ttl))
        };
        let (lease, granted) = within(self.config.attempt_timeout, "register", register).await?;
        let ttl = believed(granted, registration.ttl());
        self.registration = registration;
        (self.claim, self.ttl) = (Claim::IfVacant, ttl);
        self.backoff = backoff(ttl, &mut self.random);
        // Instances that register together are spread over nearly a whole interval at once. The latest of them still has
        // time for an attempt that times out, and another one.
        let renew_at = after(Instant::now(), (ttl / 3).mul_f64(0.4 + 0.9 * self.random.f64()));
        let version = desired.version;
        self.lease = Some(ActiveLease { lease, ttl, renew_at, version, is_revoking: false });
        tracing::info!(?ttl, "registered");
        Ok(())
    }

    async fn renew(&mut self) -> Result<()> {
        let interval = self.renewal_interval();
        let Some(active) = &mut self.lease else { return Ok(()) };
        let deadline = self.config.attempt_timeout.min(active.ttl / 3);
        within(deadline, "renew", async { active.lease.renew().await }).await?;
        active.renew_at = after(Instant::now(), interval);
        tracing::debug!("renewed");
        Ok(())
    }

    async fn update(&mut self, desired: &Desired) -> Result<()> {
        // If the update was refused, this is the content before: the lease may have kept the new one for its renewals.
        let registration = self.content(desired);
        let Some(active) = &mut self.lease else { return Ok(()) };
        let deadline = self.config.attempt_timeout.min(active.ttl / 3);
        within(deadline, "update", async { active.lease.update(&registration).await }).await?;
        active.version = desired.version;
        self.registration = registration;
        Ok(())
    }

    async fn withdraw(&mut self) -> Result<()> {
        let Some(active) = &mut self.lease else { return Ok(()) };
        active.is_revoking = true;
        let revoke = async { active.lease.revoke().await };
        revoked(within(self.config.attempt_timeout, "withdraw", revoke).await)?;
        drop_contained(self.lease.take());
        Ok(())
    }

    fn on_success(&mut self, step: Step) {
        self.backoff.reset();
        self.contested = None;
        if step == Step::Withdraw {
            return self.on_withdrawn();
        }
        let version = self.lease.as_ref().map(|active| active.version);
        if self.is_retrying() && step != Step::Register {
            tracing::info!("registration restored");
        }
        self.observed.send_modify(|observed| {
            observed.set_status(RegistrationStatus::Registered);
            observed.version = version;
        });
    }

    fn on_withdrawn(&self) {
        let is_new = self.observed.send_if_modified(|observed| {
            let is_new = !matches!(observed.status(), RegistrationStatus::Withdrawn);
            observed.set_status(RegistrationStatus::Withdrawn);
            observed.version = None;
            is_new
        });
        if is_new {
            tracing::info!("registration withdrawn");
        }
    }

    /// Returns the delay before the next attempt, or `None` when there is none.
    fn on_error(&mut self, error: Error, desired: &Desired, step: Step) -> Option<Duration> {
        if error.kind() != ErrorKind::Superseded {
            // A registry that was down may restart the TTL of every lease.
            self.contested = None;
        }
        let delay = match error.kind() {
            ErrorKind::Superseded if !self.may_expire(step) => {
                let address = self.registration.instance().address();
                tracing::error!(%address, cause = error.report(), "superseded by another owner; not registered");
                return self.end_as(RegistrationStatus::Superseded);
            }
            ErrorKind::Closed => return self.fail(error),
            ErrorKind::InvalidArgument | ErrorKind::Unsupported => {
                if self.refuse_update(&error, desired, step) {
                    return Some(Duration::ZERO);
                }
                // What was accepted once is valid. A registry that refuses it now has a fault, or was replaced by another.
                if !self.was_accepted() {
                    return self.fail(error);
                }
                self.backoff.longest_delay()
            }
            // Only an operator can correct these.
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied if !error.is_retryable() => {
                self.backoff.longest_delay()
            }
            _ => self.backoff.next_delay(),
        };
        if error.kind() == ErrorKind::LeaseExpired {
            self.drop_lease();
        }
        // One line for an outage, however long it lasts.
        let (cause, what) = (error.report(), step.name());
        if self.is_retrying() {
            tracing::debug!(cause, ?delay, "{what} still failing");
        } else {
            tracing::warn!(cause, "{what} failed; retrying");
        }
        self.observed.send_modify(|observed| {
            let since = match observed.status() {
                RegistrationStatus::Retrying { since, .. } => *since,
                _ => Instant::now(),
            };
            observed.set_status(RegistrationStatus::Retrying { since, cause: error });
        });
        Some(delay)
    }

    fn fail(&mut self, error: Error) -> Option<Duration> {
        let address = self.registration.instance().address();
        tracing::error!(%address, cause = error.report(), "registration failed; not retrying");
        self.end_as(RegistrationStatus::Failed(error))
    }

    fn end_as(&mut self, status: RegistrationStatus) -> Option<Duration> {
        self.drop_lease();
        self.set_status(status);
        None
    }

    fn drop_lease(&mut self) {
        drop_contained(self.lease.take());
    }

    /// Whether the registry has accepted this registration before.
    fn was_accepted(&self) -> bool {
        self.claim == Claim::IfVacant
    }

    /// Whether the record of the other owner may be that of a dead process: then its lease expires within a TTL, and
    /// the time that the registry takes for that.
    fn may_expire(&mut self, step: Step) -> bool {
        let since = *self.contested.get_or_insert_with(Instant::now);
        step == Step::Register && since.elapsed() < 2 * self.ttl
    }

    /// Falls back to the content before, if the registry has refused an update.
    fn refuse_update(&mut self, error: &Error, desired: &Desired, step: Step) -> bool {
        let is_new_content = desired.registration.instance() != self.registration.instance();
        if matches!(step, Step::Renew | Step::Withdraw) || !is_new_content || self.is_refused(desired) {
            return false;
        }
        tracing::error!(cause = error.report(), "update refused; content unchanged");
        self.observed.send_modify(|observed| observed.refused = Some((desired.version, error.clone())));
        true
    }

    fn is_refused(&self, desired: &Desired) -> bool {
        self.observed.borrow().refused.as_ref().is_some_and(|(version, _)| *version == desired.version)
    }

    /// The desired content, unless the registry has refused it.
    fn content(&self, desired: &Desired) -> Registration {
        if self.is_refused(desired) { self.registration.clone() } else { desired.registration.clone() }
    }

    /// Removes the record: retries while the handle lives, and for one TTL longer.
    async fn deregister(mut self) {
        // An attempt to register whose answer was lost may have left a record.
        let mut unconfirmed = match (&self.lease, self.observed.borrow().status()) {
            (None, RegistrationStatus::Retrying { cause, .. })
                if cause.is_retryable() && cause.kind() != ErrorKind::LeaseExpired =>
            {
                Some(cause.clone())
            }
            _ => None,
        };
        self.set_status(RegistrationStatus::Deregistering);
        self.backoff.reset();
        let mut give_up = None;
        while let Some(active) = &mut self.lease {
            let revoke = async { active.lease.revoke().await };
            let done = revoked(within(self.config.attempt_timeout, "deregister", revoke).await);
            self.metrics.attempted(Operation::Deregister, done.as_ref().err().map(Error::kind));
            let Err(error) = done else {
                unconfirmed = None;
                break;
            };
            tracing::debug!(cause = error.report(), "deregistration failed; retrying");
            let is_retryable = error.is_retryable();
            unconfirmed = Some(error);
            self.observed.send_modify(|observed| observed.unconfirmed.clone_from(&unconfirmed));
            if self.desired.has_changed().is_err() {
                give_up.get_or_insert(after(Instant::now(), active.ttl));
            }
            if !is_retryable || give_up.is_some_and(|at| at <= Instant::now()) {
                break;
            }
            sleep(self.backoff.next_delay()).await;
        }
        self.observed.send_modify(|observed| {
            observed.unconfirmed = unconfirmed;
            observed.set_status(RegistrationStatus::Deregistered);
        });
    }

    /// Sleeps, but not past the owner's leaving.
    async fn sleep(&mut self, until: Instant, wake: Wake) {
        let woken = async {
            loop {
                // An error: the handle was dropped.
                if self.desired.changed().await.is_err()
                    || wake == Wake::OnAnyChange
                    || self.desired.borrow().presence == Presence::Leaving
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = woken => {}
            () = sleep_until(until) => {}
        }
    }

    /// A third of the TTL ±10 %, so that the renewals of many instances spread out.
    fn renewal_interval(&mut self) -> Duration {
        (self.ttl / 3).mul_f64(0.9 + 0.2 * self.random.f64())
    }

    fn is_retrying(&self) -> bool {
        matches!(self.observed.borrow().status(), RegistrationStatus::Retrying { .. })
    }

    fn set_status(&self, status: RegistrationStatus) {
        self.observed.send_modify(|observed| observed.set_status(status));
    }
}

/// What ends a sleep early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    OnAnyChange,
    OnLeaving,
}

/// The TTL to renew by. A granted TTL far above the one asked for is implausible, and renewing by it could come after the
/// record has expired.
fn believed(granted: Duration, asked: Duration) -> Duration {
    let longest = asked.saturating_mul(2).max(BELIEVED_TTL);
    if granted > longest {
        tracing::warn!(?granted, ?asked, "implausible TTL granted; using the one asked for");
        return asked.max(SHORTEST_TTL);
    }
    granted.max(SHORTEST_TTL)
}

/// A lease that has expired, or whose record is another owner's, has nothing left to remove.
fn revoked(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if matches!(error.kind(), ErrorKind::LeaseExpired | ErrorKind::Superseded) => Ok(()),
        outcome => outcome,
    }
}

/// Exponential from 0.2 s, up to the smaller of 10 s and a third of the TTL, with full jitter.
fn backoff(ttl: Duration, random: &mut fastrand::Rng) -> Backoff {
    let longest = (ttl / 3).min(Duration::from_secs(10));
    Backoff::full_jitter(Duration::from_millis(200), 2.0, longest).with_seed(random.u64(..))
}

/// A panic of the registrar's is an error like others: the next attempt may succeed.
async fn within<T>(
    deadline: Duration,
    operation: &'static str,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    match timeout(deadline, Contained::new(call)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panic)) => Err(Error::panicked(&panic).with_operation(operation)),
        Err(_) => {
            let why = format!("no answer from the registry within {deadline:?}");
            Err(Error::new(ErrorKind::Timeout, why).with_operation(operation))
        }
    }
}
