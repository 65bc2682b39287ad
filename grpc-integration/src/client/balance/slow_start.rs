//! The settings of slow start.

use std::time::Duration;

use crate::error::{Error, Result};

/// The longest window, so that it can be added to any instant.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How an instance that has joined comes to its share of the calls gradually, while its caches fill and its code is compiled:
/// Envoy's slow start, for policies that count [weights](crate::ReadyInstance::weight), but for
/// [`RingHash`](crate::RingHash) as in Envoy; set by
/// [`ChannelBuilder::slow_start`](crate::ChannelBuilder::slow_start).
///
/// Within the window its weight is `weight * max(min_weight, (time / window) ^ (1 / aggression))`, which is computed anew
/// twenty times in the window, and not more often than each 100 ms. The window begins when the instance becomes ready for
/// the first time, and anew when it was not ready for a second or more: it has probably been restarted, where a connection
/// that is only replaced is back at once. An instance that was ejected as an outlier begins anew, too.
///
/// Weights are relative, so while all instances are new each has its full share. With few calls or many instances it has
/// little effect. While several [tiers](crate::Selection::tiers) take calls, as in a failover, it has none: each tier gets
/// its share, though its instances may all be new.
///
/// ```
/// use std::time::Duration;
/// use hither_core::{Discovery, StaticRegistry};
/// use hither_tonic::{DiscoveryChannel, SlowStart};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_tonic::Result<()> {
/// # let discovery = Discovery::new(StaticRegistry::new([]));
/// let slow_start = SlowStart::new(Duration::from_secs(60)).with_aggression(2.0);
/// let channel = DiscoveryChannel::builder(&discovery, "greeter").slow_start(slow_start).connect_lazy()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SlowStart {
    pub(crate) window: Duration,
    aggression: f64,
    min_weight: f64,
}

impl SlowStart {
    /// Returns the settings with this window, which is at most a day.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, aggression: 1.0, min_weight: 0.1 }
    }

    /// Sets how the weight grows: linearly with 1, faster at the beginning with more, and faster at the end with less.
    /// Default 1.
    #[must_use]
    pub fn with_aggression(mut self, aggression: f64) -> Self {
        self.aggression = aggression;
        self
    }

    /// Sets the part of its weight that an instance has at least, from 0 to 1. Default 0.1.
    #[must_use]
    pub fn with_min_weight(mut self, min_weight: f64) -> Self {
        self.min_weight = min_weight;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        for (is_valid, rule) in [
            (!self.window.is_zero() && self.window <= DAY, "window is not between zero and a day"),
            (self.aggression > 0.0 && self.aggression.is_finite(), "aggression is not above zero"),
            ((0.0..=1.0).contains(&self.min_weight), "min_weight is not between 0 and 1"),
        ] {
            if !is_valid {
                return Err(Error::invalid_argument(format!("the slow_start's {rule}")));
            }
        }
        Ok(())
    }

    /// Returns the factor of the weight so long after the beginning; `None` after the window.
    pub(crate) fn factor(&self, time: Duration) -> Option<f64> {
        let part = time.as_secs_f64() / self.window.as_secs_f64();
        (part < 1.0).then(|| part.powf(1.0 / self.aggression).max(self.min_weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_envoys() {
        let after = |config: &SlowStart, seconds| config.factor(Duration::from_secs(seconds));
        let linear = SlowStart::new(Duration::from_secs(100));
        let expected = [(0, Some(0.1)), (5, Some(0.1)), (20, Some(0.2)), (99, Some(0.99)), (100, None)];
        for (seconds, factor) in expected {
            assert_eq!(after(&linear, seconds), factor);
        }
        let near = |factor: Option<f64>, expected: f64| (factor.unwrap() - expected).abs() < 1e-12;
        assert!(near(after(&linear.clone().with_aggression(2.0), 25), 0.5));
        assert!(near(after(&linear.clone().with_aggression(0.5), 50), 0.25));
        assert_eq!(after(&linear.with_min_weight(0.0), 0), Some(0.0));
    }

    #[test]
    fn what_makes_no_sense_is_an_error_that_names_the_setting() {
        let minute = || SlowStart::new(Duration::from_secs(60));
        assert!(minute().with_aggression(0.1).with_min_weight(1.0).check().is_ok());
        assert!(SlowStart::new(DAY).with_min_weight(0.0).check().is_ok());
        for (config, expected) in [
            (SlowStart::new(Duration::ZERO), "the slow_start's window is not between zero and a day"),
            (SlowStart::new(Duration::MAX), "the slow_start's window is not between zero and a day"),
            (minute().with_aggression(0.0), "the slow_start's aggression is not above zero"),
            (minute().with_aggression(f64::NAN), "the slow_start's aggression is not above zero"),
            (minute().with_aggression(f64::INFINITY), "the slow_start's aggression is not above zero"),
            (minute().with_min_weight(-0.1), "the slow_start's min_weight is not between 0 and 1"),
            (minute().with_min_weight(1.1), "the slow_start's min_weight is not between 0 and 1"),
            (minute().with_min_weight(f64::NAN), "the slow_start's min_weight is not between 0 and 1"),
        ] {
            assert_eq!(config.check().unwrap_err().to_string(), expected);
        }
    }
}
