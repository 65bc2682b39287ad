//! The desired state of a registration, and the observed one.

use tokio::time::Instant;

use crate::metrics::StateGauge;
use crate::{Error, Registration, ServiceName};

/// The state of a registration.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RegistrationStatus {
    /// The first attempts are in progress.
    Registering,
    /// The registry has the record, on a lease that is being renewed.
    Registered,
    /// The registry cannot be reached, or has lost the record; the attempts go on without limit. They are to register, or
    /// to remove the record of an owner that [withdrew](crate::RegistrationHandle::withdraw) it, which is still there.
    #[non_exhaustive]
    Retrying {
        /// When the registration was lost, or the first attempt failed.
        since: Instant,
        /// The most recent error.
        cause: Error,
    },
    /// Not registered, because the owner [withdrew](crate::RegistrationHandle::withdraw) it.
    Withdrawn,
    /// Another owner registered under the same id later. Final: two owners never fight over an id.
    Superseded,
    /// The registry refuses this registration. Final.
    Failed(Error),
    /// The record is being removed.
    Deregistering,
    /// The record is removed, or is no longer renewed. Final.
    Deregistered,
}

impl RegistrationStatus {
    /// Whether the status will not change any more.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Superseded | Self::Failed(_) | Self::Deregistered)
    }

    /// Its name in metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::Registering => "REGISTERING",
            Self::Registered => "REGISTERED",
            Self::Retrying { .. } => "RETRYING",
            Self::Withdrawn => "WITHDRAWN",
            Self::Superseded => "SUPERSEDED",
            Self::Failed(_) => "FAILED",
            Self::Deregistering => "DEREGISTERING",
            Self::Deregistered => "DEREGISTERED",
        }
    }
}

/// What the owner wants.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    pub(super) registration: Registration,
    /// Counts the updates.
    pub(super) version: u64,
    pub(super) presence: Presence,
}

/// Whether the record is to be in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Registered,
    /// Not now.
    Withdrawn,
    /// Never again.
    Leaving,
}

/// What the task has seen.
#[derive(Debug)]
pub(super) struct Observed {
    status: RegistrationStatus,
    gauge: StateGauge,
    /// The newest version that the registry has.
    pub(super) version: Option<u64>,
    /// The newest version that the registry refused.
    pub(super) refused: Option<(u64, Error)>,
    /// Why it is not certain that the record is removed.
    pub(super) unconfirmed: Option<Error>,
}

impl Observed {
    pub(super) fn new(service: &ServiceName, status: RegistrationStatus) -> Self {
        let mut gauge = StateGauge::new(service);
        gauge.set(status.name());
        Self { status, gauge, version: None, refused: None, unconfirmed: None }
    }

    pub(super) fn status(&self) -> &RegistrationStatus {
        &self.status
    }

    pub(super) fn set_status(&mut self, status: RegistrationStatus) {
        self.gauge.set(status.name());
        self.status = status;
    }
}
