//! The instances of one service at one moment.

use std::fmt;
use std::sync::Arc;

use crate::{Change, Instance, InstanceId, ServiceName, SortedById, SortedIter};

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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    service: ServiceName,
    revision: Option<Revision>,
    instances: SortedById<Arc<Instance>>,
}

impl Snapshot {
    /// Returns a snapshot without a revision. Of several instances with the same id the last one counts.
    pub fn new(service: ServiceName, instances: impl IntoIterator<Item = Arc<Instance>>) -> Self {
        Self::of(service, instances.into_iter().collect())
    }

    /// Returns a snapshot of a list, without a revision, at no cost. A backend that changes its list with each event,
    /// and takes a snapshot of it, delivers each change at a cost that does not grow with the service.
    pub fn of(service: ServiceName, instances: SortedById<Arc<Instance>>) -> Self {
        Self { service, revision: None, instances }
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

    /// The instances, as a list that shares them with this snapshot.
    pub fn instances(&self) -> &SortedById<Arc<Instance>> {
        &self.instances
    }

    /// Iterates over the instances, sorted by id.
    pub fn iter(&self) -> SortedIter<'_, Arc<Instance>> {
        self.instances.iter()
    }

    /// Returns the instance with this id.
    pub fn get(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        self.instances.get(id)
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
    /// Instances that share an [`Arc`] are compared by pointer, all others by content. What two snapshots of one watcher
    /// have in common is skipped.
    pub fn diff(&self, previous: &Snapshot) -> Vec<Change> {
        self.instances.diff(&previous.instances)
    }
}

impl<'a> IntoIterator for &'a Snapshot {
    type Item = &'a Arc<Instance>;
    type IntoIter = SortedIter<'a, Arc<Instance>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
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
}
