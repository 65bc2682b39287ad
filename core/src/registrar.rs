//! The writing side of a registry: what a backend implements so that servers can say where they are.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Instance, Registration, Result};

/// Whose record a registration may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// Whatever stands under the id, at once: a restarted process meets its own old record.
    TakeOver,
    /// Only a free id, or one that an earlier lease of this same registrar holds; else
    /// [`Superseded`](crate::ErrorKind::Superseded).
    IfVacant,
}

/// Puts instances into a registry.
///
/// **Users** hand a registrar to [`keep_registered`](crate::keep_registered()) and never call it themselves.
///
/// **Implementers** make ONE attempt per call and tell the truth; retrying, renewing and backing off are
/// written once, above this trait. What MUST hold:
/// - every call ends: it has a deadline of the backend's own, connecting included;
/// - a registration belongs to its lease: nothing done with an old lease can touch a newer registration of the
///   same id;
/// - a write that timed out and was applied all the same is recognised as ours by the next call;
/// - [`Registration::validate`] is asked first.
#[async_trait]
pub trait Registrar: Debug + Send + Sync + 'static {
    /// Registers, and returns the lease on which the record stands.
    ///
    /// # Errors
    /// `Superseded` when `claim` is [`Claim::IfVacant`] and somebody else holds the id.
    ///
    /// # Cancellation
    /// A dropped call leaves nothing in the registry past the TTL.
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>>;
}

/// The right to one record, for as long as it is renewed.
///
/// Dropping it stops the renewal, and the record is gone within the TTL, even while other registrations of the
/// same process live. While the registry is down it removes nothing, and it may begin the TTL anew when it is back.
#[async_trait]
pub trait Lease: Debug + Send + 'static {
    /// The time to live as granted, which may not be the one asked for.
    fn ttl(&self) -> Duration;

    /// Keeps the record, and verifies that it is still ours and says what we said: a record that is missing or
    /// changed under our lease is put back.
    ///
    /// # Errors
    /// `LeaseExpired`: the lease is gone, and every later call says so too. `Superseded`: somebody else owns
    /// the id.
    ///
    /// # Cancellation
    /// The lease stays usable; the outcome is unknown, and the next call settles it.
    async fn renew(&mut self) -> Result<()>;

    /// Says something else under the same id and lease: one change for watchers, never a gap.
    ///
    /// # Errors
    /// As [`renew`](Self::renew); `InvalidArgument` when `instance` has another id, or cannot stand there: nothing has
    /// changed then.
    ///
    /// # Cancellation
    /// As [`renew`](Self::renew).
    async fn update(&mut self, instance: &Instance) -> Result<()>;

    /// Removes OUR record and gives the lease up; already gone is `Ok`, and so is a second call. The record of
    /// a successor stays.
    ///
    /// # Cancellation
    /// The outcome is unknown; the record is gone within the TTL, or calling again settles it.
    async fn revoke(&mut self) -> Result<()>;
}
