//! Where something stands in the history of a cluster.

/// Where a listing stands in etcd's history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    pub(crate) cluster: u64,
    pub(crate) revision: i64,
}
