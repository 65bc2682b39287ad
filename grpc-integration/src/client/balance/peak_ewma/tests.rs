//! What each end of a call tells of its instance.

use hither_core::{HasId, Instance};
use http::{Extensions, HeaderMap};
use tokio::time::advance;

use super::*;
use crate::client::ready_instance::InFlight;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A policy over so many instances.
struct Fleet {
    policy: PeakEwma,
    ready: SortedById<ReadyInstance>,
    picker: Arc<dyn Picker>,
}

impl Fleet {
    fn of(count: usize) -> Self {
        let instance = |id| Instance::new("h:1".parse().unwrap()).with_id(format!("i{id}").parse().unwrap());
        let ready = (0..count).map(|id| ReadyInstance::new(Arc::new(instance(id)))).collect();
        let mut policy = PeakEwma::default().with_seed(1);
        let picker = policy.picker(&ready);
        Self { policy, ready, picker }
    }

    fn call(&self) -> InFlight {
        match self.picker.pick(&CallInfo::new("/", &HeaderMap::new(), &Extensions::new())) {
            Pick::Instance(picked) => picked.started(),
            pick => panic!("{pick:?}"),
        }
    }

    fn done(&self, call: &InFlight, outcome: &Outcome<'_>) {
        self.picker.done(call.picked(), outcome);
    }

    /// The expected latency of the first instance, in milliseconds.
    fn expected(&mut self) -> Option<f64> {
        let (now, decay) = (self.policy.clock.now(), self.policy.config.decay);
        let known = &self.policy.latencies.update(&self.ready, |_| Latency::default())[0];
        Some(known.state().expected(now, decay, known.instance().in_flight())? / 1e6)
    }

    #[track_caller]
    fn expects(&mut self, expected: f64) {
        let found = self.expected().unwrap();
        assert!((found - expected).abs() < 1e-5 * expected, "{found}, not {expected}");
    }

    fn is_paused(&mut self) -> bool {
        let now = self.policy.clock.now();
        self.policy.latencies.update(&self.ready, |_| Latency::default())[0].state().is_paused(now)
    }
}

#[tokio::test(start_paused = true)]
async fn times_are_those_of_finagle_and_bounded() {
    let times = |policy: PeakEwma| {
        let Config { decay, penalty, max_pushback } = policy.config;
        [decay, penalty, max_pushback].map(|time| time.as_millis())
    };
    assert_eq!(times(PeakEwma::default()), [10_000, 5000, 60_000]);
    let longest = PeakEwma::default().with_penalty(Duration::MAX).with_max_pushback(Duration::MAX);
    assert_eq!(times(longest.with_decay(Duration::ZERO)), [1, DAY.as_millis(), DAY.as_millis()]);
}

#[tokio::test(start_paused = true)]
async fn a_call_counts_by_what_its_end_tells() {
    // 100 ms, ten seconds ago.
    let kept = 100.0 / 1_f64.exp();
    let with_20_ms = kept + 20.0 * (1.0 - 1.0 / 1_f64.exp());
    for (outcome, expected) in [
        (Outcome::new(Code::Ok, 200 * MS), 200.0),
        (Outcome::new(Code::Ok, 20 * MS), with_20_ms),
        // The first failure of all.
        (Outcome::new(Code::Unavailable, 20 * MS), with_20_ms),
        (Outcome::new(Code::Cancelled, MS), kept),
        (Outcome::new(Code::Cancelled, 2 * SECOND), 2000.0),
        (Outcome::new(Code::Cancelled, 60 * SECOND), 5000.0),
        (Outcome::new(Code::Unavailable, 2 * SECOND).without_evidence(), kept),
        (Outcome::new(Code::Unavailable, 2 * SECOND).unsent(), kept),
    ] {
        let mut fleet = Fleet::of(1);
        fleet.done(&fleet.call(), &Outcome::new(Code::Ok, 100 * MS));
        advance(10 * SECOND).await;
        fleet.done(&fleet.call(), &outcome);
        fleet.expects(expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_has_begun_counts_until_then_and_its_end_only_if_it_is_a_failure() {
    for code in [Code::Ok, Code::Cancelled] {
        let mut fleet = Fleet::of(1);
        let call = fleet.call();
        fleet.picker.responding(call.picked(), 2 * MS);
        fleet.done(&call, &Outcome::new(code, 60 * SECOND).with_responding(true));
        drop(call);
        fleet.expects(2.0);
        let _next = fleet.call();
        advance(SECOND).await;
        fleet.expects(1000.0);
    }
    let mut fleet = Fleet::of(1);
    for _ in 0..100 {
        let call = fleet.call();
        fleet.picker.responding(call.picked(), 2 * MS);
        fleet.done(&call, &Outcome::new(Code::Unavailable, 2 * MS).with_responding(true));
    }
    assert!(fleet.expected() > Some(4000.0));
}

#[tokio::test(start_paused = true)]
async fn what_fails_at_once_counts_as_slow_and_is_fast_again_when_it_does_not() {
    let mut fleet = Fleet::of(1);
    for _ in 0..100 {
        fleet.done(&fleet.call(), &Outcome::new(Code::Unavailable, 2 * MS));
    }
    assert!(fleet.expected() > Some(4000.0));
    for _ in 0..100 {
        fleet.done(&fleet.call(), &Outcome::new(Code::Ok, 2 * MS));
    }
    advance(200 * SECOND).await;
    fleet.done(&fleet.call(), &Outcome::new(Code::Unavailable, 2 * MS));
    assert!(fleet.expected() < Some(10.0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_none_of_its_calls_counts_as_slow_as_the_first_of_them() {
    let mut fleet = Fleet::of(1);
    let mut calls = Vec::new();
    for _ in 0..2 {
        calls.push(fleet.call());
        advance(SECOND).await;
    }
    fleet.expects(2000.0);
    fleet.done(&calls[1], &Outcome::new(Code::Cancelled, Duration::ZERO).unsent());
    fleet.expects(2000.0);
    // Its only answer was the last of what is waited for.
    let mut fleet = Fleet::of(1);
    fleet.done(&fleet.call(), &Outcome::new(Code::Ok, 2 * MS));
    let _left_to_it = Picked::from(fleet.ready[0].clone()).started();
    advance(10 * SECOND).await;
    fleet.expects(2.0 / 1_f64.exp());
}

#[tokio::test(start_paused = true)]
async fn a_failure_asks_for_a_pause_and_for_no_more_than_the_longest() {
    let mut fleet = Fleet::of(1);
    let trailers =
        HeaderMap::from_iter([("grpc-retry-pushback-ms".parse().unwrap(), "3600000".parse().unwrap())]);
    fleet.done(&fleet.call(), &Outcome::new(Code::Ok, MS).with_trailers(&trailers));
    assert!(!fleet.is_paused());
    fleet.done(&fleet.call(), &Outcome::new(Code::Unavailable, MS).with_trailers(&trailers));
    advance(59 * SECOND).await;
    assert!(fleet.is_paused());
    advance(SECOND).await;
    assert!(!fleet.is_paused());
}

#[tokio::test(start_paused = true)]
async fn what_was_not_measured_counts_as_fast_as_the_other() {
    let fleet = Fleet::of(2);
    let measured = fleet.call();
    fleet.done(&measured, &Outcome::new(Code::Ok, 100 * MS));
    let id = measured.picked().instance().id().clone();
    drop(measured);
    let mut share = 0;
    for _ in 0..400 {
        let call = fleet.call();
        share += usize::from(*call.picked().instance().id() == id);
    }
    assert!((140..260).contains(&share), "{share}");
}
