//! The backend under test.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::HarnessConfig;
use crate::{Catalog, InstanceId, Registrar, Resolver, ServiceName};

/// A backend under test, and the ways to disturb its registry.
///
/// Each behaviour gets a harness of its own, and behaviours run concurrently. Harnesses may share one registry, if a
/// disturbance of one harness does not reach the handles of another: put a proxy, a directory or a namespace of its
/// own into each.
///
/// The hooks that disturb the registry return whether they could, and by default they cannot. Exclude the behaviours
/// that need such a hook by their group in [`conformance_tests!`](crate::conformance_tests), with the reason. The
/// [module](crate::conformance) shows step by step how to write a harness.
#[async_trait]
pub trait Harness: Debug + Send + Sync + 'static {
    /// Returns the timing of the registry.
    fn config(&self) -> HarnessConfig;

    /// Returns a registrar with a new identity on the same registry: another owner than all earlier ones, as another
    /// process is.
    async fn registrar(&self) -> Arc<dyn Registrar>;

    /// Returns a resolver of the same registry.
    async fn resolver(&self) -> Arc<dyn Resolver>;

    /// Returns the registry's catalog, if it can list services. Else: `ignore catalog`.
    async fn catalog(&self) -> Option<Arc<dyn Catalog>> {
        None
    }

    /// Puts a record that cannot be decoded into `service`. Else: `ignore garbage`.
    async fn put_garbage(&self, _service: &ServiceName) -> bool {
        false
    }

    /// Deletes a record and leaves its lease alive, without the owner's knowledge. Else: `ignore deletion`.
    async fn delete_record(&self, _service: &ServiceName, _id: &InstanceId) -> bool {
        false
    }

    /// Interrupts the connection to the registry for a moment: open watches are cut, and within
    /// [`settle`](HarnessConfig::with_settle) the registry works again. Registrations need not survive it. Else:
    /// `ignore cut`.
    async fn cut(&self) -> bool {
        false
    }

    /// Makes the registry unreachable for all handles of this harness until [`restore`](Self::restore): connections
    /// are refused and open ones closed, as when its process has stopped. Its records and leases stay. Else: `ignore
    /// outage`.
    async fn make_unreachable(&self) -> bool {
        false
    }

    /// Makes the registry silent for all handles of this harness until [`restore`](Self::restore): connections stay
    /// open and new ones are accepted, requests get no response, and watches no event, as when its process is
    /// suspended or a firewall drops every packet. Its records and leases stay. Else: `ignore silence`.
    async fn make_silent(&self) -> bool {
        false
    }

    /// Loses the response of the next write of this kind to this record: the registry applies the write, and the
    /// caller gets no response. Calls after that [`restore`](Self::restore) get theirs. Else: `ignore lost_response`.
    async fn lose_next_response(&self, _write: Write, _service: &ServiceName, _id: &InstanceId) -> bool {
        false
    }

    /// Ends what [`make_unreachable`](Self::make_unreachable), [`make_silent`](Self::make_silent) or
    /// [`lose_next_response`](Self::lose_next_response) began. Open connections may be closed.
    async fn restore(&self) {}
}

/// A kind of write, for [`Harness::lose_next_response`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Write {
    /// [`Registrar::register`].
    Register,
    /// [`Lease::renew`](crate::Lease::renew).
    Renew,
    /// [`Lease::update`](crate::Lease::update).
    Update,
    /// [`Lease::revoke`](crate::Lease::revoke).
    Revoke,
}
