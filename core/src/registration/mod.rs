//! Keeping one registration in the registry.

mod config;
mod state;
mod task;

use std::time::Duration;

use futures_core::Stream;
use futures_util::stream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Instrument;

use state::{Desired, Observed, Presence};
use task::Reconciler;

use crate::{Error, ErrorKind, Instance, Registrar, Registration, Result};

pub use config::RegistrationConfig;
pub use state::RegistrationStatus;

/// Registers an instance, and keeps it registered until it is deregistered through the handle.
///
/// One task renews the lease at a third of the granted TTL (±10 %; the first time between 40 and 130 % of it, so that
/// instances that register together do not renew together), writes lost records again, and registers anew when the lease
/// has expired. It retries without limit, with exponential backoff and full jitter, from 0.2 s up to 10 s or a third of
/// the TTL, whichever is less.
///
/// An attempt to renew fails after a third of the TTL, or after the
/// [attempt timeout](RegistrationConfig::with_attempt_timeout) if that is shorter, so an outage is reported within four
/// fifths of the TTL. One that is over before the next renewal, and that the lease has outlived, is not reported.
///
/// Until its first success it takes the id over ([`Claim::TakeOver`](crate::Claim::TakeOver)), because a restarted process
/// finds its own old record. From then on it takes only a vacant id, so an owner that returns from a partition does not
/// displace its successor: that ends as [`RegistrationStatus::Superseded`]. It waits two TTLs before it yields, because the
/// other record may be that of a dead process: a registry that was restored from a backup has the records of the time
/// before.
///
/// Only `InvalidArgument` and `Unsupported` in answer to content that the registry never accepted, and `Closed`, end as
/// [`RegistrationStatus::Failed`]. `Unauthenticated` and `PermissionDenied` are retried at the longest backoff: a mistake
/// of five minutes in the roles must not remove healthy servers for good.
///
/// Outside a Tokio runtime, or with an [attempt timeout](RegistrationConfig::with_attempt_timeout) of zero, the registration
/// is `Failed` from the start.
///
/// ```
/// use hither_core::{Instance, Registration, RegistrationConfig, keep_registered};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// # let registry = hither_memory::MemoryRegistry::new();
/// let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?))?;
/// let handle = keep_registered(registry, registration, RegistrationConfig::default());
/// handle.registered().await?;
/// // ... serve ...
/// handle.deregister().await?;
/// # Ok(())
/// # }
/// ```
pub fn keep_registered(
    registrar: impl Registrar,
    registration: Registration,
    config: RegistrationConfig,
) -> RegistrationHandle {
    let (presence, status) = if config.withdrawn {
        (Presence::Withdrawn, RegistrationStatus::Withdrawn)
    } else {
        (Presence::Registered, RegistrationStatus::Registering)
    };
    let desired = Desired { registration: registration.clone(), version: 0, presence };
    let (desired, of_task) = watch::channel(desired);
    let (to_handle, observed) = watch::channel(Observed::new(registration.service(), status));
    let deregister_timeout = config.deregister_timeout;
    let invalid = if config.attempt_timeout.is_zero() {
        Err((ErrorKind::InvalidArgument, "the attempt timeout is zero: no registry answers in no time"))
    } else {
        Ok(())
    };
    let runtime = Handle::try_current()
        .map_err(|_| (ErrorKind::Unexpected, "a registration can only be kept inside a Tokio runtime"));
    match invalid.and(runtime) {
        Ok(runtime) => {
            let span = tracing::info_span!(
                "registration",
                service = %registration.service(),
                id = %registration.instance().id()
            );
            let task = Reconciler::new(registrar, registration, config, of_task, to_handle);
            runtime.spawn(task.run().instrument(span));
        }
        Err((kind, why)) => {
            let error = Error::new(kind, why).with_operation("register");
            to_handle.send_modify(|observed| observed.set_status(RegistrationStatus::Failed(error)));
        }
    }
    RegistrationHandle { desired, observed, deregister_timeout }
}

/// The owner's handle of a registration that [`keep_registered`] keeps.
///
/// Dropping it deregisters in the background, best effort: for one TTL at most, while the runtime lives. Prefer
/// [`deregister`](Self::deregister), which reports the outcome.
#[derive(Debug)]
pub struct RegistrationHandle {
    desired: watch::Sender<Desired>,
    observed: watch::Receiver<Observed>,
    deregister_timeout: Duration,
}

impl RegistrationHandle {
    /// Returns the present status.
    pub fn status(&self) -> RegistrationStatus {
        self.observed.borrow().status().clone()
    }

    /// Returns a stream of statuses, beginning with the present one; those between two polls are skipped. Ends after a
    /// final status.
    pub fn statuses(&self) -> impl Stream<Item = RegistrationStatus> + Send + 'static + use<> {
        let mut observed = self.observed.clone();
        observed.mark_changed();
        stream::unfold(observed, |mut observed| async move {
            observed.changed().await.ok()?;
            let status = observed.borrow_and_update().status().clone();
            Some((status, observed))
        })
    }

    /// Waits until the registry has the record, without a limit of time; of one that is
    /// [withdrawn](Self::withdraw) until it is restored.
    ///
    /// # Errors
    /// `Superseded`, `Closed` (deregistered), or the error of a registration that failed for good.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn registered(&self) -> Result<()> {
        self.settled(|observed| match observed.status() {
            RegistrationStatus::Registered => Some(Ok(())),
            _ => None,
        })
        .await
    }

    /// Replaces the content under the same id, and waits until the registry has it.
    ///
    /// The new content becomes the desired state on the first poll and survives dropping this future: it is sent again
    /// after any failure, and with any new lease. A later update replaces it, and completes this one too. While the
    /// registration is [withdrawn](Self::withdraw) the registry gets it with the next [`restore`](Self::restore).
    ///
    /// # Errors
    /// `InvalidArgument` when the instance has another id, or the registry refuses the content: then the content before
    /// stays. Otherwise as [`registered`](Self::registered).
    ///
    /// # Cancellation
    /// Cancelling does not undo the update.
    pub async fn update(&self, instance: Instance) -> Result<()> {
        let mut accepted = Ok(0);
        self.desired.send_if_modified(|desired| {
            match desired.registration.clone().with_instance(instance) {
                Ok(registration) => {
                    desired.registration = registration;
                    desired.version += 1;
                    accepted = Ok(desired.version);
                }
                Err(error) => accepted = Err(error.with_operation("update")),
            }
            accepted.is_ok()
        });
        let version = accepted?;
        self.settled(|observed| match &observed.refused {
            Some((refused, error)) if *refused == version => Some(Err(error.clone())),
            _ => (observed.version >= Some(version)).then_some(Ok(())),
        })
        .await
    }

    /// Removes the record until [`restore`](Self::restore), in the background: for a server that is not ready, and may be
    /// again. It retries without limit; [`statuses`](Self::statuses) has the outcome, `Withdrawn`. A record that the registry
    /// wrote without our knowing, because its answer was lost, expires within its TTL.
    ///
    /// Does nothing after [`deregister`](Self::deregister).
    pub fn withdraw(&self) {
        self.set_presence(Presence::Withdrawn);
    }

    /// Registers again what was [withdrawn](Self::withdraw), with the latest content, in the background. Another owner
    /// that has registered under the same id meanwhile stays, and this registration ends as `Superseded`.
    pub fn restore(&self) {
        self.set_presence(Presence::Registered);
    }

    fn set_presence(&self, presence: Presence) {
        self.desired.send_if_modified(|desired| {
            let is_new = desired.presence != presence && desired.presence != Presence::Leaving;
            if is_new {
                desired.presence = presence;
            }
            is_new
        });
    }

    /// Removes the record, and waits for the registry's confirmation.
    ///
    /// The desired state is final from the first poll on: no reconnect brings the record back. Another call waits
    /// again.
    ///
    /// # Errors
    /// `Timeout` or `Unavailable`: not confirmed. The record expires within a TTL of the registry's recovery, and
    /// the task retries meanwhile, as long as this handle lives and one TTL longer.
    ///
    /// # Cancellation
    /// Cancelling does not undo the deregistration.
    pub async fn deregister(&self) -> Result<()> {
        self.desired.send_modify(|desired| desired.presence = Presence::Leaving);
        let mut observed = self.observed.clone();
        let finished = observed.wait_for(|observed| observed.status().is_final());
        let unconfirmed = match timeout(self.deregister_timeout, finished).await {
            Ok(Ok(observed)) => observed.unconfirmed.clone(),
            Ok(Err(_)) => Some(runtime_gone()),
            Err(_) => {
                let why = format!("no confirmation from the registry within {:?}", self.deregister_timeout);
                let timed_out = || Error::new(ErrorKind::Timeout, why);
                Some(self.observed.borrow().unconfirmed.clone().unwrap_or_else(timed_out))
            }
        };
        unconfirmed.map_or(Ok(()), |error| Err(error.with_operation("deregister")))
    }

    /// Waits until `done` returns an outcome, or the status is final.
    async fn settled(&self, mut done: impl FnMut(&Observed) -> Option<Result<()>>) -> Result<()> {
        let mut observed = self.observed.clone();
        let mut outcome = None;
        let waited = observed
            .wait_for(|observed| {
                outcome = done(observed).or_else(|| match observed.status() {
                    RegistrationStatus::Superseded => Some(Err(superseded())),
                    RegistrationStatus::Failed(error) => Some(Err(error.clone())),
                    RegistrationStatus::Deregistering | RegistrationStatus::Deregistered => Some(Err(
                        Error::new(ErrorKind::Closed, "it was deregistered").with_operation("register"),
                    )),
                    _ => None,
                });
                outcome.is_some()
            })
            .await
            .map(|_| ());
        outcome.unwrap_or_else(|| waited.map_err(|_| runtime_gone()))
    }
}

fn superseded() -> Error {
    Error::new(ErrorKind::Superseded, "another owner registered under the same id").with_operation("register")
}

fn runtime_gone() -> Error {
    Error::new(ErrorKind::Closed, "the runtime that kept the registration was shut down")
}
