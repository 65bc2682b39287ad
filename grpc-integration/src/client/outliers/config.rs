//! The settings of outlier detection.

use std::time::Duration;

use crate::error::{Error, Result};

/// The longest time, so that it can be added to any instant.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// When instances are ejected, which means left out for a while because they fail more than the others: gRPC's outlier
/// detection (gRFC A50; Envoy and Istio call it the same, linkerd failure accrual), set by
/// [`ChannelBuilder::outlier_detection`](crate::ChannelBuilder::outlier_detection).
///
/// ```
/// use std::time::Duration;
/// use hither_core::{Discovery, StaticRegistry};
/// use hither_tonic::{DiscoveryChannel, FailurePercentage, OutlierDetection};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_tonic::Result<()> {
/// # let discovery = Discovery::new(StaticRegistry::new([]));
/// let detection = OutlierDetection::default()
///     .with_base_ejection_time(Duration::from_secs(10))
///     .with_max_ejection_percent(30)
///     .with_failure_percentage(FailurePercentage::default().with_threshold(50));
/// let channel = DiscoveryChannel::builder(&discovery, "greeter").outlier_detection(detection).connect_lazy()?;
/// # Ok(())
/// # }
/// ```
///
/// # What counts
///
/// A call fails by the server's fault with UNAVAILABLE, INTERNAL, UNKNOWN, DATA_LOSS, RESOURCE_EXHAUSTED or
/// DEADLINE_EXCEEDED; other codes are successes, as they are answers. It counts at the end of its response, for a stream at
/// the end of the stream. One that was never sent, was dropped by the caller, or was cancelled because its hedge was faster,
/// counts for nothing: with [hedging](crate::HedgingPolicy) a server that never answers is not ejected. A response that the
/// caller's decoder gives up, since a message is over its limit or of another type, is dropped by the caller too; one that does
/// not begin as a message of gRPC's is INTERNAL. Of those that are lost
/// together with one connection, one counts. (A50 counts each status but OK as a failure, and each call.)
///
/// # When an instance is ejected
///
/// - *Consecutive failures*: at once, after five in a row.
/// - *Success rate*: at the end of an interval of 10 s, if the rate is below `mean - 1.9 * stdev` of the rates of all
///   instances that had 100 calls in it; if those are five or more.
/// - *Failure percentage*, off by default: if more than 85 % of its calls in the interval have failed; among five
///   instances or more with 50 calls each.
///
/// In each case it is ejected only if the others do better: if chance would bring about as many failures less than once in
/// a million, were they as probable as at the others. With `q` as the others' share of failures a run of `n` has the
/// probability `qⁿ`. So five failures in a row are enough while the others have at most 6 % failures, at 10 % it takes six or
/// seven and at 50 % twenty; and a request that fails everywhere ejects none. As few calls prove little, of two
/// instances it takes six. The others' calls are those since the first of the failures, and of this interval and the one
/// before: fewer than eight of them ask for more than five failures, and while there are none, as in a channel with a call now
/// and then, no instance is ejected.
///
/// The others are those that take calls. What takes none is no comparison: a standby of weight 0, a later tier of
/// [`Selection::tiers`](crate::Selection::tiers), and what [`pick_first`](crate::Selection::pick_first) or
/// [`Sticky`](crate::Sticky) has not chosen. So the only server that takes calls is never ejected, nor is a tier that fails as
/// a whole: it may be the calls, or what all servers depend on, and a standby would be taken down by them too.
///
/// # For how long
///
/// For `30 s * multiplier`, and at most 300 s. The multiplier is the number of ejections, and one less for each interval
/// that the instance passes without being ejected. The time is looked at once in an interval. Then the instance is called
/// again, by one call at a time (half-open), until one has succeeded or lasts for 30 s, as a stream may: then it is back. If
/// one fails, it is ejected again; but if half of the others' calls fail too, another one is let through.
///
/// What is given up by its caller, or loses to its hedge, decides nothing by itself. But if that happens for 30 s to all of
/// them, while most of the others' calls succeed, the instance is ejected again: it has answered nothing for as long as its
/// callers wait, so they lose nothing by it. If the response of any of them had begun, as of a stream of which the caller
/// wanted no more than the beginning, it is back instead. (A50 and Envoy call it like the others once its time is over, without a
/// trial. A circuit breaker of resilience4j opens again after `maxWaitDurationInHalfOpenState`.)
///
/// An ejected instance stays connected, finishes its calls, and is left out of the list that the load balancing policy
/// gets.
///
/// # How many
///
/// At most 10 % of the instances that the channel connects to, of all tiers together, but always one. That is checked before
/// each ejection: of eleven to twenty two may be ejected. One that is lost meanwhile, or whose time is over and that gets no
/// calls, takes no place: that is looked at once in an interval. When instances are lost, and so fewer than half of those that
/// are connected would be left, in the tiers that have a share of the calls, all of those are called, ejected or not (panic
/// threshold): with too few a service breaks down under its load. The last one is never left out. With
/// [`Lanes`](crate::Lanes) both are of all lanes together: one whose instances are all ejected is one without ready instances.
#[derive(Debug, Clone)]
pub struct OutlierDetection {
    pub(super) interval: Duration,
    pub(super) base_ejection_time: Duration,
    pub(super) max_ejection_time: Duration,
    pub(super) max_ejection_percent: u32,
    pub(super) panic_threshold: u32,
    pub(super) consecutive_failures: Option<u32>,
    pub(super) success_rate: Option<SuccessRate>,
    pub(super) failure_percentage: Option<FailurePercentage>,
    pub(super) seed: Option<u64>,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            panic_threshold: 50,
            consecutive_failures: Some(5),
            success_rate: Some(SuccessRate::default()),
            failure_percentage: None,
            seed: None,
        }
    }
}

impl OutlierDetection {
    /// Sets after how long each the instances are compared. Not zero, at most a day; default 10 s.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval.min(DAY);
        self
    }

    /// Sets for how long an instance is ejected the first time. Not zero, at most a day; default 30 s.
    #[must_use]
    pub fn with_base_ejection_time(mut self, time: Duration) -> Self {
        self.base_ejection_time = time.min(DAY);
        self
    }

    /// Sets the longest time of an ejection; the base time, if that is longer. At most a day; default 300 s.
    #[must_use]
    pub fn with_max_ejection_time(mut self, time: Duration) -> Self {
        self.max_ejection_time = time.min(DAY);
        self
    }

    /// Sets which share of the instances may be ejected, in percent. As long as it is not reached another one may be, so above
    /// zero it is always one. Default 10.
    #[must_use]
    pub fn with_max_ejection_percent(mut self, percent: u32) -> Self {
        self.max_ejection_percent = percent;
        self
    }

    /// Sets below which share of the connected instances, in percent, no more are left out: then all are called. Default
    /// 50, as Envoy's; 0: the last one is called.
    #[must_use]
    pub fn with_panic_threshold(mut self, percent: u32) -> Self {
        self.panic_threshold = percent;
        self
    }

    /// Sets how many calls have to fail in a row for an ejection. It takes more where the others fail too. Not zero;
    /// default 5. `None`: no number is enough.
    #[must_use]
    pub fn with_consecutive_failures(mut self, failures: impl Into<Option<u32>>) -> Self {
        self.consecutive_failures = failures.into();
        self
    }

    /// Sets how success rates are compared. Default [`SuccessRate::default`]; `None`: not at all.
    #[must_use]
    pub fn with_success_rate(mut self, success_rate: impl Into<Option<SuccessRate>>) -> Self {
        self.success_rate = success_rate.into();
        self
    }

    /// Sets how many failures are too many. Default `None`: no share of them is.
    #[must_use]
    pub fn with_failure_percentage(mut self, percentage: impl Into<Option<FailurePercentage>>) -> Self {
        self.failure_percentage = percentage.into();
        self
    }

    /// Sets the seed of the random decisions, which there are if the enforcement of an algorithm is below 100 %.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let (rate, percentage) = (self.success_rate.as_ref(), self.failure_percentage.as_ref());
        for (invalid, message) in [
            (self.interval.is_zero(), "interval is zero"),
            (self.base_ejection_time.is_zero(), "base_ejection_time is zero"),
            (self.max_ejection_percent > 100, "max_ejection_percent is above 100"),
            (self.panic_threshold > 100, "panic_threshold is above 100"),
            (self.consecutive_failures == Some(0), "consecutive_failures is zero"),
            (
                rate.is_some_and(|rate| !rate.stdev_factor.is_finite() || rate.stdev_factor < 0.0),
                "stdev_factor is negative or no number",
            ),
            (rate.is_some_and(|rate| rate.enforcement_percent > 100), "enforcement_percent is above 100"),
            (percentage.is_some_and(|percentage| percentage.threshold > 100), "threshold is above 100"),
            (
                percentage.is_some_and(|percentage| percentage.enforcement_percent > 100),
                "enforcement_percent is above 100",
            ),
        ] {
            if invalid {
                return Err(Error::invalid_argument(format!("outlier_detection: {message}")));
            }
        }
        Ok(())
    }
}

/// Ejects instances whose success rate is below `mean - stdev * factor` of all (A50's `success_rate_ejection`).
#[derive(Debug, Clone)]
pub struct SuccessRate {
    pub(super) stdev_factor: f64,
    pub(super) minimum_hosts: u32,
    pub(super) request_volume: u32,
    pub(super) enforcement_percent: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { stdev_factor: 1.9, minimum_hosts: 5, request_volume: 100, enforcement_percent: 100 }
    }
}

impl SuccessRate {
    /// Sets the factor of the standard deviation. Default 1.9, which A50 writes as 1900.
    #[must_use]
    pub fn with_stdev_factor(mut self, factor: f64) -> Self {
        self.stdev_factor = factor;
        self
    }

    /// Sets how many instances have to have enough calls. Default 5.
    #[must_use]
    pub fn with_minimum_hosts(mut self, hosts: u32) -> Self {
        self.minimum_hosts = hosts;
        self
    }

    /// Sets how many calls in an interval are enough. Default 100.
    #[must_use]
    pub fn with_request_volume(mut self, calls: u32) -> Self {
        self.request_volume = calls;
        self
    }

    /// Sets the probability with which an outlier is ejected, in percent. Default 100.
    #[must_use]
    pub fn with_enforcement_percent(mut self, percent: u32) -> Self {
        self.enforcement_percent = percent;
        self
    }
}

/// Ejects instances of which more calls have failed than a threshold (A50's `failure_percentage_ejection`).
#[derive(Debug, Clone)]
pub struct FailurePercentage {
    pub(super) threshold: u32,
    pub(super) minimum_hosts: u32,
    pub(super) request_volume: u32,
    pub(super) enforcement_percent: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold: 85, minimum_hosts: 5, request_volume: 50, enforcement_percent: 100 }
    }
}

impl FailurePercentage {
    /// Sets the share of failures that has to be exceeded, in percent. Default 85.
    #[must_use]
    pub fn with_threshold(mut self, percent: u32) -> Self {
        self.threshold = percent;
        self
    }

    /// Sets how many instances have to have enough calls. Default 5.
    #[must_use]
    pub fn with_minimum_hosts(mut self, hosts: u32) -> Self {
        self.minimum_hosts = hosts;
        self
    }

    /// Sets how many calls in an interval are enough. Default 50.
    #[must_use]
    pub fn with_request_volume(mut self, calls: u32) -> Self {
        self.request_volume = calls;
        self
    }

    /// Sets the probability with which an outlier is ejected, in percent. Default 100.
    #[must_use]
    pub fn with_enforcement_percent(mut self, percent: u32) -> Self {
        self.enforcement_percent = percent;
        self
    }
}
