//! The registrations of one server, led through its life together.

use std::fmt;
use std::future::ready;
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::select_all;
use hither_core::{
    Error, ErrorKind, Instance, InstanceState, KeepAliveConfig, Registrar, Registration, RegistrationHandle,
    RegistrationStatus, ServiceName, keep_registered,
};
use tokio::time::timeout;

use super::LifecycleError;

/// Hears of every change of a registration.
pub(super) struct Listener(Box<Hear>);

type Hear = dyn Fn(&Registration, &RegistrationStatus) + Send + Sync;

impl Listener {
    pub(super) fn new(hear: impl Fn(&Registration, &RegistrationStatus) + Send + Sync + 'static) -> Self {
        Self(Box::new(hear))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// One instance under several services. Dropping it deregisters in the background, best effort.
#[derive(Debug)]
pub(super) struct Registrations {
    instance: Instance,
    /// How long the registry may take for one step.
    within: Duration,
    handles: Vec<(Registration, RegistrationHandle)>,
}

impl Registrations {
    /// Begins to register.
    pub(super) fn start(
        registrar: &Arc<dyn Registrar>,
        services: &[ServiceName],
        instance: Instance,
        ttl: Duration,
        within: Duration,
    ) -> Self {
        let config = KeepAliveConfig::default().with_deregister_timeout(within);
        let keep = |service: &ServiceName| {
            let registration = Registration::new(service.clone(), instance.clone()).with_ttl(ttl);
            let handle = keep_registered(Arc::clone(registrar), registration.clone(), config.clone());
            (registration, handle)
        };
        let handles = services.iter().map(keep).collect();
        Self { instance, within, handles }
    }

    /// Waits until all are registered.
    pub(super) async fn registered(&self, within: Duration) -> Result<(), LifecycleError> {
        let each = self.handles.iter().map(|(registration, handle)| async move {
            let source = match timeout(within, handle.registered()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => {
                    let error = Error::new(ErrorKind::Timeout, format!("not within {within:?}"));
                    match handle.status() {
                        RegistrationStatus::Retrying { cause, .. } => error.with_source(cause),
                        _ => error,
                    }
                }
            };
            Err(LifecycleError::NotRegistered { service: registration.service().clone(), source })
        });
        try_join_all(each).await.map(|_| ())
    }

    /// Tells clients to look elsewhere.
    pub(super) async fn announce_draining(&self) {
        let draining = self.instance.clone().with_state(InstanceState::Draining);
        join_all(self.handles.iter().map(|(registration, handle)| {
            let service = registration.service();
            let update = handle.update(draining.clone());
            async move {
                // Not being there, it has nothing to announce.
                if !handle.status().is_final() {
                    match timeout(self.within, update).await {
                        Ok(Ok(())) => tracing::debug!(%service, "announced as draining"),
                        Ok(Err(error)) => tracing::warn!(%service, error = error.report(), "not announced as draining"),
                        Err(_) => tracing::warn!(%service, within = ?self.within, "not announced as draining in time"),
                    }
                }
            }
        }))
        .await;
    }

    /// Takes the records away.
    pub(super) async fn deregister(&self) {
        join_all(self.handles.iter().map(|(registration, handle)| async move {
            let service = registration.service();
            if let Err(error) = handle.deregister().await {
                tracing::warn!(%service, error = error.report(), "not deregistered: the record lapses within its TTL");
            }
        }))
        .await;
    }

    /// Logs each change and tells the listener of it, until all have come to their end. The retries of one
    /// outage are one change.
    pub(super) fn observe(
        &self,
        listener: Option<Listener>,
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
                if let Some(Listener(hear)) = &listener {
                    hear(&registration, &status);
                }
            }
        }
    }
}

/// What it means for the server. That it is registered, or tries on, is logged by the registration itself.
fn log(registration: &Registration, status: &RegistrationStatus) {
    let (service, address) = (registration.service(), registration.instance().address());
    match status {
        RegistrationStatus::Superseded => {
            tracing::error!(%service, %address, "somebody else registered under our id; serving on unregistered");
        }
        RegistrationStatus::Failed(error) => {
            tracing::error!(%service, %address, error = error.report(), "cannot be registered; serving on");
        }
        status => tracing::debug!(%service, %address, ?status, "registration"),
    }
}
