//! A third-party backend: a registry that is a directory, with a file for each instance.
//!
//! It shows what there is to do for a registry that has neither leases nor watches nor transactions of its own:
//! - a lease is a line in the file that says until when the record counts;
//! - a watch is core's [`poll_watch`];
//! - there is no compare-and-swap, so every write reads before it writes, and whoever writes the same file in the
//!   moment between is lost. A registry that has one would use it.
//!
//! `examples/tests/custom_backend.rs` shows that it keeps what a backend must.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{
    Address, Catalog, Claim, Error, ErrorKind, Instance, InstanceId, InstanceState, Lease, Registrar,
    Registration, Resolver, Result, ServiceName, Snapshot, SnapshotStream, poll_watch,
};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// How often a watch looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// A registry in a directory: `<root>/<service>/<id>`, both percent-encoded. A clone is the same owner.
#[derive(Debug, Clone)]
pub struct DirectoryRegistry {
    root: PathBuf,
    owner: u64,
}

/// What stands in a file.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    owner: u64,
    lease: u64,
    /// Milliseconds since 1970: all processes on the machine read the same clock.
    until: u64,
    addresses: Vec<String>,
    weight: u32,
    zone: Option<String>,
    version: Option<String>,
    draining: bool,
    metadata: BTreeMap<String, String>,
}

impl DirectoryRegistry {
    /// A registry in `root`, which has to be there.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), owner: fastrand::u64(..) }
    }

    fn folder(&self, service: &ServiceName) -> PathBuf {
        self.root.join(escaped(service.as_str()))
    }

    /// The file of one instance.
    pub fn file(&self, service: &ServiceName, id: &InstanceId) -> PathBuf {
        self.folder(service).join(escaped(id.as_str()))
    }

    /// Nobody is registered, and the registry is gone: these are told apart.
    fn check(&self) -> Result<()> {
        fs::metadata(&self.root).map(drop).map_err(|error| unavailable(&self.root, error))
    }

    fn instances(&self, service: &ServiceName) -> Result<Vec<Arc<Instance>>> {
        self.check()?;
        let files = names(&self.folder(service))?;
        // A file that cannot be read as a record is skipped: it must not hide the others.
        let instance = |name: &String| {
            let record = read(&self.folder(service).join(name)).ok()??;
            record.instance(name).filter(|_| record.is_live()).map(Arc::new)
        };
        Ok(files.iter().filter_map(instance).collect())
    }
}

#[async_trait]
impl Registrar for DirectoryRegistry {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        let (service, instance) = (registration.service(), registration.instance());
        let mut lease = FileLease {
            owner: self.owner,
            id: fastrand::u64(..),
            service: service.clone(),
            instance: instance.clone(),
            ttl: registration.ttl(),
            file: self.file(service, instance.id()),
            until: 0,
            ended: false,
        };
        let folder = self.folder(service);
        let registry = self.clone();
        blocking(move || {
            registry.check()?;
            // What cannot be decoded is overwritten: nobody can live on it.
            let stands = read(&lease.file).ok().flatten().filter(Record::is_live);
            if claim == Claim::IfVacant && stands.is_some_and(|record| record.owner != registry.owner) {
                return Err(superseded(&lease.file));
            }
            fs::create_dir_all(&folder).map_err(|error| unavailable(&folder, error))?;
            lease.until = now().saturating_add(millis(lease.ttl));
            lease.write()?;
            Ok(Box::new(lease) as Box<dyn Lease>)
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
            for folder in names(&registry.root)? {
                let service = unescaped(&folder).and_then(|name| ServiceName::new(name).ok());
                let Some(service) = service else { continue };
                let wanted = under.as_ref().is_none_or(|under| service.is_under(under));
                if wanted && !registry.instances(&service)?.is_empty() {
                    services.insert(service);
                }
            }
            Ok(services.into_iter().collect())
        })
        .await
    }
}

/// The right to one file, until the time that stands in it.
#[derive(Debug, Clone)]
struct FileLease {
    owner: u64,
    id: u64,
    /// What the record is to say.
    service: ServiceName,
    instance: Instance,
    ttl: Duration,
    file: PathBuf,
    until: u64,
    ended: bool,
}

impl FileLease {
    /// Writes the record to count until then, if it is still ours to write.
    fn hold(&mut self, until: u64) -> Result<()> {
        if self.ended || self.until <= now() {
            self.ended = true;
            return Err(Error::new(
                ErrorKind::LeaseExpired,
                format!("the lease on {} is over", self.file.display()),
            ));
        }
        if let Ok(Some(record)) = read(&self.file)
            && record.lease != self.id
            && record.is_live()
        {
            return Err(superseded(&self.file));
        }
        // Missing, changed, or garbage: it is to say what we said.
        self.until = until;
        self.write()
    }

    /// In one step, so that nobody reads half a record.
    fn write(&self) -> Result<()> {
        let record = Record {
            owner: self.owner,
            lease: self.id,
            until: self.until,
            addresses: self.instance.addresses().iter().map(ToString::to_string).collect(),
            weight: self.instance.weight(),
            zone: self.instance.zone().map(str::to_owned),
            version: self.instance.version().map(str::to_owned),
            draining: self.instance.state() == InstanceState::Draining,
            metadata: self.instance.metadata().clone(),
        };
        let unwritable = |error| unavailable(&self.file, error);
        let text = serde_json::to_vec(&record).map_err(|error| unwritable(error.into()))?;
        // Hidden from readers by its name.
        let draft = self.file.with_file_name(format!(".{:x}", self.id));
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, &self.file)).map_err(unwritable)
    }

    /// Does a step on a copy of this lease, beside the runtime, and takes the copy over.
    async fn step(&mut self, step: impl FnOnce(&mut Self) -> Result<()> + Send + 'static) -> Result<()> {
        let mut lease = self.clone();
        let (lease, outcome) = blocking(move || {
            let outcome = step(&mut lease);
            Ok((lease, outcome))
        })
        .await?;
        *self = lease;
        outcome
    }
}

#[async_trait]
impl Lease for FileLease {
    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn renew(&mut self) -> Result<()> {
        self.step(|lease| lease.hold(now().saturating_add(millis(lease.ttl)))).await
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        let instance = registration.instance();
        if self.service != *registration.service() || self.instance.id() != instance.id() {
            let (ours, other) = (self.instance.id(), instance.id());
            let why = format!(
                "the lease is of {ours} of {}, not of {other} of {}",
                self.service,
                registration.service()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, why));
        }
        // Before the attempt: if its outcome stays unknown, the next call settles it in favour of the new.
        self.instance = instance.clone();
        self.step(|lease| lease.hold(lease.until)).await
    }

    async fn revoke(&mut self) -> Result<()> {
        self.step(|lease| {
            lease.ended = true;
            match read(&lease.file) {
                Ok(Some(record)) if record.lease == lease.id => match fs::remove_file(&lease.file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(unavailable(&lease.file, error))
                    }
                    _ => Ok(()),
                },
                _ => Ok(()),
            }
        })
        .await
    }
}

impl Record {
    fn is_live(&self) -> bool {
        self.until > now()
    }

    fn instance(&self, file: &str) -> Option<Instance> {
        let mut addresses = self.addresses.iter().map(|address| address.parse::<Address>());
        let mut instance = Instance::new(addresses.next()?.ok()?).with_weight(self.weight);
        let id = unescaped(file)?;
        if instance.id().as_str() != id {
            instance = instance.with_id(InstanceId::new(id).ok()?);
        }
        for address in addresses {
            instance = instance.with_address(address.ok()?);
        }
        if let Some(zone) = &self.zone {
            instance = instance.with_zone(zone.as_str());
        }
        if let Some(version) = &self.version {
            instance = instance.with_version(version.as_str());
        }
        if self.draining {
            instance = instance.with_state(InstanceState::Draining);
        }
        for (key, value) in &self.metadata {
            instance = instance.with_metadata(key, value);
        }
        Some(instance)
    }
}

/// Files block, so they are read beside the runtime. A step that has begun is finished also when nobody waits for it.
async fn blocking<T: Send + 'static>(step: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = tokio::task::spawn_blocking(step).await;
    ended.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Closed, "the runtime is shut down").with_source(error))
    })
}

/// The record in a file; `None` where there is no file.
fn read(file: &Path) -> io::Result<Option<Record>> {
    match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is in a folder, drafts left out; nothing where there is no folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unavailable(folder, error)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| !name.starts_with('.')).collect())
}

/// Anything as the name of one file.
fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn unescaped(name: &str) -> Option<String> {
    percent_decode_str(name).decode_utf8().ok().map(|text| text.into_owned())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[allow(clippy::disallowed_types, reason = "tokio's clock means nothing to another process")]
fn now() -> u64 {
    millis(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
}

fn unavailable(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, path.display().to_string()).with_source(error)
}

fn superseded(file: &Path) -> Error {
    Error::new(ErrorKind::Superseded, format!("{} belongs to somebody else", file.display()))
}
