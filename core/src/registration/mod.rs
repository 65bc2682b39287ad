//! Keeping one registration in the registry, whatever happens to it.

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

use state::{Told, Wish};
use task::Keeper;

use crate::{Error, ErrorKind, Instance, Registrar, Registration, Result};

pub use config::KeepAliveConfig;
pub use state::RegistrationStatus;

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

fn superseded() -> Error {
    Error::new(ErrorKind::Superseded, "another owner registered under the same id").with_operation("register")
}

fn runtime_gone() -> Error {
    Error::new(ErrorKind::Closed, "the runtime that kept the registration is gone")
}
