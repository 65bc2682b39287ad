//! The view of a watch: the instances of one service as of one revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::proto::{PbEvent, PbKeyValue};
use hither_core::{Instance, Revision, ServiceName, Snapshot};

use crate::client::Position;
use crate::codec::Reading;
use crate::context::Context;

/// The instances of one service as of one revision. No IO, no clock.
#[derive(Debug)]
pub(crate) struct View {
    service: ServiceName,
    /// Everything up to here has been applied; an event from before is an echo.
    position: Position,
    /// By the rest of the key after the service.
    instances: BTreeMap<Box<str>, Arc<Instance>>,
}

/// The types of events that etcd has.
const PUT: i32 = 0;
const DELETE: i32 = 1;

impl View {
    /// Returns an empty view.
    pub(crate) fn new(service: ServiceName) -> Self {
        Self { service, position: Position { cluster: 0, revision: 0 }, instances: BTreeMap::new() }
    }

    pub(crate) fn set_position(&mut self, position: Position) {
        self.position = position;
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Applies the events of one whole response, as far as they are new, and returns whether anything changed.
    pub(crate) fn apply(&mut self, context: &Context, prefix: &[u8], events: &[PbEvent]) -> bool {
        let (before, mut changed) = (self.position.revision, false);
        for event in events {
            let Some(kv) = &event.kv else { continue };
            let Some(suffix) = kv.key.strip_prefix(prefix) else { continue };
            // Some versions of etcd deliver events twice, or go back in time.
            if kv.mod_revision <= before {
                continue;
            }
            changed |= match event.r#type {
                PUT => self.put(context, suffix, kv),
                DELETE => self.remove(suffix),
                _ => false,
            };
            self.position.revision = self.position.revision.max(kv.mod_revision);
        }
        changed
    }

    /// Adds or replaces a record, and returns whether that changed anything.
    pub(crate) fn put(&mut self, context: &Context, suffix: &[u8], kv: &PbKeyValue) -> bool {
        let instance = match context.codec.read(&self.service, suffix, &kv.value) {
            Reading::Instance(instance) => *instance,
            Reading::Elsewhere => return self.remove(suffix),
            Reading::Undecodable(why) => {
                context.skipped.note(&kv.key, kv.mod_revision, &why);
                // As in a listing: the earlier content of the record is not valid any more.
                return self.remove(suffix);
            }
        };
        let Ok(suffix) = std::str::from_utf8(suffix) else { return false };
        match self.instances.get_mut(suffix) {
            Some(known) if **known == instance => return false,
            Some(known) => *known = Arc::new(instance),
            None => drop(self.instances.insert(suffix.into(), Arc::new(instance))),
        }
        true
    }

    fn remove(&mut self, suffix: &[u8]) -> bool {
        std::str::from_utf8(suffix).is_ok_and(|suffix| self.instances.remove(suffix).is_some())
    }

    /// Replaces the view by `listed`, keeping the `Arc`s of what has not changed, and returns whether anything has.
    /// Core's watcher would keep them as well; here it costs nothing, and users of a bare watch have it too.
    pub(crate) fn replace_with(&mut self, mut listed: View) -> bool {
        let mut changed = listed.instances.len() != self.instances.len();
        for (suffix, instance) in &mut listed.instances {
            match self.instances.get(suffix) {
                Some(known) if known == instance => *instance = Arc::clone(known),
                _ => changed = true,
            }
        }
        *self = listed;
        changed
    }

    /// Returns a snapshot, marked with the cluster and the revision.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let instances = self.instances.values().map(Arc::clone);
        let revision = Revision::new(format!("{:x}.{}", self.position.cluster, self.position.revision));
        Snapshot::new(self.service.clone(), instances).with_revision(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EtcdConfig, EtcdRegistry};

    const PREFIX: &[u8] = b"svc/";

    fn context() -> Arc<Context> {
        EtcdRegistry::connect(EtcdConfig::new(["h:1"])).unwrap().context
    }

    fn kv(id: &str, mod_revision: i64) -> PbKeyValue {
        let value = format!(r#"{{"Addr":"h:{mod_revision}"}}"#).into_bytes();
        PbKeyValue { key: format!("svc/{id}").into_bytes(), value, mod_revision, ..PbKeyValue::default() }
    }

    fn put(id: &str, mod_revision: i64) -> PbEvent {
        PbEvent { r#type: PUT, kv: Some(kv(id, mod_revision)), prev_kv: None }
    }

    fn gone(id: &str, mod_revision: i64) -> PbEvent {
        let kv = PbKeyValue { value: Vec::new(), ..kv(id, mod_revision) };
        PbEvent { r#type: DELETE, kv: Some(kv), prev_kv: None }
    }

    /// A view of the instance `a`, as of revision 10 of cluster 1.
    fn view(context: &Context) -> View {
        let mut view = View::new("svc".parse().unwrap());
        view.put(context, b"a", &kv("a", 9));
        view.set_position(Position { cluster: 1, revision: 10 });
        view
    }

    fn ids(view: &View) -> Vec<String> {
        view.snapshot().iter().map(|instance| instance.id().to_string()).collect()
    }

    #[test]
    fn an_event_from_before_the_view_is_an_echo() {
        let (context, mut view) = (context(), view(&context()));
        assert!(!view.apply(&context, PREFIX, &[gone("a", 8), put("b", 9), put("b", 10)]));
        assert_eq!((ids(&view), view.position().revision), (vec!["a".to_owned()], 10));
        assert!(view.apply(&context, PREFIX, &[put("b", 11)]));
        assert!(!view.apply(&context, PREFIX, &[put("b", 11), gone("a", 11)]), "delivered twice");
        assert_eq!((ids(&view), view.position().revision), (vec!["a".to_owned(), "b".to_owned()], 11));
    }

    #[test]
    fn all_events_of_one_revision_are_applied() {
        let (context, mut view) = (context(), view(&context()));
        assert!(view.apply(&context, PREFIX, &[gone("a", 11), put("b", 11), put("c", 11)]));
        assert_eq!(ids(&view), ["b", "c"]);
    }

    #[test]
    fn events_that_change_nothing_are_no_change() {
        let (context, mut view) = (context(), view(&context()));
        let mut same = put("a", 11);
        same.kv.as_mut().unwrap().value = kv("a", 9).value;
        let unknown = PbEvent { r#type: 9, ..put("b", 12) };
        let elsewhere =
            PbEvent { kv: Some(PbKeyValue { key: b"other/x".to_vec(), ..kv("x", 13) }), ..put("x", 13) };
        let nothing = PbEvent { r#type: PUT, kv: None, prev_kv: None };
        assert!(!view.apply(&context, PREFIX, &[same, unknown, elsewhere, nothing, gone("unknown", 14)]));
        assert_eq!((ids(&view), view.position().revision), (vec!["a".to_owned()], 14));
    }

    #[test]
    fn a_listing_replaces_everything_and_keeps_what_is_the_same() {
        let (context, mut known) = (context(), view(&context()));
        let before = known.snapshot();
        assert!(!known.replace_with(view(&context)));
        assert!(Arc::ptr_eq(before.iter().next().unwrap(), known.snapshot().iter().next().unwrap()));

        let mut listed = View::new("svc".parse().unwrap());
        listed.put(&context, b"b", &kv("b", 12));
        assert!(known.replace_with(listed));
        assert_eq!(ids(&known), ["b"]);
    }

    #[test]
    fn a_snapshot_has_the_cluster_and_the_revision() {
        let snapshot = view(&context()).snapshot();
        assert_eq!(snapshot.revision(), Some(&Revision::new("1.10")));
    }
}
