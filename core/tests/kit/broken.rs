//! Backends that each break one promise: hither-memory with one defect in front of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hither_core::conformance::{Harness, Profile};
use hither_core::{
    Catalog, Claim, Error, ErrorKind, Instance, InstanceId, Lease, Registrar, Registration, Resolver, Result,
    ServiceName, Snapshot, SnapshotStream,
};
use hither_memory::MemoryRegistry;
use tokio::sync::{Mutex, watch};

/// What is wrong with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    None,

    FindsNobody,
    LeaksNamesThatBeginAlike,
    LeaksDeeperServices,
    FailsOnAnUnknownService,
    ForgetsMetadata,
    MangledText,
    KnowsOneInstanceOnly,
    FailsOnGarbage,

    RefusesToTakeOver,
    IgnoresTheClaim,
    RefusesEveryVacancy,
    RefusesItsOwn,
    RemembersTheDead,
    ForgetsTheTtl,
    OneLeaseForAll,

    PromisesMoreThanGranted,
    DoesNotRenew,
    RenewsWhateverHappened,
    OldLeaseRemovesTheNewRecord,
    OldLeaseChangesTheNewRecord,
    DoesNotRevoke,
    FailsTheSecondRevoke,
    IgnoresUpdates,
    UpdateProlongs,
    UpdateRemovesFirst,
    UpdateMayChangeTheId,
    LeavesWhatWasRemoved,

    NeverSendsTheEmptySnapshot,
    SendsNoPresentState,
    DeafAfterTheFirst,
    DeafAfterAWhile,
    DeafToExpiry,
    DeafToTheRegistrysEnd,
    DeafAfterACut,
    EndsAtGarbage,
    BeginsWithAnOldSnapshot,
    OneWatchOnly,

    CatalogKnowsNothing,
    CatalogIgnoresTheName,
    CatalogNeverForgets,
}

/// One registry, whose backend has the defect.
#[derive(Debug)]
pub(crate) struct Broken {
    registry: MemoryRegistry,
    defect: Defect,
    garbage: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    seen: Arc<Mutex<Vec<ServiceName>>>,
    first: Arc<Mutex<BTreeMap<ServiceName, Snapshot>>>,
}

impl Broken {
    pub(crate) fn new(defect: Defect) -> Self {
        Self {
            registry: MemoryRegistry::new(),
            defect,
            garbage: watch::Sender::new(false),
            cut: watch::Sender::new(false),
            seen: Arc::default(),
            first: Arc::default(),
        }
    }

    fn backend(&self, registry: MemoryRegistry) -> Backend {
        Backend {
            registry,
            defect: self.defect,
            leases: Arc::default(),
            garbage: self.garbage.subscribe(),
            cut: self.cut.subscribe(),
            watches: watch::Sender::new(0),
            seen: Arc::clone(&self.seen),
            first: Arc::clone(&self.first),
        }
    }
}

#[async_trait]
impl Harness for Broken {
    fn profile(&self) -> Profile {
        Profile::default().with_granularity(Duration::from_millis(2))
    }

    async fn registrar(&self) -> Arc<dyn Registrar> {
        Arc::new(self.backend(self.registry.connect()))
    }

    async fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::new(self.backend(self.registry.clone()))
    }

    async fn catalog(&self) -> Option<Arc<dyn Catalog>> {
        Some(Arc::new(self.backend(self.registry.clone())))
    }

    async fn put_garbage(&self, service: &ServiceName) -> bool {
        self.registry.faults().put_garbage(service, &InstanceId::new("garbage").unwrap());
        self.garbage.send_replace(true);
        true
    }

    async fn remove_record(&self, service: &ServiceName, id: &InstanceId) -> bool {
        self.registry.faults().delete_record(service, id)
    }

    async fn cut(&self) -> bool {
        self.registry.faults().stop();
        self.registry.faults().start();
        self.cut.send_replace(true);
        true
    }
}

type SharedLease = Arc<Mutex<Box<dyn Lease>>>;

#[derive(Debug)]
struct Backend {
    registry: MemoryRegistry,
    defect: Defect,
    leases: Arc<Mutex<Vec<SharedLease>>>,
    garbage: watch::Receiver<bool>,
    cut: watch::Receiver<bool>,
    watches: watch::Sender<usize>,
    seen: Arc<Mutex<Vec<ServiceName>>>,
    first: Arc<Mutex<BTreeMap<ServiceName, Snapshot>>>,
}

fn broken(kind: ErrorKind) -> Error {
    Error::new(kind, "the defect")
}

#[async_trait]
impl Registrar for Backend {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        let (service, id) = (registration.service(), registration.instance().id());
        let stands = self.registry.connect().resolve(service).await?.get(id).is_some();
        let asked = registration.ttl();
        let mut registration = registration.clone();
        let mut claim = claim;
        match self.defect {
            Defect::ForgetsMetadata => {
                let instance = registration.instance();
                let bare = Instance::new(instance.address().clone())
                    .with_id(id.clone())
                    .with_weight(instance.weight())
                    .with_state(instance.state());
                registration = registration.clone().with_instance(bare)?;
            }
            Defect::MangledText => {
                let zone =
                    registration.instance().zone().map(|zone| zone.replace(|c: char| !c.is_ascii(), "?"));
                if let Some(zone) = zone {
                    let instance = registration.instance().clone().with_zone(zone);
                    registration = registration.clone().with_instance(instance)?;
                }
            }
            Defect::RefusesToTakeOver => claim = Claim::IfVacant,
            Defect::IgnoresTheClaim => claim = Claim::TakeOver,
            Defect::RefusesEveryVacancy if claim == Claim::IfVacant => {
                return Err(broken(ErrorKind::Superseded));
            }
            Defect::RefusesItsOwn if claim == Claim::IfVacant && stands => {
                return Err(broken(ErrorKind::Superseded));
            }
            Defect::RemembersTheDead => {
                let name = ServiceName::new(format!("{service}/{id}"))?;
                let mut seen = self.seen.lock().await;
                if claim == Claim::IfVacant && seen.contains(&name) {
                    return Err(broken(ErrorKind::Superseded));
                }
                seen.push(name);
            }
            Defect::ForgetsTheTtl => {
                registration = registration.with_ttl(Duration::from_secs(86_400))?;
            }
            _ => {}
        }
        self.seen.lock().await.push(service.clone());
        let lease = Arc::new(Mutex::new(self.registry.register(&registration, claim).await?));
        self.leases.lock().await.push(Arc::clone(&lease));
        let ttl = asked.min(lease.lock().await.ttl());
        Ok(Box::new(BrokenLease {
            registry: self.registry.clone(),
            defect: self.defect,
            lease,
            siblings: Arc::clone(&self.leases),
            ttl,
            service: service.clone(),
            id: registration.instance().id().clone(),
            revoked: false,
        }))
    }
}

#[derive(Debug)]
struct BrokenLease {
    registry: MemoryRegistry,
    defect: Defect,
    lease: SharedLease,
    siblings: Arc<Mutex<Vec<SharedLease>>>,
    ttl: Duration,
    service: ServiceName,
    id: InstanceId,
    revoked: bool,
}

#[async_trait]
impl Lease for BrokenLease {
    fn ttl(&self) -> Duration {
        if self.defect == Defect::PromisesMoreThanGranted { self.ttl * 10 } else { self.ttl }
    }

    async fn renew(&mut self) -> Result<()> {
        match self.defect {
            Defect::DoesNotRenew => return Ok(()),
            Defect::LeavesWhatWasRemoved => {
                let snapshot = self.registry.resolve(&self.service).await?;
                if snapshot.get(&self.id).is_none() && !self.revoked {
                    return Ok(());
                }
            }
            Defect::OneLeaseForAll => {
                for lease in self.siblings.lock().await.iter() {
                    let _ = lease.lock().await.renew().await;
                }
            }
            Defect::RenewsWhateverHappened => {
                let _ = self.lease.lock().await.renew().await;
                return Ok(());
            }
            _ => {}
        }
        self.lease.lock().await.renew().await
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        let instance = registration.instance();
        let mut lease = self.lease.lock().await;
        match self.defect {
            Defect::IgnoresUpdates => return Ok(()),
            Defect::UpdateMayChangeTheId if *instance.id() != self.id => return Ok(()),
            Defect::OldLeaseChangesTheNewRecord => {
                self.registry.faults().change_record(&self.service, instance.clone());
            }
            Defect::UpdateProlongs => {
                lease.update(registration).await?;
                self.registry.faults().put_without_lease(&self.service, instance.clone());
                return Ok(());
            }
            Defect::UpdateRemovesFirst => {
                self.registry.faults().delete_record(&self.service, &self.id);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            _ => {}
        }
        lease.update(registration).await
    }

    async fn revoke(&mut self) -> Result<()> {
        match self.defect {
            Defect::DoesNotRevoke => return Ok(()),
            Defect::FailsTheSecondRevoke if self.revoked => return Err(broken(ErrorKind::LeaseExpired)),
            Defect::OldLeaseRemovesTheNewRecord => {
                self.registry.faults().expire(&self.service, &self.id);
            }
            Defect::OneLeaseForAll => {
                for lease in self.siblings.lock().await.iter() {
                    lease.lock().await.revoke().await?;
                }
            }
            _ => {}
        }
        self.revoked = true;
        self.lease.lock().await.revoke().await
    }
}

#[async_trait]
impl Resolver for Backend {
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
        let snapshot = self.registry.resolve(service).await?;
        match self.defect {
            Defect::FailsOnAnUnknownService if snapshot.is_empty() => Err(broken(ErrorKind::InvalidArgument)),
            Defect::FailsOnGarbage if *self.garbage.borrow() => Err(broken(ErrorKind::InvalidData)),
            Defect::FindsNobody => Ok(Snapshot::new(service.clone(), [])),
            _ => self.distort(snapshot).await,
        }
    }

    async fn watch(&self, service: &ServiceName) -> Result<SnapshotStream> {
        let snapshots = self.registry.watch(service).await?;
        let snapshots: SnapshotStream = match self.defect {
            Defect::LeaksNamesThatBeginAlike
            | Defect::LeaksDeeperServices
            | Defect::KnowsOneInstanceOnly
            | Defect::FailsOnGarbage => self.polled(service),
            Defect::NeverSendsTheEmptySnapshot => only(snapshots, |snapshot: &Snapshot| !snapshot.is_empty()),
            Defect::SendsNoPresentState => snapshots.skip(1).boxed(),
            Defect::DeafAfterTheFirst => snapshots.take(1).chain(stream::pending()).boxed(),
            Defect::DeafAfterAWhile => snapshots
                .take_until(Box::pin(tokio::time::sleep(Duration::from_secs(1))))
                .chain(stream::pending())
                .boxed(),
            Defect::DeafToExpiry => {
                let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
                only(snapshots, move |snapshot: &Snapshot| {
                    let before = most.fetch_max(snapshot.len(), std::sync::atomic::Ordering::Relaxed);
                    snapshot.len() >= before
                })
            }
            Defect::DeafToTheRegistrysEnd => snapshots
                .take_while(|snapshot| std::future::ready(snapshot.is_ok()))
                .chain(stream::pending())
                .boxed(),
            Defect::DeafAfterACut if *self.cut.borrow() => stream::pending().boxed(),
            Defect::EndsAtGarbage => {
                let mut garbage = self.garbage.clone();
                let hurt = async move { drop(garbage.wait_for(|garbage| *garbage).await) };
                snapshots.take_until(Box::pin(hurt)).boxed()
            }
            Defect::BeginsWithAnOldSnapshot => {
                let first = self.first.lock().await.get(service).cloned();
                let first_of = Arc::clone(&self.first);
                stream::iter(first.map(Ok))
                    .chain(snapshots.then(move |snapshot| {
                        let first_of = Arc::clone(&first_of);
                        async move {
                            let snapshot = snapshot?;
                            first_of.lock().await.insert(snapshot.service().clone(), snapshot.clone());
                            Ok(snapshot)
                        }
                    }))
                    .boxed()
            }
            Defect::OneWatchOnly => {
                let mut ours = 0;
                self.watches.send_modify(|watches| {
                    *watches += 1;
                    ours = *watches;
                });
                let mut watches = self.watches.subscribe();
                let replaced = async move { drop(watches.wait_for(|newest| *newest > ours).await) };
                snapshots.take_until(Box::pin(replaced)).boxed()
            }
            _ => snapshots,
        };
        Ok(snapshots)
    }
}

impl Backend {
    /// The snapshot as this backend would have it.
    async fn distort(&self, snapshot: Snapshot) -> Result<Snapshot> {
        let service = snapshot.service().clone();
        let leaks = |name: &ServiceName| match self.defect {
            Defect::LeaksNamesThatBeginAlike => name.as_str().starts_with(service.as_str()),
            Defect::LeaksDeeperServices => name.as_str().starts_with(&format!("{service}/")),
            _ => false,
        };
        let mut instances = snapshot.iter().cloned().collect::<Vec<_>>();
        for name in self.registry.services(None).await?.iter().filter(|name| leaks(name)) {
            instances.extend(self.registry.resolve(name).await?.iter().cloned());
        }
        if self.defect == Defect::KnowsOneInstanceOnly {
            instances.truncate(1);
        }
        Ok(Snapshot::new(service, instances))
    }

    fn polled(&self, service: &ServiceName) -> SnapshotStream {
        let backend = Arc::new(Backend {
            registry: self.registry.clone(),
            defect: self.defect,
            leases: Arc::default(),
            garbage: self.garbage.clone(),
            cut: self.cut.clone(),
            watches: watch::Sender::new(0),
            seen: Arc::clone(&self.seen),
            first: Arc::clone(&self.first),
        });
        hither_core::poll_watch(backend, service.clone(), Duration::from_millis(1))
    }
}

#[async_trait]
impl Catalog for Backend {
    async fn services(&self, under: Option<&ServiceName>) -> Result<Vec<ServiceName>> {
        match self.defect {
            Defect::CatalogKnowsNothing => Ok(Vec::new()),
            Defect::CatalogIgnoresTheName => self.registry.services(None).await,
            Defect::CatalogNeverForgets => {
                let mut services = self.seen.lock().await.clone();
                services.sort();
                services.dedup();
                Ok(services)
            }
            _ => self.registry.services(under).await,
        }
    }
}

fn only(snapshots: SnapshotStream, is_sent: impl Fn(&Snapshot) -> bool + Send + 'static) -> SnapshotStream {
    snapshots.filter(move |snapshot| std::future::ready(snapshot.as_ref().map_or(true, &is_sent))).boxed()
}
