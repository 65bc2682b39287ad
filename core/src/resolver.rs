//! The reading side of a registry: what a backend implements so that clients can find servers.

use std::fmt::Debug;
use std::pin::Pin;

use async_trait::async_trait;
use futures_core::Stream;

use crate::{Result, ServiceName, Snapshot};

/// The snapshots of one service as they come; after its first error it has ended.
pub type SnapshotStream = Pin<Box<dyn Stream<Item = Result<Snapshot>> + Send>>;

/// Finds the instances of a service.
///
/// **Users** wrap a resolver into a [`Discovery`](crate::Discovery), or ask once: [`resolve`](Self::resolve).
///
/// **Implementers** make ONE attempt per call and tell the truth. What MUST hold:
/// - an error never becomes an empty list, and one record that cannot be decoded never fails a listing: it is
///   skipped, counted and logged once;
/// - a service never sees the instances of another: not `svc2` in `svc`, not `a/b` in `a`.
#[async_trait]
pub trait Resolver: Debug + Send + Sync + 'static {
    /// The instances that are registered now.
    ///
    /// # Errors
    /// Any kind but `Superseded` and `LeaseExpired`. The call ends within a deadline of the backend's own.
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot>;

    /// The instances that are registered now, and again whenever that changes.
    ///
    /// The first snapshot is the complete present state, even if it is empty, and comes only once the registry
    /// has answered. Snapshots may be coalesced or repeated. The stream ends at its first error, or when the
    /// registry is lost: it never goes silently deaf.
    ///
    /// `since` is the caller's last snapshot and a hint: the backend may resume after its revision, and should
    /// reuse its `Arc`s for what has not changed.
    ///
    /// # Cancellation
    /// Dropping the stream ends everything that stands behind it.
    async fn watch(&self, service: &ServiceName, since: Option<Snapshot>) -> Result<SnapshotStream>;
}

/// Lists the services of a registry, where it can: etcd can, DNS cannot.
#[async_trait]
pub trait Catalog: Debug + Send + Sync + 'static {
    /// The names of the services with at least one instance, sorted: all, or `under` and those below it.
    ///
    /// # Errors
    /// As [`Resolver::resolve`].
    async fn services(&self, under: Option<&ServiceName>) -> Result<Vec<ServiceName>>;
}
