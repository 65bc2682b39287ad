//! The budget of retries, and their throttling.

use futures_util::future::join_all;
use hither_tonic::{RetryBudget, RetryThrottling};
use tokio::time::{Instant, advance, sleep, timeout};
use tonic::Code;

use super::{MILLI, client, connect, constant, policy, retrying};
use crate::SECOND;
use crate::scripted::{Fleet, Reply, Script};

/// grpc-go's TestRetryThrottling.
#[tokio::test(start_paused = true)]
async fn failures_take_tokens_and_successes_give_some_back() {
    let fleet = Fleet::of(1, Script::default()).await;
    let builder = fleet.channel().method("", retrying(policy()));
    let client = connect(&fleet, builder.retry_throttling(RetryThrottling::new(10, 0.5))).await;
    let fails = Reply::Fail(Code::Unavailable);
    for (failures, is_answered, tokens) in [
        (0, true, 10.0),
        (2, true, 8.5),
        (2, true, 7.0),
        // The first failure is retried, and the second is not.
        (2, false, 5.0),
        (1, false, 4.0),
        (0, true, 4.5),
        (0, true, 5.0),
        (0, true, 5.5),
        (0, true, 6.0),
        (0, true, 6.5),
        (1, true, 6.0),
        (1, false, 5.0),
    ] {
        fleet.script.push((0..failures).map(|_| fails.clone()));
        if is_answered {
            fleet.script.push([Reply::Name]);
        }
        assert_eq!(client.name().await.is_ok(), is_answered, "with {tokens} tokens left");
        assert_eq!(
            fleet.script.take().len(),
            failures + usize::from(is_answered),
            "with {tokens} tokens left"
        );
    }
}

/// Its response has begun: that is no success yet.
#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_gives_no_token_back() {
    let fleet = Fleet::of(1, Script::default()).await;
    let builder = fleet.channel().method("", retrying(policy()));
    let client = connect(&fleet, builder.retry_throttling(RetryThrottling::new(10, 0.5))).await;
    let fails = Reply::Fail(Code::Unavailable);
    fleet.script.push((0..6).map(|_| fails.clone()));
    while fleet.script.seen().len() < 6 {
        client.name().await.unwrap_err();
    }
    for breaks in [Reply::HeadersThenFail(Code::Internal), Reply::MessageThenFail(Code::Internal)] {
        for _ in 0..20 {
            fleet.script.push([breaks.clone()]);
            assert_eq!(client.call("Name", String::new()).await.unwrap_err().code(), Code::Internal);
        }
    }
    fleet.script.push([fails.clone()]);
    client.name().await.unwrap_err();
    for _ in 0..10 {
        client.name().await.unwrap();
    }
    fleet.script.push([fails]);
    client.name().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pushback_that_forbids_retries_takes_a_token_whatever_the_code() {
    let fleet = Fleet::of(1, Script::default()).await;
    let builder = fleet.channel().method("", retrying(policy()));
    let client = connect(&fleet, builder.retry_throttling(RetryThrottling::new(4, 0.001))).await;
    // Four tokens, three, and then two, which are few.
    fleet.script.push([Reply::Pushback(Code::Internal, "-1"), Reply::Fail(Code::Unavailable)]);
    client.name().await.unwrap_err();
    assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fleet.script.take().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_what_is_sent_when_everything_fails() {
    let fleet = Fleet::of(3, Script::default()).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    let policy = policy().with_max_attempts(5);
    let client = client(&fleet, policy).await;
    let (calls, began) = (2000, Instant::now());
    let mut running = Vec::new();
    for _ in 0..calls {
        let client = client.clone();
        running.push(tokio::spawn(async move { client.name().await.unwrap_err().code() }));
        advance(5 * MILLI).await;
    }
    for call in running {
        assert_eq!(call.await.unwrap(), Code::Unavailable);
    }
    let (attempts, seconds) = (fleet.script.take().len() as f64, began.elapsed().as_secs_f64());
    let calls = f64::from(calls);
    let minimum = 10.0 * (seconds + 10.0);
    assert!(attempts <= 1.2 * calls + minimum, "{attempts} attempts in {seconds} s");
    assert!(attempts >= 1.2 * calls + 0.5 * minimum, "{attempts} attempts in {seconds} s");
}

/// Finagle's budget was credited twice for each call (twitter/finagle#956).
#[tokio::test(start_paused = true)]
async fn the_budget_does_not_pay_for_what_is_not_sent() {
    let mut fleet = Fleet::of(1, Script::default()).await;
    // There is one retry at any time.
    let budget = RetryBudget::default().with_ratio(0.0).with_min_per_second(0.15);
    let policy = policy().with_max_attempts(2).with_backoff(constant(5 * SECOND));
    let builder = fleet.channel().method("", retrying(policy)).retry_budget(budget);
    let client = connect(&fleet, builder).await;
    let fails = Reply::Fail(Code::Unavailable);
    // Callers that give up during the backoff.
    for _ in 0..5 {
        fleet.script.push([fails.clone()]);
        timeout(SECOND / 100, client.name()).await.unwrap_err();
    }
    // Calls for which no instance is ready.
    fleet.servers.remove(0).kill();
    sleep(SECOND).await;
    for _ in 0..5 {
        assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
    }
    fleet.restart("a:1").await;
    sleep(60 * SECOND).await;
    fleet.script.take();
    let calls = [0, 1].map(|_| {
        fleet.script.push([fails.clone()]);
        client.name()
    });
    let answered = join_all(calls).await.iter().filter(|result| result.is_ok()).count();
    assert_eq!((answered, fleet.script.take().len()), (1, 3));
}

/// What was taken out for an attempt that found no instance is there for the next one.
#[tokio::test(start_paused = true)]
async fn attempts_that_are_not_sent_use_up_no_budget() {
    let mut fleet = Fleet::of(1, Script::default()).await;
    let one = RetryBudget::default().with_ratio(0.0).with_min_per_second(0.1);
    let policy = policy().with_backoff(constant(100 * MILLI));
    let builder = fleet.channel().method("", retrying(policy)).retry_budget(one);
    let client = connect(&fleet, builder).await;
    fleet.servers.remove(0).kill();
    sleep(20 * SECOND).await;
    let began = Instant::now();
    assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
    assert!((300..320).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn each_call_adds_to_the_budget_once_however_many_attempts_it_has() {
    let fleet = Fleet::of(1, Script::default()).await;
    let budget = RetryBudget::default().with_ratio(0.5).with_min_per_second(0.0);
    let builder = fleet.channel().method("", retrying(policy())).retry_budget(budget);
    let client = connect(&fleet, builder).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    for _ in 0..100 {
        client.name().await.unwrap_err();
    }
    // Each second call has one; what decays in 10 ms is at most one in all.
    let attempts = fleet.script.take().len();
    assert!((147..=150).contains(&attempts), "{attempts}");
}
