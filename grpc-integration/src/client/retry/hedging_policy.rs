//! Hedging: attempts beside each other.

use std::time::Duration;

use tonic::Code;

use super::codes::Codes;
use super::method_latencies::MethodLatencies;

/// So that it can be added to an instant.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// No timer fires sooner, so that a method whose calls are answered in microseconds is not hedged for a thread that was
/// not scheduled.
const LEAST_MEASURED: Duration = Duration::from_millis(1);

/// When calls of a method are sent to further instances before the first has answered: gRPC's `hedgingPolicy` (gRFC
/// A6), for [`MethodConfig::with_hedging`](crate::MethodConfig::with_hedging). For methods that may be processed several times.
///
/// A call that was not answered after the delay is sent to a second instance, after another delay to a third, up to
/// the maximum. The first response wins, and the others are cancelled. Where one attempt fails with a *non-fatal* code,
/// the next is sent at once; any other failure is returned, and ends the rest.
///
/// ```
/// use std::time::Duration;
/// use hither_tonic::HedgingPolicy;
///
/// // One call in twenty is sent twice: those slower than 95 % of the latest ones.
/// let measured = HedgingPolicy::after_percentile(0.95);
/// let fixed = HedgingPolicy::after(Duration::from_millis(50)).with_max_attempts(3);
/// ```
///
/// # What is sent, and where
///
/// Beside an attempt that is not answered another is only sent to an instance that this call has not tried, that has
/// capacity at this moment, and whose weight is not 0 unless that is so of all: a second copy for the same server, or in a queue, would slow down what it should speed up. Where
/// there is none, no other is sent before one fails. When all that were sent have failed, the next one waits for an
/// instance as any call does.
///
/// Hedges need the whole request at the beginning: they are for unary calls and server streams. Of a client's stream only
/// one attempt is made.
///
/// Each hedge is taken out of the channel's [`RetryBudget`](crate::RetryBudget): by default no more than every fifth call is
/// hedged, whatever the delay. [`RetryThrottling`](crate::RetryThrottling) stops hedges while many attempts fail. A server
/// delays the next hedge by the header `grpc-retry-pushback-ms`, or forbids it.
#[derive(Debug, Clone)]
pub struct HedgingPolicy {
    max_attempts: u32,
    delay: Delay,
    non_fatal: Codes,
}

#[derive(Debug, Clone, Copy)]
enum Delay {
    Fixed(Duration),
    Percentile(f64),
}

impl HedgingPolicy {
    /// Hedges after this delay. Zero sends all attempts at once; at most a day.
    #[must_use]
    pub fn after(delay: Duration) -> Self {
        Self::of(Delay::Fixed(delay))
    }

    /// Hedges after the time within which this share of the method's calls was answered lately: 0.95 hedges the slowest
    /// 5 %. More than 0 and less than 1.
    ///
    /// Each method is measured by itself, also where the policy is set for a service or for all: of up to 256 methods, those
    /// beyond them together. The time is measured from sending the first attempt to the headers of a response. Older calls count for half after
    /// a minute or 4,096 calls, a quarter after another, and so on; before there were a hundred, none is hedged. A call that
    /// its hedge has answered counts with the time that it took in all, so hedges do not shorten the delay. It is precise to
    /// 6 %, and at least 1 ms.
    #[must_use]
    pub fn after_percentile(share: f64) -> Self {
        Self::of(Delay::Percentile(share))
    }

    fn of(delay: Delay) -> Self {
        Self { max_attempts: 2, delay, non_fatal: Codes::from_iter([Code::Unavailable]) }
    }

    /// Sets the maximum number of attempts, including the first. At least 2; more than
    /// [`ChannelBuilder::max_attempts`](crate::ChannelBuilder::max_attempts), by default 5, count as that many. Default 2.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the status codes after which other attempts may still succeed. Not OK; none: each failure ends the call.
    /// Default UNAVAILABLE.
    #[must_use]
    pub fn with_non_fatal_codes(mut self, codes: impl IntoIterator<Item = Code>) -> Self {
        self.non_fatal = codes.into_iter().collect();
        self
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.max_attempts < 2 {
            return Err(format!(
                "max_attempts of its hedging policy is {}, not 2 or more",
                self.max_attempts
            ));
        }
        if self.non_fatal.contains(Code::Ok) {
            return Err("the non-fatal codes of its hedging policy have OK among them".to_owned());
        }
        match self.delay {
            Delay::Fixed(delay) if delay > LONGEST => {
                Err(format!("the delay of its hedging policy is {delay:?}, more than a day"))
            }
            Delay::Percentile(share) if !(share > 0.0 && share < 1.0) => {
                Err(format!("the percentile of its hedging policy is {share}, not between 0 and 1"))
            }
            _ => Ok(()),
        }
    }
}

/// The hedges of a method.
#[derive(Debug)]
pub(crate) struct Hedging {
    pub(crate) max_attempts: u32,
    delay: Measured,
    non_fatal: Codes,
}

#[derive(Debug)]
enum Measured {
    Fixed(Duration),
    Latencies(MethodLatencies),
}

impl Hedging {
    pub(super) fn new(policy: &HedgingPolicy, most_attempts: u32) -> Self {
        let delay = match policy.delay {
            Delay::Fixed(delay) => Measured::Fixed(delay),
            Delay::Percentile(share) => Measured::Latencies(MethodLatencies::new(share)),
        };
        Self { max_attempts: policy.max_attempts.min(most_attempts), delay, non_fatal: policy.non_fatal }
    }

    pub(crate) fn is_non_fatal(&self, code: Code) -> bool {
        self.non_fatal.contains(code)
    }

    /// Returns the delay of a call of `path` that begins now; `None`: it is not known yet.
    pub(crate) fn delay(&self, path: &str) -> Option<Duration> {
        match &self.delay {
            Measured::Fixed(delay) => Some(*delay),
            Measured::Latencies(latencies) => Some(latencies.percentile(path)?.max(LEAST_MEASURED)),
        }
    }

    /// A call of `path` was answered so long after its first attempt, which had not failed.
    pub(crate) fn on_answer(&self, path: &str, after: Duration) {
        if let Measured::Latencies(latencies) = &self.delay {
            latencies.record(path, after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_the_delay_are_those_that_are_documented() {
        let nano = Duration::from_nanos(1);
        for (policy, is_allowed) in [
            (HedgingPolicy::after(Duration::ZERO), true),
            (HedgingPolicy::after(LONGEST), true),
            (HedgingPolicy::after(LONGEST + nano), false),
            (HedgingPolicy::after_percentile(0.0), false),
            (HedgingPolicy::after_percentile(f64::MIN_POSITIVE), true),
            (HedgingPolicy::after_percentile(0.999), true),
            (HedgingPolicy::after_percentile(1.0), false),
        ] {
            assert_eq!(policy.check().is_ok(), is_allowed, "{policy:?}");
        }
    }

    /// A hedge for each call whose thread was not scheduled at once would be one for nearly each call.
    #[tokio::test(start_paused = true)]
    async fn calls_that_take_microseconds_are_hedged_after_a_millisecond() {
        let hedging = Hedging::new(&HedgingPolicy::after_percentile(0.95), 5);
        for (micros, expected) in [(10, 1000..=1000), (5000, 5000..=5400)] {
            (0..10_000).for_each(|_| hedging.on_answer("/a.S/M", Duration::from_micros(micros)));
            let delay = hedging.delay("/a.S/M").unwrap();
            assert!(expected.contains(&delay.as_micros()), "{delay:?}");
        }
    }
}
