//! Resolving, watching and listing services, with a defect.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hither_core::{Catalog, ErrorKind, Resolver, Result, ServiceName, Snapshot, SnapshotStream, poll_watch};
use hither_memory::Operation;

use crate::defect::Defect;
use crate::harness::{Backend, defect, is_no_response};

/// Longer than the kit lets a call block its thread.
const BLOCKED: Duration = Duration::from_millis(10_100);

#[async_trait]
impl Resolver for Backend {
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
        let cached = self.last.lock().await.iter().find(|snapshot| snapshot.service() == service).cloned();
        if self.scene.defect == Defect::BlocksItsThread && self.scene.is_silent() && cached.is_none() {
            #[allow(clippy::disallowed_methods, reason = "it is the defect")]
            std::thread::sleep(BLOCKED);
            return Err(defect(ErrorKind::Timeout));
        }
        if let Some(cached) = cached.clone().filter(|_| self.scene.defect == Defect::CachesForEver) {
            return Ok(cached);
        }
        let turn = match self.scene.defect {
            Defect::SerializesItsCalls => Some(self.turn.acquire().await),
            Defect::LeaksItsTurnWhenCancelled => {
                self.turn.acquire().await.unwrap().forget();
                None
            }
            _ => None,
        };
        let result =
            self.scene.call(Operation::Resolve, || async { self.registry.resolve(service).await }).await;
        drop(turn);
        if self.scene.defect == Defect::LeaksItsTurnWhenCancelled {
            self.turn.add_permits(1);
        }
        let snapshot = match (self.scene.defect, result) {
            (Defect::ResolvesToNothing | Defect::Worst, Err(_)) => return Ok(empty(service)),
            (Defect::ResolvesToTheLastList, Err(error)) => return cached.ok_or(error),
            (_, result) => result?,
        };
        let mut last = self.last.lock().await;
        last.retain(|snapshot| snapshot.service() != service);
        last.push(snapshot.clone());
        drop(last);
        match self.scene.defect {
            Defect::FailsOnAnUnknownService if snapshot.is_empty() => Err(defect(ErrorKind::InvalidArgument)),
            Defect::FailsOnGarbage if *self.scene.garbage.borrow() => Err(defect(ErrorKind::InvalidData)),
            Defect::FindsNoInstance => Ok(empty(service)),
            Defect::NamesAnotherService => renamed(&snapshot),
            _ => self.distort(snapshot).await,
        }
    }

    async fn watch(&self, service: &ServiceName) -> Result<SnapshotStream> {
        let nothing = empty(service);
        let watch = || async { self.registry.watch(service).await };
        let snapshots = match (self.scene.defect, self.scene.call(Operation::Watch, watch).await) {
            (Defect::WatchBeginsEmpty | Defect::Worst, Err(error)) if is_no_response(&error) => {
                return Ok(stream::iter([Ok(nothing)]).chain(stream::pending()).boxed());
            }
            (_, snapshots) => snapshots?,
        };
        Ok(match self.scene.defect {
            Defect::IncludesServicesWithTheSamePrefix
            | Defect::IncludesServicesBelow
            | Defect::ReturnsOneInstanceOnly
            | Defect::ReturnsOnePageOnly
            | Defect::FailsOnGarbage => self.polled(service),
            Defect::NamesAnotherService => {
                snapshots.map(|snapshot| snapshot.and_then(|snapshot| renamed(&snapshot))).boxed()
            }
            Defect::NeverSendsAnEmptySnapshot => only(snapshots, |snapshot: &Snapshot| !snapshot.is_empty()),
            Defect::SkipsTheCurrentState => snapshots.skip(1).boxed(),
            Defect::SilentAfterTheFirstSnapshot => snapshots.take(1).chain(stream::pending()).boxed(),
            Defect::SilentAfterASecond => snapshots
                .take_until(Box::pin(tokio::time::sleep(Duration::from_secs(1))))
                .chain(stream::pending())
                .boxed(),
            Defect::MissesExpiries => {
                let most = Arc::new(AtomicUsize::new(0));
                only(snapshots, move |snapshot: &Snapshot| {
                    let before = most.fetch_max(snapshot.len(), Ordering::Relaxed);
                    snapshot.len() >= before
                })
            }
            Defect::SurvivesTheConnection => snapshots
                .take_while(|snapshot| std::future::ready(snapshot.is_ok()))
                .chain(stream::pending())
                .boxed(),
            Defect::NoDeadlineOfAnOpenWatch | Defect::Worst => snapshots
                .flat_map(|snapshot| match snapshot {
                    Err(error) if error.kind() == ErrorKind::Timeout => stream::pending().boxed(),
                    snapshot => stream::iter([snapshot]).boxed(),
                })
                .boxed(),
            Defect::WatchBecomesEmpty => {
                snapshots.map(move |snapshot| snapshot.or_else(|_| Ok(nothing.clone()))).boxed()
            }
            Defect::WatchContinuesAfterItsError => snapshots.chain(stream::iter([Ok(nothing)])).boxed(),
            Defect::SilentAfterACut if *self.scene.cut.borrow() => stream::pending().boxed(),
            Defect::EndsAtGarbage => {
                let mut garbage = self.scene.garbage.subscribe();
                let met = async move { drop(garbage.wait_for(|garbage| *garbage).await) };
                snapshots.take_until(Box::pin(met)).boxed()
            }
            Defect::BeginsWithAnOldSnapshot => {
                let old =
                    self.watched.lock().await.iter().find(|snapshot| snapshot.service() == service).cloned();
                let watched = Arc::clone(&self.watched);
                let remembered = snapshots.then(move |snapshot| {
                    let watched = Arc::clone(&watched);
                    async move {
                        let snapshot = snapshot?;
                        watched.lock().await.push(snapshot.clone());
                        Ok(snapshot)
                    }
                });
                stream::iter(old.map(Ok)).chain(remembered).boxed()
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
        })
    }
}

impl Backend {
    /// The snapshot as this backend returns it.
    async fn distort(&self, snapshot: Snapshot) -> Result<Snapshot> {
        let service = snapshot.service().clone();
        let includes = |name: &ServiceName| match self.scene.defect {
            Defect::IncludesServicesWithTheSamePrefix => name.as_str().starts_with(service.as_str()),
            Defect::IncludesServicesBelow => name.as_str().starts_with(&format!("{service}/")),
            _ => false,
        };
        let mut instances: Vec<_> = snapshot.iter().cloned().collect();
        for name in self.registry.services(None).await?.iter().filter(|name| includes(name)) {
            instances.extend(self.registry.resolve(name).await?.iter().cloned());
        }
        match self.scene.defect {
            Defect::ReturnsOneInstanceOnly => instances.truncate(1),
            Defect::ReturnsOnePageOnly => instances.truncate(100),
            _ => {}
        }
        Ok(Snapshot::new(service, instances))
    }

    fn polled(&self, service: &ServiceName) -> SnapshotStream {
        let backend = Arc::new(Backend::new(&self.scene, self.registry.clone()));
        poll_watch(backend, service.clone(), Duration::from_millis(20))
    }
}

#[async_trait]
impl Catalog for Backend {
    async fn services(&self, under: Option<&ServiceName>) -> Result<Vec<ServiceName>> {
        let list = || async { self.registry.services(under).await };
        match self.scene.defect {
            Defect::CatalogIsEmpty => Ok(Vec::new()),
            Defect::CatalogIgnoresTheName => self.registry.services(None).await,
            Defect::CatalogNeverForgets => {
                let mut services = self.scene.seen.lock().await.clone();
                services.sort();
                services.dedup();
                Ok(services)
            }
            Defect::ListsNoServices | Defect::Worst => {
                Ok(self.scene.call(Operation::Services, list).await.unwrap_or_default())
            }
            _ => self.scene.call(Operation::Services, list).await,
        }
    }
}

fn only(snapshots: SnapshotStream, is_sent: impl Fn(&Snapshot) -> bool + Send + 'static) -> SnapshotStream {
    snapshots.filter(move |snapshot| std::future::ready(snapshot.as_ref().map_or(true, &is_sent))).boxed()
}

fn empty(service: &ServiceName) -> Snapshot {
    Snapshot::new(service.clone(), [])
}

fn renamed(snapshot: &Snapshot) -> Result<Snapshot> {
    let name = ServiceName::new(format!("{}-other", snapshot.service()))?;
    Ok(Snapshot::new(name, snapshot.iter().cloned()))
}
