//! The last snapshot of each service on disk, for a client that starts while the registry is down.

use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind as IoErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::watcher::watcher_from;
use super::{Freshness, Update, WatcherConfig};
use crate::{Error, ErrorKind, Instance, Resolver, ServiceName, Snapshot, SortedById};

/// Older files are ignored: they do not show where servers are now.
const OLDEST: Duration = Duration::from_secs(24 * 3600);

/// The shortest time between two writes of a service that changes.
const PAUSE: Duration = Duration::from_secs(5);

/// The time between two writes of a service that does not change: the file has the time of the last confirmation.
const CONFIRM: Duration = Duration::from_secs(3600);

/// The version of the file format.
const FORM: u64 = 2;

/// A directory with a file for each service.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    directory: Arc<Path>,
}

/// The content of a file.
#[derive(Debug, Clone)]
pub(super) struct Cached {
    pub(super) snapshot: Snapshot,
    /// Since when the registry has not confirmed it.
    pub(super) age: Duration,
}

impl Cached {
    fn into_update(self, service: &ServiceName) -> Update {
        let why = format!("{service} has not been resolved yet; its instances were read from disk");
        let cause = Error::new(ErrorKind::Unavailable, why).with_operation("watch");
        let freshness = Freshness::Stale { since: Instant::now(), age: self.age, cause };
        Update { snapshot: Some(self.snapshot), held: SortedById::new(), freshness }
    }
}

impl Cache {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory: directory.into() }
    }

    /// Publishes each update of a service, beginning with what its file has, and keeps the file up to date. Never ends.
    pub(super) async fn follow(
        self,
        resolver: Arc<dyn Resolver>,
        service: ServiceName,
        config: WatcherConfig,
        sender: watch::Sender<Update>,
    ) {
        let known = self.load(&service).await.map(|cached| cached.into_update(&service));
        let mut writer = self.writer(&service);
        let mut updates = std::pin::pin!(watcher_from(resolver, service, config, known));
        loop {
            let update = tokio::select! {
                update = updates.next() => update,
                () = writer.write() => continue,
            };
            let Some(update) = update else { return };
            writer.note(&update);
            sender.send_replace(update).discard().await;
        }
    }

    /// What is known of `service`: nothing, where there is no file, or none that can be used.
    pub(super) async fn load(&self, service: &ServiceName) -> Option<Cached> {
        let (file, of) = (self.file(service), service.clone());
        let read = spawn_blocking(move || match fs::read(&file) {
            Ok(bytes) => match decode(&bytes, &of) {
                Ok(cached) => Some(cached),
                Err(why) => {
                    tracing::warn!(file = %file.display(), cause = why, "cached snapshot unusable; ignored");
                    None
                }
            },
            Err(error) if error.kind() == IoErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %file.display(), cause = %error, "cached snapshot unreadable; ignored");
                None
            }
        });
        read.await.ok().flatten()
    }

    /// Returns the writer of the file of `service`.
    pub(super) fn writer(&self, service: &ServiceName) -> CacheWriter {
        CacheWriter {
            file: self.file(service),
            latest: None,
            changed: false,
            due: None,
            earliest: Instant::now(),
            writing: None,
        }
    }

    fn file(&self, service: &ServiceName) -> PathBuf {
        self.directory.join(file_name(service))
    }
}

/// Keeps the file of one service up to date, with few writes.
#[derive(Debug)]
pub(super) struct CacheWriter {
    file: PathBuf,
    latest: Option<Snapshot>,
    /// Since the last write.
    changed: bool,
    due: Option<Instant>,
    earliest: Instant,
    /// A write cannot be stopped half-way; one that is dropped ends by itself.
    writing: Option<JoinHandle<()>>,
}

impl CacheWriter {
    /// Notes the newest state.
    pub(super) fn note(&mut self, update: &Update) {
        if !update.freshness.is_fresh() {
            // There is nothing to confirm now; but an earlier change is still written.
            self.due = self.due.filter(|_| self.changed);
            return;
        }
        // While instances are held, the registry may have lost them: the snapshot on disk is the better one.
        let Some(snapshot) = update.snapshot.as_ref().filter(|_| update.held.is_empty()) else { return };
        self.latest = Some(snapshot.clone());
        self.changed = true;
        self.due = Some(self.earliest.max(Instant::now()));
    }

    /// Waits until a write is due, and starts it.
    ///
    /// # Cancellation
    /// Safe: a write that was started goes on, and the next call waits for it.
    pub(super) async fn write(&mut self) {
        if let Some(writing) = &mut self.writing {
            let _ = writing.await;
            self.writing = None;
        }
        let Some(due) = self.due else { return std::future::pending().await };
        sleep_until(due).await;
        let now = Instant::now();
        (self.earliest, self.due, self.changed) = (now + PAUSE, Some(now + CONFIRM), false);
        if let Some(snapshot) = &self.latest {
            let (file, snapshot) = (self.file.clone(), snapshot.clone());
            self.writing = Some(spawn_blocking(move || {
                if let Err(error) = encode(&snapshot).and_then(|bytes| replace(&file, &bytes)) {
                    tracing::warn!(file = %file.display(), cause = %error, "snapshot not cached");
                }
            }));
        }
    }
}

/// Replaces a file atomically: readers find the old one or the new one, also when the machine stops half-way.
fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let Some(directory) = file.parent() else { return Ok(()) };
    fs::create_dir_all(directory)?;
    // Several processes may share the directory, also those of containers, which all have the same process id.
    let part = file.with_extension(format!("{:016x}.part", fastrand::u64(..)));
    let written = fs::File::create(&part).and_then(|mut part| {
        part.write_all(bytes)?;
        part.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&part, file));
    if replaced.is_err() {
        let _ = fs::remove_file(&part);
    }
    replaced
}

/// The file name of a service, valid on every system: no two services share one, whatever the case.
fn file_name(service: &ServiceName) -> String {
    let mut name = String::new();
    for byte in service.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            byte => {
                let _ = write!(name, "%{byte:02x}");
            }
        }
    }
    if name.len() > 200 {
        // File systems end at 255. Another hash in another release only means that the file is not found.
        let mut hasher = DefaultHasher::new();
        service.hash(&mut hasher);
        name.truncate(180);
        let _ = write!(name, "~{:016x}", hasher.finish());
    }
    name + ".json"
}

#[derive(Serialize, Deserialize)]
struct File {
    /// The version of this form.
    hither: u64,
    service: ServiceName,
    /// Seconds since 1970.
    confirmed: u64,
    instances: Vec<Arc<Instance>>,
}

fn encode(snapshot: &Snapshot) -> std::io::Result<Vec<u8>> {
    let file = File {
        hither: FORM,
        service: snapshot.service().clone(),
        confirmed: unix_time(),
        instances: snapshot.iter().cloned().collect(),
    };
    Ok(serde_json::to_vec(&file)?)
}

/// The content of a file for `service`, or why it cannot be used.
fn decode(bytes: &[u8], service: &ServiceName) -> Result<Cached, &'static str> {
    #[derive(Deserialize)]
    struct Form {
        hither: u64,
    }
    let form: Form = serde_json::from_slice(bytes).map_err(|_| "it is damaged")?;
    if form.hither != FORM {
        return Err("it is of another form");
    }
    let file: File = serde_json::from_slice(bytes).map_err(|_| "it is damaged")?;
    if file.service != *service {
        return Err("it is of another service");
    }
    // A clock that was set back since makes it new.
    let age = Duration::from_secs(unix_time().saturating_sub(file.confirmed));
    if age > OLDEST {
        return Err("it is too old");
    }
    if file.instances.is_empty() {
        return Err("it has no instances");
    }
    // Without a revision: the file was read from another process's registry handle, and proves nothing about ours.
    Ok(Cached { snapshot: Snapshot::new(service.clone(), file.instances), age })
}

/// Seconds since 1970, the only clock that two processes share.
#[allow(
    clippy::disallowed_types,
    reason = "tokio's clock ends with the process; jumps of this one are allowed for"
)]
fn unix_time() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InstanceState, Revision};

    fn service(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    fn snapshot() -> Snapshot {
        let full = Instance::new("10.0.0.1:80".parse().unwrap())
            .with_id("one".parse().unwrap())
            .with_address("[::1]:80".parse().unwrap())
            .with_weight(3)
            .with_zone("eu-1a")
            .with_version("1.2")
            .with_state(InstanceState::Draining)
            .with_metadata("a", "\"\u{0}é");
        let plain = Instance::new("unix:///run/a.sock".parse().unwrap());
        Snapshot::new(service("a/B"), [full, plain].map(Arc::new))
    }

    #[test]
    fn a_snapshot_survives_the_file() {
        let written = encode(&snapshot().with_revision(Revision::new("7"))).unwrap();
        let read = decode(&written, &service("a/B")).unwrap();
        assert_eq!(read.snapshot, snapshot());
        assert!(read.age < Duration::from_secs(60));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_with_the_reason() {
        let written = String::from_utf8(encode(&snapshot()).unwrap()).unwrap();
        let confirmed = format!("\"confirmed\":{}", unix_time());
        let at = |time: u64| written.replace(&confirmed, &format!("\"confirmed\":{time}"));
        for (file, why) in [
            (String::new(), "damaged"),
            (written.replace("\"hither\":2", "\"hither\":1"), "another form"),
            (written.replace("a/B", "a/C"), "another service"),
            (written.replace(&confirmed, "\"confirmed\":-1"), "damaged"),
            (at(unix_time() - 24 * 3600 - 60), "too old"),
            (written.replace("10.0.0.1:80", "nowhere"), "damaged"),
            (String::from_utf8(encode(&Snapshot::new(service("a/B"), [])).unwrap()).unwrap(), "no instances"),
        ] {
            let refused = decode(file.as_bytes(), &service("a/B")).unwrap_err();
            assert!(refused.contains(why), "{why}: {refused}");
        }
        let day_old = decode(at(unix_time() - 23 * 3600).as_bytes(), &service("a/B")).unwrap();
        assert!(day_old.age >= Duration::from_secs(23 * 3600));
        let of_tomorrow = decode(at(unix_time() + 24 * 3600).as_bytes(), &service("a/B")).unwrap();
        assert_eq!(of_tomorrow.age, Duration::ZERO, "the clock was set back");
    }

    #[test]
    fn truncated_and_damaged_files_are_refused() {
        let written = encode(&snapshot()).unwrap();
        for length in 0..written.len() {
            assert!(decode(&written[..length], &service("a/B")).is_err(), "{length}");
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut damaged = written.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..damaged.len());
                damaged[at] = random.u8(..);
            }
            if let Ok(read) = decode(&damaged, &service("a/B")) {
                assert_eq!(*read.snapshot.service(), service("a/B"));
            }
        }
    }

    #[test]
    fn concurrent_writers_never_leave_half_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("svc.json");
        let contents = [vec![b'a'; 100_000], vec![b'b'; 10]];
        replace(&file, &contents[0]).unwrap();
        std::thread::scope(|scope| {
            for content in &contents {
                scope.spawn(|| (0..50).for_each(|_| replace(&file, content).unwrap()));
            }
            for _ in 0..500 {
                assert!(contents.contains(&fs::read(&file).unwrap()));
            }
        });
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn each_service_has_its_own_file_inside_the_directory() {
        let long = "x".repeat(300);
        let names = ["a", "A", "a/b", "a%2fb", "..", ".", "a.json", "é", &long, &format!("{long}y")];
        let files: std::collections::BTreeSet<_> =
            names.iter().map(|name| file_name(&service(name)).to_lowercase()).collect();
        assert_eq!(files.len(), names.len());
        for file in files {
            assert!(file.len() < 240 && !file.contains(['/', '\\', ':']) && !file.starts_with('.'), "{file}");
        }
    }
}
