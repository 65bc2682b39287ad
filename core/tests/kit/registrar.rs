//! Registering, with a defect.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{
    Claim, ErrorKind, Instance, InstanceId, Lease, Registrar, Registration, Resolver, Result, ServiceName,
};
use hither_memory::{MemoryRegistry, Operation};
use tokio::sync::Mutex;

use crate::defect::Defect;
use crate::harness::{Backend, defect, is_no_response};
use crate::lease::BrokenLease;

#[async_trait]
impl Registrar for Backend {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        let (service, id, requested) =
            (registration.service(), registration.instance().id(), registration.ttl());
        let registry = self.identity(id, claim).await;
        let registration = self.distorted(registration)?;
        let claim = self.claim(service, id, claim).await?;
        let concurrent = self.scene.registering.fetch_add(1, Ordering::Relaxed);
        if self.scene.defect == Defect::LosesConcurrentRegistrations {
            tokio::task::yield_now().await;
        }
        let register = || async { registry.register(&registration, claim).await };
        let result = self.scene.call(Operation::Register, register).await;
        self.scene.registering.fetch_sub(1, Ordering::Relaxed);
        let faults = self.registry.faults();
        if self.scene.defect == Defect::LosesConcurrentRegistrations && concurrent > 0 {
            faults.delete_record(service, id);
        }
        let lease = match result {
            Ok(lease) => lease,
            Err(error)
                if self.scene.defect == Defect::RegistersWithoutTheRegistry && is_no_response(&error) =>
            {
                MemoryRegistry::new().register(&registration, claim).await?
            }
            Err(error) => {
                if self.scene.defect == Defect::UnansweredLeaseRemovesTheRecord && is_no_response(&error) {
                    let (service, id, ttl) = (service.clone(), id.clone(), registration.ttl());
                    tokio::spawn(async move {
                        tokio::time::sleep(ttl).await;
                        faults.delete_record(&service, &id);
                    });
                }
                return Err(error);
            }
        };
        self.scene.seen.lock().await.push(service.clone());
        self.answered.lock().await.push(id.clone());
        let ttl = requested.min(lease.ttl());
        let lease = Arc::new(Mutex::new(lease));
        self.leases.lock().await.push(Arc::clone(&lease));
        Ok(Box::new(BrokenLease {
            scene: Arc::clone(&self.scene),
            lease,
            siblings: Arc::clone(&self.leases),
            ttl,
            registration,
            reverts_to: None,
            revoked: false,
            lost: false,
        }))
    }
}

impl Backend {
    /// The registry, as the registrar that the registration will belong to.
    async fn identity(&self, id: &InstanceId, claim: Claim) -> MemoryRegistry {
        let forgets = self.scene.defect == Defect::ForgetsUnansweredRegistrations;
        if forgets && claim == Claim::IfVacant && !self.answered.lock().await.contains(id) {
            return self.registry.connect();
        }
        self.registry.clone()
    }

    fn distorted(&self, registration: &Registration) -> Result<Registration> {
        let (registration, instance) = (registration.clone(), registration.instance().clone());
        match self.scene.defect {
            Defect::DropsMetadata => {
                let bare = Instance::new(instance.address().clone())
                    .with_id(instance.id().clone())
                    .with_weight(instance.weight())
                    .with_state(instance.state());
                registration.with_instance(bare)
            }
            Defect::ManglesText => match instance.zone() {
                Some(zone) => {
                    let zone = zone.replace(|c: char| !c.is_ascii(), "?");
                    registration.with_instance(instance.with_zone(zone))
                }
                None => Ok(registration),
            },
            Defect::IgnoresTheTtl => registration.with_ttl(Duration::from_secs(86_400)),
            _ => Ok(registration),
        }
    }

    async fn claim(&self, service: &ServiceName, id: &InstanceId, claim: Claim) -> Result<Claim> {
        let vacancy = claim == Claim::IfVacant;
        match self.scene.defect {
            Defect::RefusesToTakeOver => Ok(Claim::IfVacant),
            Defect::IgnoresTheClaim => Ok(Claim::TakeOver),
            Defect::RefusesEveryVacancy if vacancy => Err(defect(ErrorKind::Superseded)),
            Defect::RefusesItsOwn if vacancy && self.exists(service, id).await? => {
                Err(defect(ErrorKind::Superseded))
            }
            Defect::ChecksThenWrites if vacancy && !self.exists(service, id).await? => {
                tokio::task::yield_now().await;
                Ok(Claim::TakeOver)
            }
            Defect::RemembersExpiredOwners => {
                let name = ServiceName::new(format!("{service}/{id}"))?;
                let mut seen = self.scene.seen.lock().await;
                if vacancy && seen.contains(&name) {
                    return Err(defect(ErrorKind::Superseded));
                }
                seen.push(name);
                Ok(claim)
            }
            _ => Ok(claim),
        }
    }

    async fn exists(&self, service: &ServiceName, id: &InstanceId) -> Result<bool> {
        Ok(self.registry.connect().resolve(service).await?.get(id).is_some())
    }
}
