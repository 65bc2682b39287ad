//! A third-party backend: a registry that is a directory, with a file for each instance.
//!
//! It shows what there is to do for a registry that has neither leases nor watches nor transactions of its own:
//! - a lease is a time in the file, at which the record expires;
//! - a watch is core's [`poll_watch`];
//! - there is no compare-and-swap, so every write reads before it writes, and a concurrent write in between is lost. A
//!   registry that has one would use it;
//! - a missing file and a missing registry are the same error of the file system: before and after everything that may
//!   not be found the root is checked, so that a registry that is gone, or just back, never reads as an empty one.
//!
//! `examples/tests/custom_backend.rs` runs the conformance kit on it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{
    Catalog, Claim, Error, ErrorKind, Instance, InstanceId, Lease, Registrar, Registration, Resolver, Result,
    ServiceName, Snapshot, SnapshotStream, poll_watch,
};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// The interval at which a watch reads the directory.
const INTERVAL: Duration = Duration::from_millis(100);

/// A registry in a directory: a file `<root>/<service>/<id>` for each instance, names percent-encoded. A clone is the
/// same owner.
#[derive(Debug, Clone)]
pub struct DirectoryRegistry {
    root: PathBuf,
    owner: u64,
}

/// The content of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    owner: u64,
    lease: u64,
    /// When the record expires, in milliseconds since 1970: all processes on the machine read the same clock.
    until: u64,
    /// By core's feature `serde`, so that no field of an instance can be forgotten here.
    instance: Instance,
}

impl DirectoryRegistry {
    /// Returns a registry in the directory `root`, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), owner: fastrand::u64(..) }
    }

    fn folder(&self, service: &ServiceName) -> PathBuf {
        self.root.join(escaped(service.as_str()))
    }

    /// Returns the file of an instance.
    pub fn file(&self, service: &ServiceName, id: &InstanceId) -> PathBuf {
        self.folder(service).join(escaped(id.as_str()))
    }

    fn instances(&self, service: &ServiceName) -> Result<Vec<Arc<Instance>>> {
        // Before reading, because it may be back afterwards; and after it, so that a registry that disappears meanwhile is
        // an error and not a shorter list.
        check(&self.root)?;
        let folder = self.folder(service);
        let files = match names(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            files => files.map_err(|error| unavailable(&folder, error))?,
        };
        // A file that cannot be read as a record is skipped: it must not hide the others.
        let instance = |name: &String| {
            let record = read(&folder.join(name)).ok()??;
            let is_its_own = escaped(record.instance.id().as_str()) == *name;
            (record.is_live() && is_its_own).then(|| Arc::new(record.instance))
        };
        let instances = files.iter().filter_map(instance).collect();
        check(&self.root)?;
        Ok(instances)
    }
}

#[async_trait]
impl Registrar for DirectoryRegistry {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        let (service, instance) = (registration.service(), registration.instance());
        let (registry, folder, ttl) = (self.clone(), self.folder(service), registration.ttl());
        let file = HeldFile {
            root: self.root.clone(),
            path: self.file(service, instance.id()),
            owner: self.owner,
            lease: fastrand::u64(..),
            service: service.clone(),
            desired: Mutex::new(instance.clone()),
            state: Mutex::new(LeaseState { until: 0, ended: false }),
        };
        blocking(move || {
            check(&registry.root)?;
            // A file that cannot be decoded has no live owner, and is overwritten.
            let found = read(&file.path).ok().flatten().filter(Record::is_live);
            if claim == Claim::IfVacant && found.is_some_and(|record| record.owner != registry.owner) {
                return Err(superseded(&file.path));
            }
            // Not with its parents: the root is not ours to make.
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(unavailable(&folder, error));
                }
                _ => {}
            }
            let until = expiry(ttl);
            locked(&file.state).until = until;
            file.write(until)?;
            Ok(Box::new(FileLease { ttl, file: Arc::new(file) }) as Box<dyn Lease>)
        })
        .await
    }
}

#[async_trait]
impl Resolver for DirectoryRegistry {
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
        let (registry, service) = (self.clone(), service.clone());
        blocking(move || Ok(Snapshot::new(service.clone(), registry.instances(&service)?))).await
    }

    async fn watch(&self, service: &ServiceName) -> Result<SnapshotStream> {
        Ok(poll_watch(Arc::new(self.clone()), service.clone(), INTERVAL))
    }
}

#[async_trait]
impl Catalog for DirectoryRegistry {
    async fn services(&self, under: Option<&ServiceName>) -> Result<Vec<ServiceName>> {
        let (registry, under) = (self.clone(), under.cloned());
        blocking(move || {
            let mut services = BTreeSet::new();
            let folders = names(&registry.root).map_err(|error| unavailable(&registry.root, error))?;
            for folder in folders {
                let service = unescaped(&folder).and_then(|name| ServiceName::new(name).ok());
                let Some(service) = service else { continue };
                let wanted = under.as_ref().is_none_or(|under| service.is_under(under));
                if wanted && !registry.instances(&service)?.is_empty() {
                    services.insert(service);
                }
            }
            check(&registry.root)?;
            Ok(services.into_iter().collect())
        })
        .await
    }
}

/// The lease of one file, until the time in the file.
#[derive(Debug)]
struct FileLease {
    ttl: Duration,
    file: Arc<HeldFile>,
}

/// What a lease shares with its steps, which outlive a cancelled call.
#[derive(Debug)]
struct HeldFile {
    root: PathBuf,
    path: PathBuf,
    owner: u64,
    lease: u64,
    service: ServiceName,
    /// The desired content. A step writes what is desired when it runs: one that a cancelled call left behind cannot
    /// write older content over newer.
    desired: Mutex<Instance>,
    /// Locked during a step: one writes at a time.
    state: Mutex<LeaseState>,
}

#[derive(Debug)]
struct LeaseState {
    /// When the record expires.
    until: u64,
    ended: bool,
}

impl HeldFile {
    /// Writes the record to expire at `until`, if it is still ours to write.
    fn hold(&self, state: &mut LeaseState, until: u64) -> Result<()> {
        if state.ended || state.until <= now() {
            state.ended = true;
            let message = format!("{} has no live lease", self.path.display());
            return Err(Error::new(ErrorKind::LeaseExpired, message));
        }
        if let Ok(Some(record)) = read(&self.path)
            && record.lease != self.lease
            && record.is_live()
        {
            return Err(superseded(&self.path));
        }
        // Missing, changed, or undecodable: restored.
        state.until = until;
        self.write(until)
    }

    /// Writes the record atomically, so that a reader never sees half of it.
    fn write(&self, until: u64) -> Result<()> {
        let record =
            Record { owner: self.owner, lease: self.lease, until, instance: locked(&self.desired).clone() };
        let unwritable = |error| unavailable(&self.path, error);
        let text = serde_json::to_vec(&record).map_err(|error| unwritable(error.into()))?;
        // Readers skip it because of its name.
        let draft = self.path.with_file_name(format!(".{:x}", self.lease));
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, &self.path)).map_err(unwritable)
    }

    fn remove(&self) -> Result<()> {
        check(&self.root)?;
        match read(&self.path) {
            Ok(Some(record)) if record.lease == self.lease => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unavailable(&self.path, error)),
                _ => check(&self.root),
            },
            Ok(_) => check(&self.root),
            // Undecodable: not ours any more.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(()),
            Err(error) => Err(unavailable(&self.path, error)),
        }
    }
}

impl FileLease {
    /// Runs a step that blocks, beside the runtime.
    async fn step(
        &self,
        step: impl FnOnce(&HeldFile, &mut LeaseState) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let file = Arc::clone(&self.file);
        blocking(move || step(&file, &mut locked(&file.state))).await
    }
}

#[async_trait]
impl Lease for FileLease {
    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn renew(&mut self) -> Result<()> {
        let ttl = self.ttl;
        self.step(move |file, state| file.hold(state, expiry(ttl))).await
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        let (service, instance) = (registration.service(), registration.instance());
        let id = locked(&self.file.desired).id().clone();
        if self.file.service != *service || id != *instance.id() {
            let message = format!(
                "the lease is of {id} of {}, not of {} of {service}",
                self.file.service,
                instance.id()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        // Before the attempt: if its outcome stays unknown, the next call writes the new content.
        *locked(&self.file.desired) = instance.clone();
        self.step(|file, state| file.hold(state, state.until)).await
    }

    async fn revoke(&mut self) -> Result<()> {
        self.step(|file, state| {
            state.ended = true;
            file.remove()
        })
        .await
    }
}

impl Record {
    fn is_live(&self) -> bool {
        self.until > now()
    }
}

/// Fails if the registry is gone.
fn check(root: &Path) -> Result<()> {
    fs::metadata(root).map(drop).map_err(|error| unavailable(root, error))
}

/// Runs what blocks on a thread beside the runtime. Once begun it runs to its end, also if the caller was cancelled.
async fn blocking<T: Send + 'static>(step: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = tokio::task::spawn_blocking(step).await;
    ended.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Closed, "the runtime has shut down").with_source(error))
    })
}

/// A state behind this lock is replaced as a whole, so that a panic leaves it consistent.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the record in a file; `None` if there is no file.
fn read(file: &Path) -> io::Result<Option<Record>> {
    match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the names in a folder without drafts.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| !name.starts_with('.')).collect())
}

/// Any text as a file name.
fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn unescaped(name: &str) -> Option<String> {
    percent_decode_str(name).decode_utf8().ok().map(|text| text.into_owned())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn expiry(ttl: Duration) -> u64 {
    now().saturating_add(millis(ttl))
}

#[allow(clippy::disallowed_types, reason = "tokio's clock means nothing to another process")]
fn now() -> u64 {
    millis(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
}

fn unavailable(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, path.display().to_string()).with_source(error)
}

fn superseded(file: &Path) -> Error {
    Error::new(ErrorKind::Superseded, format!("{} has another owner", file.display()))
}
