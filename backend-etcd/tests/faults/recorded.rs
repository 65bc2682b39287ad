//! A record of everything that registration and watcher receive.

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use futures_util::StreamExt;
use hither_core::{
    Claim, Lease, Registrar, Registration, Resolver, Result, ServiceName, Snapshot, SnapshotStream, Update,
    WatcherConfig, watcher,
};
use hither_etcd::EtcdRegistry;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// All that a watcher has published, and all that it has received.
pub(crate) struct Seen {
    told: Arc<Mutex<Told>>,
    latest: watch::Receiver<Option<(Instant, Update)>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Each that crossed the trait.
    pub(crate) snapshots: Vec<Snapshot>,
    /// Each with the number of snapshots received by then.
    pub(crate) updates: Vec<(usize, Update)>,
}

impl Seen {
    pub(crate) fn through(registry: EtcdRegistry, service: &ServiceName) -> Self {
        let told = Arc::<Mutex<Told>>::default();
        let resolver = Recorded { registry, told: Arc::clone(&told) };
        let mut updates = Box::pin(watcher(resolver, service.clone(), WatcherConfig::default()));
        let (sender, latest) = watch::channel(None);
        let record = Arc::clone(&told);
        let task = tokio::spawn(async move {
            while let Some(update) = updates.next().await {
                {
                    let mut told = record.lock().unwrap();
                    let heard = told.snapshots.len();
                    told.updates.push((heard, update.clone()));
                }
                sender.send_replace(Some((Instant::now(), update)));
            }
        });
        Self { told, latest, task }
    }

    pub(crate) fn last(&self) -> Update {
        self.latest.borrow().as_ref().unwrap().1.clone()
    }

    pub(crate) async fn comes_to(&self, is_so: impl Fn(&Update) -> bool) -> Update {
        let mut latest = self.latest.clone();
        let found = latest.wait_for(|latest| latest.as_ref().is_some_and(|(_, update)| is_so(update)));
        found.await.unwrap().as_ref().unwrap().1.clone()
    }

    /// Since when it shows what it shows.
    pub(crate) fn since(&self) -> Instant {
        self.latest.borrow().as_ref().unwrap().0
    }
}

impl Seen {
    /// All of it so far.
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Writes down every snapshot that crosses the trait, also those that the watcher coalesces.
#[derive(Debug)]
struct Recorded {
    registry: EtcdRegistry,
    told: Arc<Mutex<Told>>,
}

#[async_trait]
impl Resolver for Recorded {
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
        self.registry.resolve(service).await
    }

    async fn watch(&self, service: &ServiceName) -> Result<SnapshotStream> {
        let told = Arc::clone(&self.told);
        let watch = self.registry.watch(service).await?;
        Ok(Box::pin(watch.inspect(move |snapshot| {
            if let Ok(snapshot) = snapshot {
                told.lock().unwrap().snapshots.push(snapshot.clone());
            }
        })))
    }
}

/// Writes down when etcd confirmed the registration.
#[derive(Debug)]
pub(crate) struct Confirmed {
    registry: EtcdRegistry,
    at: watch::Sender<Vec<Instant>>,
}

impl Confirmed {
    pub(crate) fn by(registry: EtcdRegistry) -> (Self, watch::Receiver<Vec<Instant>>) {
        let (at, confirmed) = watch::channel(Vec::new());
        (Self { registry, at }, confirmed)
    }
}

#[async_trait]
impl Registrar for Confirmed {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        let lease = self.registry.register(registration, claim).await?;
        self.at.send_modify(|at| at.push(Instant::now()));
        Ok(Box::new(ConfirmedLease { lease, at: self.at.clone() }))
    }
}

#[derive(Debug)]
struct ConfirmedLease {
    lease: Box<dyn Lease>,
    at: watch::Sender<Vec<Instant>>,
}

#[async_trait]
impl Lease for ConfirmedLease {
    fn ttl(&self) -> Duration {
        self.lease.ttl()
    }

    async fn renew(&mut self) -> Result<()> {
        // A response to an earlier request proves nothing about now.
        let asked = Instant::now();
        self.lease.renew().await?;
        self.at.send_modify(|at| at.push(asked));
        Ok(())
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        self.lease.update(registration).await
    }

    async fn revoke(&mut self) -> Result<()> {
        self.lease.revoke().await
    }
}
