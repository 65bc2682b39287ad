//! What a watch knows: the instances of one service as of one revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::proto::{PbEvent, PbKeyValue};
use hither_core::{Instance, Revision, ServiceName, Snapshot};

use crate::format::Reading;
use crate::list::At;
use crate::registry::Shared;

/// The instances of one service as of one revision. No IO, no clock.
#[derive(Debug, Clone)]
pub(crate) struct View {
    service: ServiceName,
    cluster: u64,
    /// Everything up to here has been applied; what comes again from before is an echo.
    revision: i64,
    /// How many keys there are, of instances or not.
    count: i64,
    /// By what follows the service in the key.
    entries: BTreeMap<Box<str>, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    instance: Arc<Instance>,
    /// 0 where it is not known, in a view that was taken from a snapshot.
    mod_revision: i64,
    lease: i64,
}

/// Where a snapshot stands in the history of one etcd, and something by which to know that history again.
///
/// An etcd that was wiped, or got an older copy of its data back, may reach the same revision with the same cluster
/// id. But a lease id is never given twice, so a history with our newest record has all that was written before it;
/// and one in which no record is newer, and there are as many, differs at most in which ones have been deleted since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) cluster: u64,
    pub(crate) revision: i64,
    pub(crate) count: i64,
    pub(crate) witness: Option<Witness>,
}

/// The newest record at the revision of a mark, if it is on a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Witness {
    pub(crate) suffix: String,
    pub(crate) mod_revision: i64,
    pub(crate) lease: i64,
}

/// The types of events that etcd has.
const PUT: i32 = 0;
const DELETE: i32 = 1;

impl View {
    /// Knows of nobody yet.
    pub(crate) fn new(service: ServiceName) -> Self {
        Self { service, cluster: 0, revision: 0, count: 0, entries: BTreeMap::new() }
    }

    /// What `snapshot` says, as of `mark`.
    pub(crate) fn resumed(snapshot: &Snapshot, mark: Option<&Mark>) -> Self {
        let mut view = Self::new(snapshot.service().clone());
        if let Some(mark) = mark {
            (view.cluster, view.revision, view.count) = (mark.cluster, mark.revision, mark.count);
        }
        let witness = mark.and_then(|mark| mark.witness.as_ref());
        for instance in snapshot.instances() {
            let witness = witness.filter(|witness| witness.suffix == instance.id().as_str());
            let (mod_revision, lease) =
                witness.map_or((0, 0), |witness| (witness.mod_revision, witness.lease));
            let entry = Entry { instance: Arc::clone(instance), mod_revision, lease };
            view.entries.insert(instance.id().as_str().into(), entry);
        }
        view
    }

    pub(crate) fn stand_at(&mut self, at: At) {
        (self.cluster, self.revision, self.count) = (at.cluster, at.revision, at.count);
    }

    pub(crate) fn cluster(&self) -> u64 {
        self.cluster
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// Applies the events of one whole response, as far as they are news, and says whether anything changed.
    pub(crate) fn apply(&mut self, shared: &Shared, prefix: &[u8], events: &[PbEvent]) -> bool {
        let (before, mut changed) = (self.revision, false);
        for event in events {
            let Some(kv) = &event.kv else { continue };
            let Some(suffix) = kv.key.strip_prefix(prefix) else { continue };
            // Some versions of etcd deliver events twice, or go back in time.
            if kv.mod_revision <= before {
                continue;
            }
            changed |= match event.r#type {
                PUT => {
                    self.count += i64::from(kv.create_revision == kv.mod_revision);
                    self.put(shared, suffix, kv)
                }
                DELETE => {
                    self.count -= 1;
                    self.remove(suffix)
                }
                _ => false,
            };
            self.revision = self.revision.max(kv.mod_revision);
        }
        changed
    }

    /// Takes a record up, and says whether that changed anything.
    pub(crate) fn put(&mut self, shared: &Shared, suffix: &[u8], kv: &PbKeyValue) -> bool {
        let instance = match shared.format.read(&self.service, suffix, &kv.value) {
            Reading::Instance(instance) => *instance,
            Reading::Elsewhere => return self.remove(suffix),
            Reading::Undecodable(why) => {
                shared.skipped.note(&kv.key, kv.mod_revision, &why);
                // As a listing would have it: whatever stood there before, it does not any more.
                return self.remove(suffix);
            }
        };
        let Ok(suffix) = std::str::from_utf8(suffix) else { return false };
        let (mod_revision, lease) = (kv.mod_revision, kv.lease);
        match self.entries.get_mut(suffix) {
            Some(entry) => {
                (entry.mod_revision, entry.lease) = (mod_revision, lease);
                if *entry.instance == instance {
                    return false;
                }
                entry.instance = Arc::new(instance);
            }
            None => {
                let entry = Entry { instance: Arc::new(instance), mod_revision, lease };
                self.entries.insert(suffix.into(), entry);
            }
        }
        true
    }

    fn remove(&mut self, suffix: &[u8]) -> bool {
        std::str::from_utf8(suffix).is_ok_and(|suffix| self.entries.remove(suffix).is_some())
    }

    /// Becomes `listed`, keeping the `Arc`s of what has not changed, and says whether anything has.
    pub(crate) fn become_listed(&mut self, mut listed: View) -> bool {
        let mut changed = listed.entries.len() != self.entries.len();
        for (suffix, entry) in &mut listed.entries {
            match self.entries.get(suffix) {
                Some(old) if *old.instance == *entry.instance => entry.instance = Arc::clone(&old.instance),
                _ => changed = true,
            }
        }
        *self = listed;
        changed
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let instances = self.entries.values().map(|entry| Arc::clone(&entry.instance));
        Snapshot::new(self.service.clone(), instances).with_revision(self.mark().to_revision())
    }

    fn mark(&self) -> Mark {
        let newest = self.entries.iter().max_by_key(|(_, entry)| entry.mod_revision);
        // Of a record without a lease, another history could have the like.
        let witness = newest.filter(|(_, entry)| entry.lease != 0 && entry.mod_revision != 0);
        let witness = witness.map(|(suffix, entry)| Witness {
            suffix: suffix.to_string(),
            mod_revision: entry.mod_revision,
            lease: entry.lease,
        });
        Mark { cluster: self.cluster, revision: self.revision, count: self.count, witness }
    }
}

impl Mark {
    fn to_revision(&self) -> Revision {
        let mut text = format!("{:x}.{}.{}", self.cluster, self.revision, self.count);
        if let Some(Witness { suffix, mod_revision, lease }) = &self.witness {
            text.push_str(&format!(".{mod_revision}.{lease:x}.{suffix}"));
        }
        Revision::new(text)
    }

    /// Reads what a snapshot of this backend was marked with.
    pub(crate) fn of(snapshot: &Snapshot) -> Option<Self> {
        let mut parts = snapshot.revision()?.as_str().splitn(6, '.');
        let cluster = u64::from_str_radix(parts.next()?, 16).ok()?;
        let revision = parts.next()?.parse().ok()?;
        let count = parts.next()?.parse().ok()?;
        let witness = match (parts.next(), parts.next(), parts.next()) {
            (Some(mod_revision), Some(lease), Some(suffix)) => Some(Witness {
                suffix: suffix.to_owned(),
                mod_revision: mod_revision.parse().ok()?,
                lease: i64::from_str_radix(lease, 16).ok()?,
            }),
            _ => None,
        };
        Some(Self { cluster, revision, count, witness })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EtcdOptions, EtcdRegistry};

    const PREFIX: &[u8] = b"svc/";

    fn shared() -> Arc<Shared> {
        EtcdRegistry::connect(EtcdOptions::new(["h:1"])).unwrap().shared
    }

    fn kv(id: &str, mod_revision: i64, lease: i64) -> PbKeyValue {
        let value = format!(r#"{{"Addr":"h:{mod_revision}"}}"#).into_bytes();
        PbKeyValue {
            key: format!("svc/{id}").into_bytes(),
            value,
            mod_revision,
            lease,
            ..PbKeyValue::default()
        }
    }

    fn put(id: &str, mod_revision: i64) -> PbEvent {
        PbEvent { r#type: PUT, kv: Some(kv(id, mod_revision, 7)), prev_kv: None }
    }

    fn gone(id: &str, mod_revision: i64) -> PbEvent {
        let kv = PbKeyValue { value: Vec::new(), ..kv(id, mod_revision, 0) };
        PbEvent { r#type: DELETE, kv: Some(kv), prev_kv: None }
    }

    /// A view of the instance `a`, as of revision 10 of cluster 1.
    fn view(shared: &Shared) -> View {
        let mut view = View::new("svc".parse().unwrap());
        view.put(shared, b"a", &kv("a", 9, 7));
        view.stand_at(At { cluster: 1, revision: 10, count: 1 });
        view
    }

    fn ids(view: &View) -> Vec<String> {
        view.snapshot().instances().iter().map(|instance| instance.id().to_string()).collect()
    }

    #[test]
    fn what_comes_again_from_the_past_is_an_echo() {
        let (shared, mut view) = (shared(), view(&shared()));
        assert!(!view.apply(&shared, PREFIX, &[gone("a", 8), put("b", 9), put("b", 10)]));
        assert_eq!((ids(&view), view.revision()), (vec!["a".to_owned()], 10));
        assert!(view.apply(&shared, PREFIX, &[put("b", 11)]));
        assert!(!view.apply(&shared, PREFIX, &[put("b", 11), gone("a", 11)]), "delivered twice");
        assert_eq!((ids(&view), view.revision()), (vec!["a".to_owned(), "b".to_owned()], 11));
    }

    #[test]
    fn all_events_of_one_revision_are_applied() {
        let (shared, mut view) = (shared(), view(&shared()));
        assert!(view.apply(&shared, PREFIX, &[gone("a", 11), put("b", 11), put("c", 11)]));
        assert_eq!(ids(&view), ["b", "c"]);
    }

    #[test]
    fn what_changes_nothing_says_so() {
        let (shared, mut view) = (shared(), view(&shared()));
        let mut same = put("a", 11);
        same.kv.as_mut().unwrap().value = kv("a", 9, 7).value;
        let unknown = PbEvent { r#type: 9, ..put("b", 12) };
        let elsewhere =
            PbEvent { kv: Some(PbKeyValue { key: b"other/x".to_vec(), ..kv("x", 13, 7) }), ..put("x", 13) };
        let nothing = PbEvent { r#type: PUT, kv: None, prev_kv: None };
        assert!(!view.apply(&shared, PREFIX, &[same, unknown, elsewhere, nothing, gone("nobody", 14)]));
        assert_eq!((ids(&view), view.revision()), (vec!["a".to_owned()], 14));
    }

    #[test]
    fn a_listing_replaces_everything_and_keeps_what_is_the_same() {
        let (shared, mut known) = (shared(), view(&shared()));
        let before = known.snapshot();
        assert!(!known.become_listed(view(&shared)));
        assert!(Arc::ptr_eq(&before.instances()[0], &known.snapshot().instances()[0]));

        let mut listed = View::new("svc".parse().unwrap());
        listed.put(&shared, b"b", &kv("b", 12, 8));
        assert!(known.become_listed(listed));
        assert_eq!(ids(&known), ["b"]);
    }

    #[test]
    fn a_snapshot_says_where_it_stands_and_what_its_history_is_known_by() {
        let shared = shared();
        let mut view = view(&shared);
        view.put(&shared, b"with.dots", &kv("with.dots", 10, i64::MAX));
        let snapshot = view.snapshot();
        let mark = Mark::of(&snapshot).unwrap();
        let witness = Witness { suffix: "with.dots".into(), mod_revision: 10, lease: i64::MAX };
        assert_eq!(mark, Mark { cluster: 1, revision: 10, count: 1, witness: Some(witness) });
        let resumed = View::resumed(&snapshot, Some(&mark));
        assert_eq!((resumed.cluster(), resumed.revision()), (1, 10));
        assert_eq!(resumed.snapshot(), snapshot, "it can be resumed from again");
    }

    #[test]
    fn a_newest_record_without_a_lease_is_no_witness() {
        let shared = shared();
        let mut view = view(&shared);
        view.put(&shared, b"b", &kv("b", 10, 0));
        assert_eq!(Mark::of(&view.snapshot()).unwrap().witness, None);
    }

    #[test]
    fn keys_are_counted_whether_they_are_instances_or_not() {
        let (shared, mut view) = (shared(), view(&shared()));
        let count = |view: &View| Mark::of(&view.snapshot()).unwrap().count;
        let created = |id: &str, revision: i64, value: &[u8]| {
            let created = PbKeyValue { create_revision: revision, ..kv(id, revision, 7) };
            PbEvent { kv: Some(PbKeyValue { value: value.to_vec(), ..created }), ..put(id, revision) }
        };
        view.apply(
            &shared,
            PREFIX,
            &[created("b", 11, b"{\"Addr\":\"h:1\"}"), created("c", 12, b"no record")],
        );
        assert_eq!(count(&view), 3);
        view.apply(&shared, PREFIX, &[put("a", 13), gone("b", 14), gone("c", 15)]);
        assert_eq!(count(&view), 1);
    }

    #[test]
    fn a_snapshot_of_another_registry_says_nothing() {
        let snapshot =
            |text: &'static str| Snapshot::new("svc".parse().unwrap(), []).with_revision(Revision::new(text));
        for text in ["", "7", "x.7.1", "1.x.1", "1.2", "1.2.x", "1.2.3.x.3.a"] {
            assert_eq!(Mark::of(&snapshot(text)), None, "{text}");
        }
        assert_eq!(Mark::of(&Snapshot::new("svc".parse().unwrap(), [])), None);
        let mark = Mark { cluster: 15, revision: 2, count: 3, witness: None };
        assert_eq!(Mark::of(&snapshot("f.2.3")), Some(mark));
    }
}
