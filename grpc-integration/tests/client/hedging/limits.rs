//! What bounds hedges: the channel's maximum, budget and throttling.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hither_core::SortedById;
use hither_tonic::{
    CallInfo, HedgingPolicy, InstanceStatus, LoadBalancingPolicy, MethodConfig, Pick, Picker, ReadyInstance,
    RetryBudget, RetryThrottling,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::{MILLI, connect, hedged, policy, settle};
use crate::scripted::{Fleet, Reply, Script};
use crate::support::{Client, Net, Registry, Server, peers};
use crate::{SECOND, channel};

/// The call hung until its deadline (grpc/grpc-java#7222).
#[tokio::test(start_paused = true)]
async fn a_call_whose_hedges_are_throttled_fails_with_its_first_attempt() {
    let fleet = Fleet::of(3, Script::default()).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    let client =
        connect(&fleet, hedged(&fleet, policy()).retry_throttling(RetryThrottling::new(2, 0.1))).await;
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!((began.elapsed(), fleet.script.take().len()), (Duration::ZERO, 3));
    // Nor is one sent by the timer.
    fleet.script.then(Reply::Name.after(SECOND));
    client.name().await.unwrap();
    assert_eq!(fleet.script.take().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_hedges_whatever_the_delay() {
    let fleet = Fleet::of(3, Script::default()).await;
    fleet.script.then(Reply::Name.after(10 * MILLI));
    let policy = HedgingPolicy::after(Duration::ZERO).with_max_attempts(3);
    let builder = hedged(&fleet, policy).retry_budget(RetryBudget::default().with_min_per_second(0.0));
    let client = connect(&fleet, builder).await;
    for _ in 0..1000 {
        client.name().await.unwrap();
    }
    settle(&fleet).await;
    let attempts = fleet.script.take().len();
    assert!((1190..=1200).contains(&attempts), "{attempts}");
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_the_budget_denies_is_no_attempt() {
    let fleet = Fleet::of(3, Script::default()).await;
    fleet.script.then(Reply::Name.after(10 * MILLI));
    let policy = HedgingPolicy::after(Duration::ZERO).with_max_attempts(3);
    let budget = RetryBudget::default().with_min_per_second(0.0).with_ratio(0.0);
    let channel = hedged(&fleet, policy).retry_budget(budget).connect().await.unwrap();
    sleep(SECOND).await;
    let client = Client::new(&channel);
    for _ in 0..100 {
        client.name().await.unwrap();
    }
    let status = channel.status();
    let count = |number: fn(&InstanceStatus) -> u64| status.instances().iter().map(number).sum::<u64>();
    assert_eq!([count(InstanceStatus::started), count(InstanceStatus::failed)], [100, 0]);
    assert_eq!((fleet.recorder.codes(), fleet.recorder.unsent()), (vec![Code::Ok; 100], vec![]));
}

#[tokio::test(start_paused = true)]
async fn the_channel_limits_the_attempts_of_a_call() {
    let fleet = Fleet::of(4, Script::default()).await;
    for (most, expected) in [(1, 1), (2, 2), (100, 4)] {
        fleet.script.then(Reply::Name.after(SECOND));
        let client = connect(&fleet, hedged(&fleet, policy()).max_attempts(most)).await;
        client.name().await.unwrap();
        assert_eq!(fleet.script.take().len(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_after_a_failure_is_taken_out_of_the_budget_too() {
    let fleet = Fleet::of(4, Script::default()).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    let budget = RetryBudget::default().with_min_per_second(0.2).with_ratio(0.0);
    let client = connect(&fleet, hedged(&fleet, policy()).retry_budget(budget)).await;
    for attempts in [3, 1] {
        client.name().await.unwrap_err();
        assert_eq!(fleet.script.take().len(), attempts, "there were two");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pushback_that_forbids_hedges_takes_a_token_whatever_the_code() {
    let fleet = Fleet::of(3, Script::default()).await;
    let throttling = RetryThrottling::new(4, 0.001);
    let client = connect(&fleet, hedged(&fleet, policy()).retry_throttling(throttling)).await;
    // Four tokens, three, and then two, which are few.
    fleet.script.push([Reply::Pushback(Code::Internal, "-1"), Reply::Fail(Code::Unavailable)]);
    client.name().await.unwrap_err();
    assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fleet.script.take().len(), 2);
}

/// There is none a moment later either.
#[tokio::test(start_paused = true)]
async fn calls_for_which_no_instance_is_ready_take_no_tokens() {
    let mut fleet = Fleet::of(1, Script::default()).await;
    let builder = hedged(&fleet, policy()).retry_throttling(RetryThrottling::new(2, 0.001));
    let client = connect(&fleet, builder).await;
    fleet.servers.remove(0).kill();
    sleep(SECOND).await;
    for _ in 0..5 {
        assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
    }
    fleet.restart("a:1").await;
    fleet.restart("b:1").await;
    sleep(200 * SECOND).await;
    fleet.script.push([Reply::Name.after(SECOND)]);
    client.name().await.unwrap();
    assert_eq!(fleet.script.take().len(), 2, "it was hedged");
}

/// What a server has refused is bounded by itself, as of any other call.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_is_sent_again_without_a_budget_and_ten_times() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let refused = peers::refusing(&net, "a:1");
    registry.up("a:1").await;
    for budget in [0.0, 1000.0] {
        let hedging = policy().with_non_fatal_codes([]);
        let builder = channel(&registry, &net)
            .method("", MethodConfig::default().with_hedging(hedging))
            .retry_budget(RetryBudget::default().with_ratio(budget).with_min_per_second(budget));
        let client = Client::new(&builder.connect().await.unwrap());
        assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(refused.swap(0, Ordering::SeqCst), 10);
    }
}

/// Picks the instances one after the other, in their order.
#[derive(Debug, Clone, Default)]
struct InOrder(SortedById<ReadyInstance>, Arc<AtomicUsize>);

impl LoadBalancingPolicy for InOrder {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        Arc::new(Self(ready.clone(), Arc::clone(&self.1)))
    }
}

impl Picker for InOrder {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        let picks = self.1.fetch_add(1, Ordering::SeqCst);
        Pick::Instance(self.0[picks % self.0.len()].clone().into())
    }
}

/// It is as if it had not been sent.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_refused_is_none_of_those_that_the_policy_allows() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let held = Server::on(&net, "a:1");
    let refused = peers::refusing(&net, "b:1");
    let server = Server::on(&net, "c:1");
    server.open_gate();
    for address in ["a:1", "b:1", "c:1"] {
        registry.up(address).await;
    }
    let builder = channel(&registry, &net)
        .policy(InOrder::default())
        .method("", MethodConfig::default().with_hedging(policy().with_max_attempts(2)));
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    let call = timeout(SECOND, client.call("Hold", String::new())).await;
    assert_eq!(call.expect("it is hedged once more").unwrap().into_inner(), "c:1");
    assert_eq!((held.calls(), refused.load(Ordering::SeqCst), server.calls()), (1, 1, 1));
}
