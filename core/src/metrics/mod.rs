//! What is counted of registrations and watches, with feature `metrics`. Without it all of this is empty.

#[cfg(feature = "metrics")]
mod describe;
#[cfg(feature = "metrics")]
mod names;
#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(feature = "metrics")]
mod registration;
#[cfg(feature = "metrics")]
mod watch;

#[cfg(feature = "metrics")]
pub use describe::{Kind, Metric, describe};
#[cfg(not(feature = "metrics"))]
pub(crate) use off::{RegistrationMetrics, StateGauge, WatchMetrics};
#[cfg(feature = "metrics")]
pub(crate) use registration::{RegistrationMetrics, StateGauge};
#[cfg(feature = "metrics")]
pub(crate) use watch::WatchMetrics;

/// What was asked of the registry for a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Register,
    Renew,
    Update,
    Deregister,
}

/// Where a snapshot is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Registry,
    Disk,
}
