//! The reading side of a registry: what a backend implements so that clients can find servers.

use std::fmt::Debug;
use std::pin::Pin;

use async_trait::async_trait;
use futures_core::Stream;

use crate::{Result, ServiceName, Snapshot};

/// The snapshots of one service, as they arrive; it ends after its first error.
pub type SnapshotStream = Pin<Box<dyn Stream<Item = Result<Snapshot>> + Send>>;

/// Finds the instances of a service.
///
/// **Users** make a [`Discovery`](crate::Discovery) of a resolver, or call [`resolve`](Self::resolve) once.
///
/// **Implementers**: one attempt per call; return errors unchanged; no retry, no cache. What MUST hold:
/// - every call ends: it has a deadline of the backend's own, connecting included, and does not block its thread;
/// - an error never becomes an empty snapshot: a call that got no response returns a retryable `Unavailable` or `Timeout`,
///   and all handles work again when the registry does;
/// - one record that cannot be decoded never fails a listing: it is skipped, counted and logged once;
/// - a service never includes the instances of another one: not those of `svc2` or of `svc/deeper` in `svc`.
#[async_trait]
pub trait Resolver: Debug + Send + Sync + 'static {
    /// Returns the instances that are registered now.
    ///
    /// # Errors
    /// Any kind but `Superseded` and `LeaseExpired`.
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot>;

    /// Watches the instances of a service.
    ///
    /// The first snapshot is the complete present state, even if it is empty, and is sent only once the registry
    /// has answered. A snapshot follows each change; snapshots may be coalesced or repeated. The stream ends at its first
    /// error, or when the registry is lost: it never stays open without being able to deliver changes.
    ///
    /// # Cancellation
    /// Dropping the stream releases all its resources.
    async fn watch(&self, service: &ServiceName) -> Result<SnapshotStream>;
}

/// Lists the services of a registry. Optional: etcd can list, DNS cannot.
#[async_trait]
pub trait Catalog: Debug + Send + Sync + 'static {
    /// Returns the names of the services with at least one instance, sorted: all of them, or `under` and those below it.
    ///
    /// # Errors
    /// As [`Resolver::resolve`].
    async fn services(&self, under: Option<&ServiceName>) -> Result<Vec<ServiceName>>;
}
