//! The registrations of one server, which are kept, changed and removed together.

use std::fmt;
use std::future::ready;
use std::mem::discriminant;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::select_all;
use hither_core::contain::contain;
use hither_core::{
    Instance, Registrar, Registration, RegistrationConfig, RegistrationHandle, RegistrationStatus,
};
use tokio::time::timeout;

use super::service_registration::ServiceRegistration;
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

/// One server under its services. Dropping it deregisters in the background, best effort.
#[derive(Debug)]
pub(super) struct Registrations {
    /// How long the registry may take for one step.
    within: Duration,
    /// As each was when the server was made.
    initial: Vec<Registration>,
    services: Vec<ServiceRegistration>,
}

impl Registrations {
    pub(super) fn new(registrations: Vec<Registration>, within: Duration) -> Self {
        let services = registrations.iter().cloned().map(ServiceRegistration::new).collect();
        Self { within, initial: registrations, services }
    }

    /// Starts to register in the background, or out of the registry.
    pub(super) fn start(&self, registrar: &Arc<dyn Registrar>, withdrawn: bool) {
        let config =
            RegistrationConfig::default().with_deregister_timeout(self.within).with_withdrawn(withdrawn);
        for service in &self.services {
            service.start(registrar, config.clone());
        }
    }

    /// As each was when the server was made.
    pub(super) fn initial(&self) -> &[Registration] {
        &self.initial
    }

    /// Changes the instance under every service, or under one.
    pub(super) fn update(
        &self,
        service: Option<&str>,
        describe: &impl Fn(Instance) -> Instance,
    ) -> Result<()> {
        let mut of_service = self
            .services
            .iter()
            .filter(|each| service.is_none_or(|name| each.service().as_str() == name))
            .peekable();
        if of_service.peek().is_none() {
            let service = service.unwrap_or_default();
            return Err(Error::invalid_argument(format!("the server has no service {service:?}")));
        }
        of_service.try_for_each(|service| service.update(describe))
    }

    /// Ends the program's updates.
    pub(super) fn close(&self) {
        self.services.iter().for_each(ServiceRegistration::close);
    }

    /// Registers again what was withdrawn, and is no longer `Draining`.
    pub(super) fn enter(&self) {
        self.services.iter().for_each(ServiceRegistration::enter);
    }

    /// Removes the records until they [enter](Self::enter) again.
    pub(super) fn withdraw(&self) {
        self.started().for_each(|(_, handle)| handle.withdraw());
    }

    /// Waits until none is in the registry.
    pub(super) async fn withdrawn(&self) {
        let is_out = |status: &RegistrationStatus| {
            matches!(status, RegistrationStatus::Withdrawn) || status.is_final()
        };
        join_all(self.started().map(|(_, handle)| async move {
            let mut statuses = pin!(handle.statuses());
            while statuses.next().await.is_some_and(|status| !is_out(&status)) {}
        }))
        .await;
    }

    fn started(&self) -> impl Iterator<Item = (&ServiceRegistration, &RegistrationHandle)> {
        self.services.iter().filter_map(|service| Some((service, service.handle()?)))
    }

    /// Waits until all are registered.
    pub(super) async fn registered(&self, within: Duration) -> Result<()> {
        let each = self.started().map(|(service, handle)| async move {
            let service = service.service();
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

    /// Changes the state of all to `Draining`, and waits until the registry has that.
    pub(super) async fn announce_draining(&self) {
        join_all(self.started().map(|(each, handle)| async move {
            let (service, Some(announced)) = (each.service(), each.announce_draining()) else { return };
            // A registration that has ended has nothing to announce.
            if handle.status().is_final() {
                return;
            }
            match timeout(self.within, announced).await {
                Ok(Ok(())) => tracing::debug!(%service, "draining announced"),
                Ok(Err(error)) => tracing::warn!(%service, cause = error.report(), "draining not announced"),
                Err(_) => tracing::warn!(%service, timeout = ?self.within, "draining not announced in time"),
            }
        }))
        .await;
    }

    /// Removes the records.
    pub(super) async fn deregister(&self) {
        join_all(self.started().map(|(service, handle)| async move {
            if let Err(error) = handle.deregister().await {
                let service = service.service();
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
        let started = self.initial.iter().zip(self.started());
        let mut statuses = select_all(started.map(|(registration, (_, handle))| {
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

#[cfg(test)]
mod tests {
    use hither_core::{InstanceState, Resolver, ServiceName};
    use hither_memory::MemoryRegistry;
    use tokio::time::Instant;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);
    const HOUR: Duration = Duration::from_secs(3600);

    fn services() -> [ServiceName; 2] {
        ["a", "b"].map(|name| name.parse().unwrap())
    }

    /// One server under two services, which are registered.
    async fn registered(registry: &MemoryRegistry) -> Registrations {
        let instance = Instance::new("10.0.0.7:8001".parse().unwrap());
        let each = services().map(|service| Registration::new(service, instance.clone()).unwrap());
        let registrations = Registrations::new(each.into(), WITHIN);
        let registrar: Arc<dyn Registrar> = Arc::new(registry.clone());
        registrations.start(&registrar, false);
        registrations.registered(HOUR).await.unwrap();
        registrations
    }

    async fn states(registry: &MemoryRegistry) -> Vec<Vec<InstanceState>> {
        let mut states = Vec::new();
        for service in services() {
            let snapshot = registry.resolve(&service).await.unwrap();
            states.push(snapshot.iter().map(|instance| instance.state()).collect());
        }
        states
    }

    #[tokio::test(start_paused = true)]
    async fn every_service_is_entered_and_withdrawn_and_waited_for() {
        let registry = MemoryRegistry::new();
        let registrations = registered(&registry).await;
        assert_eq!(states(&registry).await, [[InstanceState::Up]; 2]);
        registrations.withdraw();
        registrations.withdrawn().await;
        assert_eq!(states(&registry).await, [[]; 2]);
        registrations.enter();
        registrations.registered(HOUR).await.unwrap();
        assert_eq!(states(&registry).await, [[InstanceState::Up]; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_holds_up_each_step_for_the_time_of_one_service() {
        let registry = MemoryRegistry::new();
        let registrations = registered(&registry).await;
        registry.faults().stop();
        for step in ["announce", "deregister"] {
            let began = Instant::now();
            match step {
                "announce" => registrations.announce_draining().await,
                _ => registrations.deregister().await,
            }
            assert_eq!(began.elapsed(), WITHIN, "{step}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_another_server_has_taken_over_is_not_waited_for_and_cannot_be_registered() {
        let registry = MemoryRegistry::new();
        let registrations = registered(&registry).await;
        let [taken, other] = services();
        let instance = Instance::clone(registry.resolve(&taken).await.unwrap().iter().next().unwrap());
        registry.faults().take_over(&taken, instance);
        let (_, handle) = registrations.started().next().unwrap();
        let superseded = handle.statuses().any(|status| ready(status.is_final()));
        assert!(timeout(HOUR, superseded).await.unwrap());

        let error = registrations.registered(HOUR).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::NotRegistered, "a cannot be registered")
        );
        assert_eq!(
            error.registry_error().map(hither_core::Error::kind),
            Some(hither_core::ErrorKind::Superseded)
        );

        registry.faults().stop();
        registrations.withdraw();
        assert!(timeout(HOUR, registrations.withdrawn()).await.is_err(), "b is there");
        registry.faults().start();
        timeout(HOUR, registrations.withdrawn()).await.unwrap();
        assert_eq!(registry.resolve(&taken).await.unwrap().len(), 1, "the successor's");
        assert_eq!(registry.resolve(&other).await.unwrap().len(), 0);
    }

    /// Registers one service, and never answers for any other.
    #[derive(Debug)]
    struct OnlyA(MemoryRegistry);

    #[async_trait::async_trait]
    impl Registrar for OnlyA {
        async fn register(
            &self,
            registration: &Registration,
            claim: hither_core::Claim,
        ) -> hither_core::Result<Box<dyn hither_core::Lease>> {
            if registration.service().as_str() != "a" {
                std::future::pending::<()>().await;
            }
            self.0.register(registration, claim).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_registered_once_every_service_is() {
        let instance = Instance::new("10.0.0.7:8001".parse().unwrap());
        let each = services().map(|service| Registration::new(service, instance.clone()).unwrap());
        let registrations = Registrations::new(each.into(), WITHIN);
        let registrar: Arc<dyn Registrar> = Arc::new(OnlyA(MemoryRegistry::new()));
        registrations.start(&registrar, false);
        let error = registrations.registered(HOUR).await.unwrap_err();
        assert_eq!(error.to_string(), "b was not registered within 3600s");
    }
}
