//! The writing side of a registry: what a backend implements so that servers can register.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Registration, Result};

/// Whose record a registration may replace.
///
/// A backend that does not know a claim returns [`Unsupported`](crate::ErrorKind::Unsupported).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Claim {
    /// Any record under the id, at once: a restarted process finds its own old record.
    TakeOver,
    /// Only a free id, or one that an earlier lease of this same registrar holds; otherwise
    /// [`Superseded`](crate::ErrorKind::Superseded).
    IfVacant,
}

/// Registers instances.
///
/// **Users** pass a registrar to [`keep_registered`](crate::keep_registered()) and do not call it themselves.
///
/// **Implementers**: one attempt per call; return errors unchanged; no retry, no cache, no renewal in the background,
/// because retry, renewal and backoff are written once, above this trait. What MUST hold:
/// - every call ends: it has a deadline of the backend's own, connecting included, and does not block its thread;
/// - a call that got no response returns a retryable `Unavailable` or `Timeout`, and all handles work again when the
///   registry does;
/// - a registration belongs to its lease: no operation on an old lease can change or remove a newer registration of the
///   same id;
/// - writes are idempotent: one that timed out and was applied all the same is recognised as ours by the next call.
#[async_trait]
pub trait Registrar: Debug + Send + Sync + 'static {
    /// Registers, and returns the lease that the record is attached to.
    ///
    /// # Errors
    /// `Superseded` when `claim` is [`Claim::IfVacant`] and another owner holds the id.
    ///
    /// # Cancellation
    /// A dropped call leaves no record past the TTL.
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>>;
}

/// The ownership of one record, for as long as it is renewed.
///
/// Dropping it stops the renewal, and the record expires within the TTL, even while other registrations of the
/// same process live. While the registry is down nothing expires, and it may restart the TTL when it is back.
#[async_trait]
pub trait Lease: Debug + Send + 'static {
    /// The time to live as granted, which may differ from the one asked for.
    fn ttl(&self) -> Duration;

    /// Renews the lease, and verifies that the record is still ours with our content: a record that is missing or
    /// was changed under our lease is written again.
    ///
    /// # Errors
    /// `LeaseExpired`: the lease has expired, and every later call returns this too. `Superseded`: another owner holds
    /// the id.
    ///
    /// # Cancellation
    /// The lease stays usable. The outcome is unknown, and the next call settles it.
    async fn renew(&mut self) -> Result<()>;

    /// Replaces the content of the record under the same id and lease. Watchers see one change and never an absence.
    /// The TTL of `registration` is ignored.
    ///
    /// The new content is what later renewals write, also if this call got no response or was cancelled.
    ///
    /// # Errors
    /// As [`renew`](Self::renew); `InvalidArgument` when `registration` has another service or id, or content that this
    /// registry cannot represent: then nothing has changed.
    ///
    /// # Cancellation
    /// As [`renew`](Self::renew).
    async fn update(&mut self, registration: &Registration) -> Result<()>;

    /// Removes OUR record and gives up the lease. Idempotent: a record that is gone already is `Ok`, and so is a second
    /// call. The record of a successor stays.
    ///
    /// # Cancellation
    /// The outcome is unknown: the record expires within the TTL, or another call settles it.
    async fn revoke(&mut self) -> Result<()>;
}
