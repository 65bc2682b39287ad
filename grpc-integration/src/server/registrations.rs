//! The registrations of one server, which are kept, changed and removed together.

use std::fmt;
use std::future::ready;
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::select_all;
use hither_core::contain::contain;
use hither_core::{
    InstanceState, Registrar, Registration, RegistrationConfig, RegistrationHandle, RegistrationStatus,
    keep_registered,
};
use tokio::time::timeout;

use crate::error::{Error, ErrorKind, Result};

/// Is called on every change of a registration's status.
pub(super) struct StatusListener(Box<OnStatus>);

type OnStatus = dyn Fn(&Registration, &RegistrationStatus) + Send + Sync;

impl StatusListener {
    pub(super) fn new(listener: impl Fn(&Registration, &RegistrationStatus) + Send + Sync + 'static) -> Self {
        Self(Box::new(listener))
    }
}

impl fmt::Debug for StatusListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusListener")
    }
}

/// One instance under several services. Dropping it deregisters in the background, best effort.
#[derive(Debug)]
pub(super) struct Registrations {
    /// How long the registry may take for one step.
    within: Duration,
    handles: Vec<(Registration, RegistrationHandle)>,
}

impl Registrations {
    /// Starts to register, in the background.
    pub(super) fn start(
        registrar: &Arc<dyn Registrar>,
        registrations: Vec<Registration>,
        within: Duration,
    ) -> Self {
        let config = RegistrationConfig::default().with_deregister_timeout(within);
        let keep = |registration: Registration| {
            let handle = keep_registered(Arc::clone(registrar), registration.clone(), config.clone());
            (registration, handle)
        };
        Self { within, handles: registrations.into_iter().map(keep).collect() }
    }

    /// Waits until all are registered.
    pub(super) async fn registered(&self, within: Duration) -> Result<()> {
        let each = self.handles.iter().map(|(registration, handle)| async move {
            let service = registration.service();
            let failed =
                |message| Error::new(ErrorKind::NotRegistered, message).with_service(service.clone());
            match timeout(within, handle.registered()).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(failed(format!("{service} cannot be registered")).with_source(error)),
                Err(_) => {
                    let error = failed(format!("{service} was not registered within {within:?}"));
                    Err(match handle.status() {
                        RegistrationStatus::Retrying { cause, .. } => error.with_source(cause),
                        _ => error,
                    })
                }
            }
        });
        try_join_all(each).await.map(|_| ())
    }

    /// Changes the state of all to `Draining`.
    pub(super) async fn announce_draining(&self) {
        join_all(self.handles.iter().map(|(registration, handle)| {
            let service = registration.service();
            let draining = registration.instance().clone().with_state(InstanceState::Draining);
            let update = handle.update(draining);
            async move {
                // A registration that has ended has nothing to announce.
                if !handle.status().is_final() {
                    match timeout(self.within, update).await {
                        Ok(Ok(())) => tracing::debug!(%service, "draining announced"),
                        Ok(Err(error)) => {
                            tracing::warn!(%service, cause = error.report(), "draining not announced");
                        }
                        Err(_) => {
                            tracing::warn!(%service, timeout = ?self.within, "draining not announced in time");
                        }
                    }
                }
            }
        }))
        .await;
    }

    /// Removes the records.
    pub(super) async fn deregister(&self) {
        join_all(self.handles.iter().map(|(registration, handle)| async move {
            if let Err(error) = handle.deregister().await {
                let service = registration.service();
                tracing::warn!(%service, cause = error.report(), "deregistration failed; record expires by TTL");
            }
        }))
        .await;
    }

    /// Logs each change of status and calls the listener, until all registrations have ended. The retries during
    /// one outage are one change.
    pub(super) fn observe(
        &self,
        listener: Option<StatusListener>,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut statuses = select_all(self.handles.iter().map(|(registration, handle)| {
            let (registration, mut last) = (registration.clone(), None);
            let statuses = handle.statuses().filter_map(move |status| {
                let kind = Some(discriminant(&status));
                let changed = std::mem::replace(&mut last, kind) != kind;
                ready(changed.then(|| (registration.clone(), status)))
            });
            Box::pin(statuses)
        }));
        async move {
            while let Some((registration, status)) = statuses.next().await {
                log(&registration, &status);
                let Some(StatusListener(call)) = &listener else { continue };
                // The server goes on without what it was told.
                if let Err(panic) = contain(|| call(&registration, &status)) {
                    let service = registration.service();
                    tracing::error!(%service, cause = panic, "status listener panicked");
                }
            }
        }
    }
}

/// For debugging: the registration itself logs what an operator needs, with its service and cause.
fn log(registration: &Registration, status: &RegistrationStatus) {
    let (service, address) = (registration.service(), registration.instance().address());
    tracing::debug!(%service, %address, ?status, "registration status changed");
}
