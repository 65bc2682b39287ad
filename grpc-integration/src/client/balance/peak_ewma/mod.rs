//! Peak EWMA: the faster of two random instances.

mod latency;
mod pushback;

use std::sync::Arc;
use std::time::Duration;

use hither_core::SortedById;
use tonic::Code;

use super::per_instance::{InstanceWith, PerInstance};
use super::policy::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker};
use super::two_choices::TwoChoices;
use super::weighted::Weighted;
use crate::client::evidence::Evidence;
use crate::client::ready_instance::{Picked, ReadyInstance};
use latency::{Clock, Latency};
use pushback::pushback;

/// The longest time, so that it can be multiplied and added to any other.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Picks two random ready instances and takes the one where a call is expected to be done first: by the latency measured
/// there, times the calls in flight. For unary calls to servers of unequal speed or distance. Finagle, linkerd and tower
/// have it by this name.
///
/// The latency is an exponentially weighted moving average (EWMA) that rises to a peak at once and falls with the time
/// constant [`decay`](Self::with_decay). So a server that becomes slow loses its calls with the first slow one, and gets
/// some again as the average falls. While a call is not answered, the latency is at least as long as no answer has come: a
/// server that freezes loses its calls before any of them has ended. An instance that was not measured yet counts as fast
/// as the one it is compared with.
///
/// - A failed call (UNAVAILABLE, INTERNAL, UNKNOWN, DATA_LOSS, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED) counts as one of the
///   [`penalty`](Self::with_penalty), times the share of failures among the latest calls: a server that fails at once does
///   not look fast, and one failure among many counts for little.
/// - One that the caller gives up before its response has begun counts as long as it took, up to the penalty, if others were
///   faster.
/// - A failed call whose trailers have `grpc-retry-pushback-ms`, or `retry-after` in seconds, makes the instance the second
///   choice for that long, up to [`max_pushback`](Self::with_max_pushback).
/// - Where [weights](ReadyInstance::weight) differ, the first of the two is drawn by weight, and the calls in flight count by
///   weight. The other takes the call if it is expected to be done sooner there, although that one has it already: so
///   instances that are equally fast have their shares by weight, and a heavy one loses calls to a light one if it is much
///   slower only. Weight 0 is picked only when no other instance is ready.
///
/// The latency of a call is the time until its response has begun, or ended if all of it comes at once: an open stream is one
/// call in flight, and no slow one (tower's `CompleteOnResponse`). Where a server sends headers long before the message,
/// [`LeastRequest`](crate::LeastRequest) is better.
///
/// ```
/// use std::time::Duration;
/// use hither_tonic::PeakEwma;
///
/// let policy = PeakEwma::default();
/// let quick_to_forgive = PeakEwma::default().with_decay(Duration::from_secs(3));
/// ```
#[derive(Debug)]
pub struct PeakEwma {
    config: Config,
    seed: Option<u64>,
    clock: Clock,
    latencies: PerInstance<Latency>,
    weighted: Weighted<InstanceWith<Latency>>,
}

#[derive(Debug, Clone, Copy)]
struct Config {
    decay: Duration,
    penalty: Duration,
    max_pushback: Duration,
}

impl PeakEwma {
    /// Sets the time in which the measured latency falls to 37 % (1/e) on its way to the present one. Default 10 s, as
    /// linkerd's and Finagle's; at least a millisecond.
    #[must_use]
    pub fn with_decay(mut self, decay: Duration) -> Self {
        self.config.decay = decay.max(Duration::from_millis(1));
        self
    }

    /// Sets the latency that a failed call counts as, at least, where all calls fail. At most a day; default 5 s, as linkerd's.
    #[must_use]
    pub fn with_penalty(mut self, penalty: Duration) -> Self {
        self.config.penalty = penalty.min(DAY);
        self
    }

    /// Sets for how long an instance that has asked for a pause is avoided, at most. At most a day; default 60 s; zero ignores what it asks
    /// for.
    #[must_use]
    pub fn with_max_pushback(mut self, max_pushback: Duration) -> Self {
        self.config.max_pushback = max_pushback.min(DAY);
        self
    }

    /// Sets the seed of the random choices.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        let config = Config {
            decay: Duration::from_secs(10),
            penalty: Duration::from_secs(5),
            max_pushback: Duration::from_secs(60),
        };
        let (clock, latencies, weighted) = (Clock::start(), PerInstance::default(), Weighted::default());
        Self { config, seed: None, clock, latencies, weighted }
    }
}

impl LoadBalancingPolicy for PeakEwma {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        let latencies = self.latencies.update(ready, |_| Latency::default());
        let choices = TwoChoices::new(latencies, &mut self.weighted, self.seed);
        Arc::new(PeakEwmaPicker { choices, clock: self.clock, config: self.config })
    }
}

#[derive(Debug)]
struct PeakEwmaPicker {
    choices: TwoChoices<InstanceWith<Latency>>,
    clock: Clock,
    config: Config,
}

/// What two instances are compared by.
#[derive(Debug)]
struct Cost {
    has_asked_for_a_pause: bool,
    /// `None` if nothing was measured yet.
    latency: Option<f64>,
    /// The calls ahead and this one; where weights differ, by weight.
    calls: f64,
    /// What one call more adds to them, for the second of the two: where weights differ, one by weight.
    ///
    /// Without it the second would take each call that finds the first one busy, or whose average has not fallen for as long:
    /// with two equal ones that is even, but a light one is nearly always idle and was measured long ago. It would get as
    /// many calls as it is drawn, whatever its weight.
    margin: f64,
}

impl PeakEwmaPicker {
    fn cost(&self, known: &InstanceWith<Latency>, now: u64) -> Cost {
        let (instance, latency) = (known.instance(), known.state());
        let in_flight = instance.in_flight();
        let by_weight = self.choices.mean_weight().map(|mean| mean / instance.weight());
        Cost {
            has_asked_for_a_pause: latency.is_paused(now),
            latency: latency.expected(now, self.config.decay, in_flight),
            calls: in_flight as f64 * by_weight.unwrap_or(1.0) + 1.0,
            margin: by_weight.unwrap_or(0.0),
        }
    }
}

impl Cost {
    /// Whether the second of two takes the call from the first.
    fn is_better_than(&self, first: &Self) -> bool {
        if self.has_asked_for_a_pause != first.has_asked_for_a_pause {
            return first.has_asked_for_a_pause;
        }
        let any = self.latency.or(first.latency).unwrap_or(1.0);
        self.latency.unwrap_or(any) * (self.calls + self.margin) < first.latency.unwrap_or(any) * first.calls
    }
}

impl Picker for PeakEwmaPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        let Some((a, b)) = self.choices.draw() else { return Pick::Queue };
        let now = self.clock.now();
        let chosen = if self.cost(b, now).is_better_than(&self.cost(a, now)) { b } else { a };
        chosen.state().asked(now, chosen.instance().in_flight());
        Pick::Instance(chosen.instance().clone().into())
    }

    fn responding(&self, picked: &Picked, after: Duration) {
        let instance = picked.instance();
        let Some(known) = self.choices.all().get(instance.instance().id()) else { return };
        let now = self.clock.now();
        known.state().responding(now, instance.in_flight());
        known.state().record(now, after, self.config.decay);
    }

    fn done(&self, picked: &Picked, outcome: &Outcome<'_>) {
        // It has not kept anything waiting.
        if !outcome.was_sent() {
            return;
        }
        let instance = picked.instance();
        let Some(known) = self.choices.all().get(instance.instance().id()) else { return };
        let (now, Config { decay, penalty, max_pushback }) = (self.clock.now(), self.config);
        if outcome.was_responding() {
            known.state().responded();
            if outcome.evidence() == Evidence::None {
                // A stream that is no longer wanted.
                return;
            }
        }
        known.state().answered(now, instance.in_flight().saturating_sub(1));
        if outcome.evidence() == Evidence::None {
            // It would have taken longer.
            let least = outcome.duration().min(penalty);
            if outcome.code() == Code::Cancelled && known.state().is_exceeded_by(now, least, decay) {
                known.state().record(now, least, decay);
            }
            return;
        }
        let (failures, is_failure) = (instance.failures(), outcome.evidence() == Evidence::Failure);
        // By those before: one failure among many is of no account.
        let least = if is_failure { penalty.mul_f64(failures.rate()) } else { Duration::ZERO };
        failures.record(is_failure);
        if !outcome.was_responding() {
            known.state().record(now, outcome.duration().max(least), decay);
        } else if is_failure {
            known.state().record(now, least, decay);
        }
        if let Some(pause) = outcome.trailers().filter(|_| is_failure).and_then(pushback) {
            known.state().pause(now, pause.min(max_pushback));
        }
    }
}

#[cfg(test)]
mod tests;
