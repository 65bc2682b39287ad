//! The instances of one service at one moment.

use std::cmp::Ordering;
use std::fmt;
use std::slice;
use std::sync::Arc;

use crate::{Instance, InstanceId, ServiceName};

/// The revision of a registry at which a snapshot was taken: opaque, and good only for equality.
///
/// There is no order: some registries reset their revisions, and some have none.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// Returns a revision with the backend's own text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text that the backend gave.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revision({})", self.0)
    }
}

/// All instances of one service at one moment, sorted by id.
///
/// An empty snapshot means that no instance is registered. A registry that cannot be read is an
/// [`Error`](crate::Error), and never an empty snapshot. Cloning is cheap.
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
/// assert_eq!(after.iter().count(), 2);
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    service: ServiceName,
    revision: Option<Revision>,
    instances: Arc<[Arc<Instance>]>,
}

impl Snapshot {
    /// Returns a snapshot without a revision. Of several instances with the same id the last one counts.
    pub fn new(service: ServiceName, instances: impl IntoIterator<Item = Arc<Instance>>) -> Self {
        let mut instances: Vec<_> = instances.into_iter().collect();
        // Stable, so that among equals the last given comes last and is the one kept.
        instances.sort_by(|a, b| a.id().cmp(b.id()));
        instances.reverse();
        instances.dedup_by(|later, kept| later.id() == kept.id());
        instances.reverse();
        Self { service, revision: None, instances: instances.into() }
    }

    /// Sets the registry's revision.
    #[must_use]
    pub fn with_revision(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The registry's revision, if it has one.
    pub fn revision(&self) -> Option<&Revision> {
        self.revision.as_ref()
    }

    /// Iterates over the instances, sorted by id.
    pub fn iter(&self) -> SnapshotIter<'_> {
        SnapshotIter(self.instances.iter())
    }

    /// Returns the instance with this id.
    pub fn get(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        let at = self.instances.binary_search_by(|instance| instance.id().cmp(id)).ok()?;
        self.instances.get(at)
    }

    /// Whether no instance is registered.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// The number of instances.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Returns what has changed since `previous`, sorted by id.
    ///
    /// Instances that share an [`Arc`] are compared by pointer, all others by content.
    pub fn diff(&self, previous: &Snapshot) -> Vec<Change> {
        let mut changes = Vec::new();
        merge(&previous.instances, &self.instances, |old, new| match (old, new) {
            (Some(old), Some(new)) if !is_same(old, new) => {
                changes.push(Change::Update { from: Arc::clone(old), to: Arc::clone(new) });
            }
            (Some(old), None) => changes.push(Change::Remove(Arc::clone(old))),
            (None, Some(new)) => changes.push(Change::Insert(Arc::clone(new))),
            _ => {}
        });
        changes
    }

    /// Returns the changes that make this snapshot of an empty one.
    pub(crate) fn all_inserted(&self) -> Vec<Change> {
        self.iter().cloned().map(Change::Insert).collect()
    }

    /// Returns this snapshot and what has changed since `previous`; an instance that has not changed keeps the [`Arc`]
    /// that it has there.
    pub(crate) fn following(self, previous: &Snapshot) -> (Self, Vec<Change>) {
        let mut changes = Vec::new();
        let mut instances = Vec::with_capacity(self.instances.len());
        merge(&previous.instances, &self.instances, |old, new| match (old, new) {
            (Some(old), Some(new)) if is_same(old, new) => instances.push(Arc::clone(old)),
            (Some(old), Some(new)) => {
                instances.push(Arc::clone(new));
                changes.push(Change::Update { from: Arc::clone(old), to: Arc::clone(new) });
            }
            (Some(old), None) => changes.push(Change::Remove(Arc::clone(old))),
            (None, Some(new)) => {
                instances.push(Arc::clone(new));
                changes.push(Change::Insert(Arc::clone(new)));
            }
            (None, None) => {}
        });
        (Self { instances: instances.into(), ..self }, changes)
    }
}

impl<'a> IntoIterator for &'a Snapshot {
    type Item = &'a Arc<Instance>;
    type IntoIter = SnapshotIter<'a>;

    fn into_iter(self) -> SnapshotIter<'a> {
        self.iter()
    }
}

/// Calls `visit` once for each id of either list, both sorted by id.
fn merge<'a>(
    old: &'a [Arc<Instance>],
    new: &'a [Arc<Instance>],
    mut visit: impl FnMut(Option<&'a Arc<Instance>>, Option<&'a Arc<Instance>>),
) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.id().cmp(new.id()),
        };
        match order {
            Ordering::Less => visit(old.next(), None),
            Ordering::Greater => visit(None, new.next()),
            Ordering::Equal => visit(old.next(), new.next()),
        }
    }
}

fn is_same(a: &Arc<Instance>, b: &Arc<Instance>) -> bool {
    Arc::ptr_eq(a, b) || a == b
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

/// The iterator of [`Snapshot::iter`].
#[derive(Debug, Clone)]
pub struct SnapshotIter<'a>(slice::Iter<'a, Arc<Instance>>);

impl<'a> Iterator for SnapshotIter<'a> {
    type Item = &'a Arc<Instance>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for SnapshotIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back()
    }
}

impl ExactSizeIterator for SnapshotIter<'_> {}

/// One difference between two snapshots.
///
/// Exhaustive, because an id can do nothing else: it appears, it changes or it disappears.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// An instance that was not there before.
    Insert(Arc<Instance>),
    /// An instance whose content has changed.
    Update {
        /// The content before.
        from: Arc<Instance>,
        /// The content now.
        to: Arc<Instance>,
    },
    /// An instance that is no longer there.
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
        assert_eq!(snapshot.iter().cloned().collect::<Vec<_>>(), [new, instance("b:1")]);
        assert_eq!(snapshot.iter().rev().len(), 2);
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
    fn what_has_not_changed_keeps_its_arc() {
        let before = snapshot([instance("a:1"), instance("b:1"), instance("d:1")]);
        let changed = Arc::new(Instance::new("b:1".parse().unwrap()).with_weight(2));
        let after = snapshot([instance("a:1"), changed.clone(), instance("c:1")]);
        let (following, changes) = after.clone().following(&before);
        let at = |snapshot: &Snapshot, id: &str| Arc::clone(snapshot.get(&id.parse().unwrap()).unwrap());
        assert!(Arc::ptr_eq(&at(&following, "a:1"), &at(&before, "a:1")));
        assert!(Arc::ptr_eq(&at(&following, "b:1"), &changed));
        assert_eq!(changes, after.diff(&before));
        assert_eq!(following, after);
    }
}
