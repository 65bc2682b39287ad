//! What the owner of a registration wants, and what its task has seen.

use tokio::time::Instant;

use crate::{Error, Instance};

/// How it stands with a registration.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RegistrationStatus {
    /// The first attempts are under way.
    Registering,
    /// The registry has the record, on a lease that is being renewed.
    Registered,
    /// The registry cannot be reached or has lost the record; it is being tried again, for ever.
    Retrying {
        /// Since when.
        since: Instant,
        /// The newest reason.
        cause: Error,
    },
    /// Somebody else registered under the same id later. Final: two owners never fight.
    Superseded,
    /// The registry will never take this registration. Final.
    Failed(Error),
    /// The record is being removed.
    Deregistering,
    /// The record is removed, or nothing renews it any more. Final.
    Deregistered,
}

impl RegistrationStatus {
    /// Whether nothing will change any more.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Superseded | Self::Failed(_) | Self::Deregistered)
    }
}

/// What the owner wants.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) instance: Instance,
    pub(super) version: u64,
    pub(super) leave: bool,
}

/// What the task has to tell.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) status: RegistrationStatus,
    /// The newest wish that the registry has.
    pub(super) version: Option<u64>,
    /// The newest wish that the registry will not take.
    pub(super) refused: Option<(u64, Error)>,
    /// Why it is not known that the record is removed.
    pub(super) trouble: Option<Error>,
}

impl Default for Told {
    fn default() -> Self {
        Self { status: RegistrationStatus::Registering, version: None, refused: None, trouble: None }
    }
}
