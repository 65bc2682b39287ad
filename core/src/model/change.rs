//! What differs between two snapshots.

use std::sync::Arc;

use crate::Instance;

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

/// What has happened to an id, if anything has.
pub(crate) fn change(pair: (Option<&Arc<Instance>>, Option<&Arc<Instance>>)) -> Option<Change> {
    match pair {
        (Some(old), Some(new)) if Arc::ptr_eq(old, new) || old == new => None,
        (Some(old), Some(new)) => Some(Change::Update { from: Arc::clone(old), to: Arc::clone(new) }),
        (Some(old), None) => Some(Change::Remove(Arc::clone(old))),
        (None, Some(new)) => Some(Change::Insert(Arc::clone(new))),
        (None, None) => None,
    }
}
