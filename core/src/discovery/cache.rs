//! The last snapshot of each service on disk: what a client that starts in an outage begins with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind as IoErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::Update;
use crate::{Address, Instance, InstanceId, InstanceState, ServiceName, Snapshot};

/// What is older says nothing about where servers are now.
const OLDEST: Duration = Duration::from_secs(24 * 3600);

/// Between two writes of a service that changes.
const PAUSE: Duration = Duration::from_secs(5);

/// Between two writes of a service that does not: the file says when the registry last confirmed it.
const CONFIRM: Duration = Duration::from_secs(3600);

/// The form of the files.
const FORM: u64 = 1;

/// A directory with a file for each service.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    directory: Arc<Path>,
}

/// What a file had.
#[derive(Debug, Clone)]
pub(crate) struct Cached {
    pub(crate) snapshot: Snapshot,
    /// How long ago the registry said so.
    pub(crate) age: Duration,
}

impl Cache {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory: directory.into() }
    }

    /// What is known of `service`: nothing, where there is no file, or none that can be used.
    pub(crate) async fn load(&self, service: &ServiceName) -> Option<Cached> {
        let (file, of) = (self.file(service), service.clone());
        let read = spawn_blocking(move || match fs::read(&file) {
            Ok(bytes) => match decode(&bytes, &of) {
                Ok(cached) => Some(cached),
                Err(why) => {
                    tracing::warn!(file = %file.display(), why, "a cached snapshot cannot be used");
                    None
                }
            },
            Err(error) if error.kind() == IoErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "a cached snapshot cannot be read");
                None
            }
        });
        read.await.ok().flatten()
    }

    /// What keeps the file of `service` up to date.
    pub(crate) fn keeper(&self, service: &ServiceName) -> Keeper {
        Keeper {
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

/// Keeps the file of one service up to date: writes when something has changed, but not all the time.
#[derive(Debug)]
pub(crate) struct Keeper {
    file: PathBuf,
    latest: Option<Snapshot>,
    /// Since the last write.
    changed: bool,
    due: Option<Instant>,
    earliest: Instant,
    /// It cannot be stopped half-way, and whoever drops it lets it end by itself.
    writing: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Takes in what is known now.
    pub(crate) fn note(&mut self, update: &Update) {
        if !update.freshness.is_fresh() {
            // Nothing is confirmed any more; but what has changed before is still written.
            self.due = self.due.filter(|_| self.changed);
            return;
        }
        // While instances are held, the registry may have lost them: what was written before is better.
        let Some(snapshot) = update.snapshot.as_ref().filter(|_| update.held.is_empty()) else { return };
        self.latest = Some(snapshot.clone());
        self.changed = true;
        self.due = Some(self.earliest.max(Instant::now()));
    }

    /// Waits until there is something to write, and writes it.
    ///
    /// # Cancellation
    /// Safe: what has begun goes on, and is waited for the next time.
    pub(crate) async fn write(&mut self) {
        if let Some(writing) = &mut self.writing {
            let _ = writing.await;
            self.writing = None;
        }
        let Some(due) = self.due else { return std::future::pending().await };
        sleep_until(due).await;
        let now = Instant::now();
        (self.earliest, self.due, self.changed) = (now + PAUSE, Some(now + CONFIRM), false);
        if let Some(snapshot) = &self.latest {
            let (file, bytes) = (self.file.clone(), encode(snapshot));
            self.writing = Some(spawn_blocking(move || {
                if let Err(error) = replace(&file, &bytes) {
                    tracing::warn!(file = %file.display(), %error, "a snapshot cannot be cached");
                }
            }));
        }
    }
}

/// Readers find the old file or the new one, never a part: also when the machine stops half-way.
fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let Some(directory) = file.parent() else { return Ok(()) };
    fs::create_dir_all(directory)?;
    // Several processes may share the directory, also those of containers, where all have the same id.
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

/// The name of a service as one of a file, on every system: no two services have the same, whatever the case.
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

fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let instances: Vec<Value> =
        snapshot.instances().iter().map(|instance| encode_instance(instance)).collect();
    let value = json!({
        "hither": FORM,
        "service": snapshot.service().as_str(),
        "confirmed": unix_time(),
        "instances": instances,
    });
    value.to_string().into_bytes()
}

fn encode_instance(instance: &Instance) -> Value {
    json!({
        "id": instance.id().as_str(),
        "addresses": instance.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "weight": instance.weight(),
        "zone": instance.zone(),
        "version": instance.version(),
        "draining": instance.state() == InstanceState::Draining,
        "metadata": instance.metadata(),
    })
}

/// What a file says about `service`, or why it is of no use.
fn decode(bytes: &[u8], service: &ServiceName) -> Result<Cached, &'static str> {
    let file: Map<String, Value> = serde_json::from_slice(bytes).map_err(|_| "it is damaged")?;
    if file.get("hither").and_then(Value::as_u64) != Some(FORM) {
        return Err("it is of another form");
    }
    if file.get("service").and_then(Value::as_str) != Some(service.as_str()) {
        return Err("it is of another service");
    }
    let confirmed = file.get("confirmed").and_then(Value::as_u64).ok_or("it does not say when")?;
    // A clock that was set back since makes it new.
    let age = Duration::from_secs(unix_time().saturating_sub(confirmed));
    if age > OLDEST {
        return Err("it is too old");
    }
    let instances = file.get("instances").and_then(Value::as_array).ok_or("it has no instances")?;
    let instances: Option<Vec<_>> = instances.iter().map(decode_instance).collect();
    let instances = instances.filter(|instances| !instances.is_empty()).ok_or("it has no instances")?;
    // Without a revision, from which a backend would go on: what the file says may have been read by other rules.
    let snapshot = Snapshot::new(service.clone(), instances.into_iter().map(Arc::new));
    Ok(Cached { snapshot, age })
}

fn decode_instance(value: &Value) -> Option<Instance> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let addresses = value.get("addresses")?.as_array()?.iter();
    let mut addresses = addresses.map(|address| address.as_str()?.parse::<Address>().ok());
    let mut instance = Instance::new(addresses.next()??).with_id(InstanceId::nested(text("id")?).ok()?);
    for address in addresses {
        instance = instance.with_address(address?);
    }
    instance = instance.with_weight(u32::try_from(value.get("weight")?.as_u64()?).ok()?);
    if let Some(zone) = text("zone") {
        instance = instance.with_zone(zone);
    }
    if let Some(version) = text("version") {
        instance = instance.with_version(version);
    }
    if value.get("draining")?.as_bool()? {
        instance = instance.with_state(InstanceState::Draining);
    }
    let metadata: BTreeMap<_, _> = value.get("metadata")?.as_object()?.iter().collect();
    metadata.into_iter().try_fold(instance, |instance, (key, value)| {
        Some(instance.with_metadata(key.as_str(), value.as_str()?))
    })
}

/// Seconds since 1970: what is written in one process and read in another has no other clock.
#[allow(clippy::disallowed_types, reason = "tokio's clock ends with the process; a jump is provided for")]
fn unix_time() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Revision;

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
    fn what_is_written_is_read_again() {
        let written = encode(&snapshot().with_revision(Revision::new("7")));
        let read = decode(&written, &service("a/B")).unwrap();
        assert_eq!(read.snapshot, snapshot());
        assert!(read.age < Duration::from_secs(60));
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let written = String::from_utf8(encode(&snapshot())).unwrap();
        let confirmed = format!("\"confirmed\":{}", unix_time());
        let at = |time: u64| written.replace(&confirmed, &format!("\"confirmed\":{time}"));
        for (file, why) in [
            (String::new(), "damaged"),
            (written.replace("\"hither\":1", "\"hither\":2"), "another form"),
            (written.replace("a/B", "a/C"), "another service"),
            (written.replace(&confirmed, "\"confirmed\":-1"), "does not say when"),
            (at(unix_time() - 24 * 3600 - 60), "too old"),
            (written.replace("10.0.0.1:80", "nowhere"), "no instances"),
            (String::from_utf8(encode(&Snapshot::new(service("a/B"), []))).unwrap(), "no instances"),
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
    fn no_part_of_a_file_panics_or_is_taken_for_the_whole() {
        let written = encode(&snapshot());
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
    fn many_who_write_one_file_at_a_time_leave_no_half_of_it() {
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
    fn each_service_has_a_file_of_its_own_inside_the_directory() {
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
