//! A lease, with a defect.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{ErrorKind, Lease, Registration, Resolver, Result};
use hither_memory::Operation;
use tokio::sync::Mutex;

use crate::defect::Defect;
use crate::harness::{Scene, defect, is_no_response};

pub(crate) type SharedLease = Arc<Mutex<Box<dyn Lease>>>;

#[derive(Debug)]
pub(crate) struct BrokenLease {
    pub(crate) scene: Arc<Scene>,
    pub(crate) lease: SharedLease,
    pub(crate) siblings: Arc<Mutex<Vec<SharedLease>>>,
    pub(crate) ttl: Duration,
    pub(crate) registration: Registration,
    /// The old content, after an update that failed.
    pub(crate) reverts_to: Option<Registration>,
    pub(crate) revoked: bool,
    /// Whether the lease is no longer known to us.
    pub(crate) lost: bool,
}

#[async_trait]
impl Lease for BrokenLease {
    fn ttl(&self) -> Duration {
        if self.scene.defect == Defect::PromisesMoreThanGranted { self.ttl * 10 } else { self.ttl }
    }

    async fn renew(&mut self) -> Result<()> {
        self.take().await?;
        let renewed = self.renew_with_defect().await;
        self.lost = false;
        match (self.scene.defect, renewed) {
            (Defect::RenewsWithoutTheRegistry, Err(error)) if is_no_response(&error) => Ok(()),
            (Defect::ReportsAnExpiredLease, Err(error)) if is_no_response(&error) => {
                Err(defect(ErrorKind::LeaseExpired))
            }
            (Defect::LosesItsLeaseWhenARenewalFails, Err(error)) => {
                self.lost = true;
                Err(error)
            }
            (_, renewed) => renewed,
        }
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        self.take().await?;
        let updated = self.update_with_defect(registration).await;
        self.lost = false;
        match (self.scene.defect, updated) {
            (Defect::UpdatesWithoutTheRegistry, Err(error)) if is_no_response(&error) => Ok(()),
            (Defect::RevertsAFailedUpdate, Err(error)) => {
                self.reverts_to = Some(self.registration.clone());
                Err(error)
            }
            (_, Ok(())) => {
                self.reverts_to = None;
                self.registration = registration.clone();
                Ok(())
            }
            (_, updated) => updated,
        }
    }

    async fn revoke(&mut self) -> Result<()> {
        self.take().await?;
        let revoked = self.revoke_with_defect().await;
        self.lost = false;
        match revoked {
            Err(error)
                if self.scene.defect == Defect::RevokesWithoutTheRegistry && is_no_response(&error) =>
            {
                Ok(())
            }
            revoked => revoked,
        }
    }
}

impl BrokenLease {
    /// Takes the lease out for a call that is to put it back.
    async fn take(&mut self) -> Result<()> {
        if self.lost {
            return Err(defect(ErrorKind::LeaseExpired));
        }
        if self.scene.defect == Defect::LosesItsLeaseWhenCancelled {
            self.lost = true;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn renew_with_defect(&mut self) -> Result<()> {
        let (service, id) = (self.registration.service(), self.registration.instance().id());
        match self.scene.defect {
            Defect::DoesNotRenew => return Ok(()),
            Defect::IgnoresADeletion => {
                let snapshot = self.scene.registry.resolve(service).await?;
                if snapshot.get(id).is_none() && !self.revoked {
                    return Ok(());
                }
            }
            Defect::SharesOneLease => {
                for lease in self.siblings.lock().await.iter() {
                    let _ = lease.lock().await.renew().await;
                }
            }
            Defect::RenewsUnconditionally => {
                let _ = self.lease.lock().await.renew().await;
                return Ok(());
            }
            _ => {}
        }
        self.scene.call(Operation::Renew, || async { self.lease.lock().await.renew().await }).await?;
        if let Some(old) = &self.reverts_to {
            self.scene.registry.faults().change_record(old.service(), old.instance().clone());
        }
        Ok(())
    }

    async fn update_with_defect(&mut self, registration: &Registration) -> Result<()> {
        let (service, id) = (self.registration.service(), self.registration.instance().id());
        let faults = self.scene.registry.faults();
        match self.scene.defect {
            Defect::IgnoresUpdates => return Ok(()),
            Defect::UpdateMayChangeTheId if registration.instance().id() != id => return Ok(()),
            Defect::UpdateMayChangeTheService if registration.service() != service => return Ok(()),
            Defect::SupersededLeaseUpdatesItsSuccessor => {
                faults.change_record(service, registration.instance().clone());
            }
            Defect::UpdateRemovesFirst => {
                faults.delete_record(service, id);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            _ => {}
        }
        let update = || async { self.lease.lock().await.update(registration).await };
        self.scene.call(Operation::Update, update).await?;
        if self.scene.defect == Defect::UpdateProlongs {
            faults.put_without_lease(service, registration.instance().clone());
        }
        Ok(())
    }

    async fn revoke_with_defect(&mut self) -> Result<()> {
        match self.scene.defect {
            Defect::DoesNotRevoke => return Ok(()),
            Defect::RevokesOnlyOnce if self.revoked => return Ok(()),
            Defect::FailsTheSecondRevoke if self.revoked => return Err(defect(ErrorKind::LeaseExpired)),
            Defect::SupersededLeaseRemovesItsSuccessor => {
                let (service, id) = (self.registration.service(), self.registration.instance().id());
                self.scene.registry.faults().expire(service, id);
            }
            Defect::SharesOneLease => {
                for lease in self.siblings.lock().await.iter() {
                    lease.lock().await.revoke().await?;
                }
            }
            _ => {}
        }
        self.revoked = true;
        self.scene.call(Operation::Revoke, || async { self.lease.lock().await.revoke().await }).await
    }
}
