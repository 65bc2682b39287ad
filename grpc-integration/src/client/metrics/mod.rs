//! What a channel counts, with feature `metrics`. Without it all of this is empty.

#[cfg(feature = "metrics")]
mod call;
#[cfg(feature = "metrics")]
mod channel;
#[cfg(feature = "metrics")]
mod gauges;
#[cfg(feature = "metrics")]
mod methods;
#[cfg(feature = "metrics")]
mod names;
#[cfg(not(feature = "metrics"))]
mod off;

#[cfg(feature = "metrics")]
pub(crate) use call::{AttemptMetrics, CallAttempts, CallMetrics};
#[cfg(feature = "metrics")]
pub(crate) use channel::ChannelMetrics;
#[cfg(feature = "metrics")]
pub(crate) use gauges::Gauges;
#[cfg(not(feature = "metrics"))]
pub(crate) use off::{AttemptMetrics, CallAttempts, CallMetrics, ChannelMetrics, Gauges};

/// The instances of a channel, by their state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) registered: usize,
    pub(crate) held: usize,
    pub(crate) ready: usize,
    pub(crate) connecting: usize,
    pub(crate) failing: usize,
    pub(crate) ejected: usize,
}

/// How an outlier was found, and why it was not ejected, by the names of gRFC A91.
pub(crate) mod outlier {
    pub(crate) const SUCCESS_RATE: &str = "success_rate";
    pub(crate) const FAILURE_PERCENTAGE: &str = "failure_percentage";
    pub(crate) const CONSECUTIVE_FAILURES: &str = "consecutive_failures";
    /// It has failed again when it was tried.
    pub(crate) const PROBE: &str = "probe";

    pub(crate) const BY_ENFORCEMENT: &str = "enforcement_percentage";
    pub(crate) const BY_MAXIMUM: &str = "max_ejection_overflow";
    /// Chance explains its failures at the rate of the others.
    pub(crate) const BY_EVIDENCE: &str = "evidence";
}

/// What a load balancing policy has decided.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PickResult {
    Instance,
    Queue,
    Fail,
    Drop,
}
