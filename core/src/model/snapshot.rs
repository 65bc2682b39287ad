//! What a registry says about one service at one moment.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::{Instance, InstanceId, ServiceName};

/// A mark that a registry puts on its state: opaque, and only good for telling whether two are the same.
///
/// There is no order: some registries reset theirs, and some have none.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// A revision, in whatever form the backend understands again.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text that the backend gave.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revision({})", self.0)
    }
}

/// All instances of one service at one moment, sorted by id.
///
/// A snapshot is the registry's truth: an empty one says that nobody is registered. Not knowing is never an
/// empty snapshot. Cloning is cheap.
///
/// ```
/// use std::sync::Arc;
/// use hither_core::{Change, Instance, Snapshot};
///
/// let a = Arc::new(Instance::new("10.0.0.1:80".parse()?));
/// let b = Arc::new(Instance::new("10.0.0.2:80".parse()?));
/// let before = Snapshot::new("greeter".parse()?, [a.clone()]);
/// let after = Snapshot::new("greeter".parse()?, [a, b.clone()]);
/// assert_eq!(after.diff(&before), [Change::Insert(b)]);
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    service: ServiceName,
    revision: Option<Revision>,
    instances: Arc<[Arc<Instance>]>,
}

impl Snapshot {
    /// A snapshot without a revision; of several instances with one id the last counts.
    pub fn new(service: ServiceName, instances: impl IntoIterator<Item = Arc<Instance>>) -> Self {
        let mut instances: Vec<_> = instances.into_iter().collect();
        // Stable, so that among equals the last given comes last and is the one kept.
        instances.sort_by(|a, b| a.id().cmp(b.id()));
        instances.reverse();
        instances.dedup_by(|later, kept| later.id() == kept.id());
        instances.reverse();
        Self { service, revision: None, instances: instances.into() }
    }

    /// Marks the snapshot with the registry's revision.
    #[must_use]
    pub fn with_revision(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }

    /// The same snapshot, in which each instance that equals one of `previous` is that one's `Arc`: so a
    /// [`diff`](Self::diff) is mostly a comparison of pointers.
    #[must_use]
    pub fn reusing(mut self, previous: &Snapshot) -> Self {
        let reused = |instance: &Arc<Instance>| match previous.get(instance.id()) {
            Some(old) if old == instance => Arc::clone(old),
            _ => Arc::clone(instance),
        };
        self.instances = self.instances.iter().map(reused).collect();
        self
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The registry's mark, if it has one.
    pub fn revision(&self) -> Option<&Revision> {
        self.revision.as_ref()
    }

    /// The instances, sorted by id.
    pub fn instances(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    /// The instance with this id.
    pub fn get(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        let at = self.instances.binary_search_by(|instance| instance.id().cmp(id)).ok()?;
        self.instances.get(at)
    }

    /// Whether nobody is registered.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// How many instances there are.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// What has changed since `previous`, sorted by id.
    pub fn diff(&self, previous: &Snapshot) -> Vec<Change> {
        let mut changes = Vec::new();
        let (mut old, mut new) = (previous.instances.iter().peekable(), self.instances.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.id().cmp(new.id()),
            };
            match order {
                Ordering::Less => changes.extend(old.next().map(|gone| Change::Remove(Arc::clone(gone)))),
                Ordering::Greater => {
                    changes.extend(new.next().map(|added| Change::Insert(Arc::clone(added))));
                }
                Ordering::Equal => {
                    if let (Some(from), Some(to)) = (old.next(), new.next())
                        && !Arc::ptr_eq(from, to)
                        && from != to
                    {
                        changes.push(Change::Update { from: Arc::clone(from), to: Arc::clone(to) });
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("service", &self.service)
            .field("revision", &self.revision)
            .field("instances", &self.instances)
            .finish()
    }
}

/// One difference between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An instance is new.
    Insert(Arc<Instance>),
    /// An instance says something else about itself.
    Update {
        /// What it said before.
        from: Arc<Instance>,
        /// What it says now.
        to: Arc<Instance>,
    },
    /// An instance is gone.
    Remove(Arc<Instance>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(address: &str) -> Arc<Instance> {
        Arc::new(Instance::new(address.parse().unwrap()))
    }

    fn snapshot(instances: impl IntoIterator<Item = Arc<Instance>>) -> Snapshot {
        Snapshot::new("svc".parse().unwrap(), instances)
    }

    #[test]
    fn a_snapshot_is_sorted_and_the_last_of_one_id_counts() {
        let old = instance("a:1");
        let new = Arc::new(Instance::new("a:1".parse().unwrap()).with_weight(7));
        let snapshot = snapshot([instance("b:1"), old, new.clone()]);
        assert_eq!(snapshot.instances(), [new, instance("b:1")]);
    }

    #[test]
    fn diff_tells_inserts_updates_and_removals() {
        let (a, b, c) = (instance("a:1"), instance("b:1"), instance("c:1"));
        let b2 = Arc::new(Instance::new("b:1".parse().unwrap()).with_weight(2));
        let before = snapshot([a.clone(), b.clone()]);
        let after = snapshot([b2.clone(), c.clone()]);
        assert_eq!(
            after.diff(&before),
            [Change::Remove(a), Change::Update { from: b, to: b2 }, Change::Insert(c)]
        );
        assert_eq!(after.diff(&after.clone()), []);
    }

    #[test]
    fn reusing_keeps_the_arcs_of_what_has_not_changed() {
        let before = snapshot([instance("a:1"), instance("b:1")]);
        let after =
            snapshot([instance("a:1"), Arc::new(Instance::new("b:1".parse().unwrap()).with_weight(2))]);
        let reused = after.clone().reusing(&before);
        assert!(Arc::ptr_eq(&reused.instances()[0], &before.instances()[0]));
        assert!(Arc::ptr_eq(&reused.instances()[1], &after.instances()[1]));
    }
}
