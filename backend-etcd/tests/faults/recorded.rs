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
pub(crate) struct Recorder {
    recording: Arc<Mutex<Recording>>,
    latest: watch::Receiver<Option<(Instant, Update)>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
pub(crate) struct Recording {
    /// Each that crossed the trait.
    pub(crate) snapshots: Vec<Snapshot>,
    /// Each with the number of snapshots received by then.
    pub(crate) updates: Vec<(usize, Update)>,
}

impl Recorder {
    pub(crate) fn through(registry: EtcdRegistry, service: &ServiceName) -> Self {
        let recording = Arc::<Mutex<Recording>>::default();
        let resolver = RecordingResolver { registry, recording: Arc::clone(&recording) };
        let mut updates = Box::pin(watcher(resolver, service.clone(), WatcherConfig::default()));
        let (sender, latest) = watch::channel(None);
        let shared = Arc::clone(&recording);
        let task = tokio::spawn(async move {
            while let Some(update) = updates.next().await {
                {
                    let mut recording = shared.lock().unwrap();
                    let received = recording.snapshots.len();
                    recording.updates.push((received, update.clone()));
                }
                sender.send_replace(Some((Instant::now(), update)));
            }
        });
        Self { recording, latest, task }
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

impl Recorder {
    /// All of it so far.
    pub(crate) fn recording(&self) -> MutexGuard<'_, Recording> {
        self.recording.lock().unwrap()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Records every snapshot that crosses the trait, also those that the watcher coalesces.
#[derive(Debug)]
struct RecordingResolver {
    registry: EtcdRegistry,
    recording: Arc<Mutex<Recording>>,
}

#[async_trait]
impl Resolver for RecordingResolver {
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
        self.registry.resolve(service).await
    }

    async fn watch(&self, service: &ServiceName) -> Result<SnapshotStream> {
        let recording = Arc::clone(&self.recording);
        let watch = self.registry.watch(service).await?;
        Ok(Box::pin(watch.inspect(move |snapshot| {
            if let Ok(snapshot) = snapshot {
                recording.lock().unwrap().snapshots.push(snapshot.clone());
            }
        })))
    }
}

/// Records when etcd confirmed the registration.
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
