//! The view of a watch: the instances of one service as of one revision.

use std::sync::Arc;

use etcd_client::proto::{PbEvent, PbKeyValue};
use hither_core::{Instance, InstanceId, Revision, ServiceName, Snapshot, SortedById};
use tokio::task::coop::consume_budget;

use crate::client::Position;
use crate::codec::Reading;
use crate::context::Context;

/// The instances of one service as of one revision. No IO, no clock.
#[derive(Debug)]
pub(crate) struct View {
    service: ServiceName,
    /// Everything up to here has been applied; an event from before is an echo.
    position: Position,
    /// The id of each is the rest of its key after the service. Snapshots share them, so that one costs the same whatever
    /// the number of instances.
    instances: SortedById<Arc<Instance>>,
}

/// The types of events that etcd has.
const PUT: i32 = 0;
const DELETE: i32 = 1;

impl View {
    /// Returns an empty view.
    pub(crate) fn new(service: ServiceName) -> Self {
        Self { service, position: Position { cluster: 0, revision: 0 }, instances: SortedById::new() }
    }

    pub(crate) fn set_position(&mut self, position: Position) {
        self.position = position;
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Applies the events of one whole response, as far as they are new, and returns whether anything changed.
    pub(crate) async fn apply(&mut self, context: &Context, prefix: &[u8], events: &[PbEvent]) -> bool {
        let (before, mut changed) = (self.position.revision, false);
        for event in events {
            // A response may have the events of a mass loss.
            consume_budget().await;
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
        if self.instances.get(instance.id()).is_some_and(|known| **known == instance) {
            return false;
        }
        self.instances.insert(Arc::new(instance));
        true
    }

    fn remove(&mut self, suffix: &[u8]) -> bool {
        let id = std::str::from_utf8(suffix).ok().and_then(|suffix| InstanceId::nested(suffix).ok());
        id.is_some_and(|id| self.instances.remove(&id).is_some())
    }

    /// Replaces the view by `listed`, keeping the `Arc`s of what has not changed, and returns whether anything has.
    /// Core's watcher would keep them as well; here it costs nothing, and users of a bare watch have it too.
    pub(crate) async fn replace_with(&mut self, listed: &View) -> bool {
        let (before, mut changed) = (self.instances.clone(), false);
        for pair in listed.instances.merge(&before) {
            consume_budget().await;
            match pair {
                (Some(known), Some(listed)) if known == listed => continue,
                (_, Some(listed)) => drop(self.instances.insert(Arc::clone(listed))),
                (Some(known), None) => drop(self.instances.remove(known.id())),
                (None, None) => continue,
            }
            changed = true;
        }
        self.position = listed.position;
        changed
    }

    /// Returns a snapshot, marked with the cluster and the revision.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let revision = Revision::new(format!("{:x}.{}", self.position.cluster, self.position.revision));
        Snapshot::of(self.service.clone(), self.instances.clone()).with_revision(revision)
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

    #[tokio::test]
    async fn an_event_from_before_the_view_is_an_echo() {
        let (context, mut view) = (context(), view(&context()));
        assert!(!view.apply(&context, PREFIX, &[gone("a", 8), put("b", 9), put("b", 10)]).await);
        assert_eq!((ids(&view), view.position().revision), (vec!["a".to_owned()], 10));
        assert!(view.apply(&context, PREFIX, &[put("b", 11)]).await);
        assert!(!view.apply(&context, PREFIX, &[put("b", 11), gone("a", 11)]).await, "delivered twice");
        assert_eq!((ids(&view), view.position().revision), (vec!["a".to_owned(), "b".to_owned()], 11));
    }

    #[tokio::test]
    async fn all_events_of_one_revision_are_applied() {
        let (context, mut view) = (context(), view(&context()));
        assert!(view.apply(&context, PREFIX, &[gone("a", 11), put("b", 11), put("c", 11)]).await);
        assert_eq!(ids(&view), ["b", "c"]);
    }

    #[tokio::test]
    async fn events_that_change_nothing_are_no_change() {
        let (context, mut view) = (context(), view(&context()));
        let mut same = put("a", 11);
        same.kv.as_mut().unwrap().value = kv("a", 9).value;
        let unknown = PbEvent { r#type: 9, ..put("b", 12) };
        let elsewhere =
            PbEvent { kv: Some(PbKeyValue { key: b"other/x".to_vec(), ..kv("x", 13) }), ..put("x", 13) };
        let nothing = PbEvent { r#type: PUT, kv: None, prev_kv: None };
        assert!(
            !view.apply(&context, PREFIX, &[same, unknown, elsewhere, nothing, gone("unknown", 14)]).await
        );
        assert_eq!((ids(&view), view.position().revision), (vec!["a".to_owned()], 14));
    }

    #[tokio::test]
    async fn a_listing_replaces_everything_and_keeps_what_is_the_same() {
        let (context, mut known) = (context(), view(&context()));
        let before = known.snapshot();
        assert!(!known.replace_with(&view(&context)).await);
        assert!(Arc::ptr_eq(before.iter().next().unwrap(), known.snapshot().iter().next().unwrap()));

        let mut listed = View::new("svc".parse().unwrap());
        listed.put(&context, b"b", &kv("b", 12));
        assert!(known.replace_with(&listed).await);
        assert_eq!(ids(&known), ["b"]);
    }

    #[test]
    fn a_snapshot_has_the_cluster_and_the_revision() {
        let snapshot = view(&context()).snapshot();
        assert_eq!(snapshot.revision(), Some(&Revision::new("1.10")));
    }

    #[tokio::test]
    async fn a_snapshot_shares_what_has_not_changed_with_the_one_before() {
        let (context, mut view) = (context(), view(&context()));
        for number in 0..5_000 {
            let id = format!("{number:04}");
            view.put(&context, id.as_bytes(), &kv(&id, 9));
        }
        let before = view.snapshot();
        assert!(view.apply(&context, PREFIX, &[put("0007", 11), gone("4321", 12)]).await);
        let looked_at = view.snapshot().instances().merge(before.instances()).count();
        assert!((2..1_000).contains(&looked_at), "{looked_at}");
        assert_eq!(view.snapshot().diff(&before).len(), 2);
    }
}
