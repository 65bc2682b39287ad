//! Calls that end between attempts, or within one: by their deadline, or because they are dropped.

use std::time::Duration;

use hither_tonic::{HedgingPolicy, MethodConfig};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request};

use super::{MILLI, client, constant, exchange, open, policy, retrying};
use crate::SECOND;
use crate::scripted::{Fleet, Reply, Script};
use crate::support::Client;

#[tokio::test(start_paused = true)]
async fn a_retry_that_could_not_begin_in_time_is_not_waited_for() {
    let fleet = Fleet::of(2, Script::default()).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    let client = client(&fleet, policy().with_backoff(constant(400 * MILLI))).await;
    let mut request = Request::new(String::new());
    request.set_timeout(SECOND);
    let began = Instant::now();
    let status = client.call("Name", request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "the server's own");
    assert!(began.elapsed() >= 800 * MILLI && began.elapsed() < 810 * MILLI, "{:?}", began.elapsed());
    let seen = fleet.script.take();
    let timeouts: Vec<u64> = seen
        .iter()
        .map(|seen| {
            let timeout = seen.metadata.get("grpc-timeout").unwrap().to_str().unwrap();
            timeout.strip_suffix('u').or(timeout.strip_suffix('n')).unwrap().parse().unwrap()
        })
        .map(|timeout: u64| if timeout > 1_000_000 { timeout / 1_000_000 } else { timeout / 1000 })
        .collect();
    assert_eq!(timeouts.len(), 3);
    for (timeout, left) in timeouts.iter().zip([1000, 600, 200]) {
        assert!((left - 5..=left).contains(timeout), "{timeouts:?}");
    }
    // Pushback is no exception.
    fleet.script.push([Reply::Pushback(Code::Unavailable, "1000")]);
    let mut request = Request::new(String::new());
    request.set_timeout(SECOND);
    let began = Instant::now();
    assert_eq!(client.call("Name", request).await.unwrap_err().code(), Code::Unavailable);
    assert!(began.elapsed() < 10 * MILLI);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_all_attempts_and_its_status_names_the_failure_before() {
    let fleet = Fleet::of(1, Script::of([Reply::Fail(Code::Unavailable), Reply::Silence])).await;
    let client = client(&fleet, policy()).await;
    let mut request = Request::new(String::new());
    request.set_timeout(SECOND);
    let began = Instant::now();
    let status = client.call("Name", request).await.unwrap_err();
    assert_eq!((status.code(), began.elapsed().as_millis()), (Code::DeadlineExceeded, 1000));
    let message = "not done within 1s: no answer from a:1; failed before: from a:1 at a:1";
    assert_eq!(status.message(), message);
    assert_eq!(fleet.recorder.codes(), [Code::Unavailable, Code::DeadlineExceeded]);
    assert_eq!(fleet.recorder.in_flight(), 0);
}

/// While its request is in the queue of the connection: no server has seen it.
#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_before_the_request_is_sent_blames_no_server() {
    let hedging = MethodConfig::default().with_hedging(HedgingPolicy::after(SECOND));
    for config in [MethodConfig::default(), retrying(policy()), hedging] {
        let fleet = Fleet::of(1, Script::default()).await;
        let channel = fleet.channel().method("", config).connect().await.unwrap();
        sleep(SECOND).await;
        let mut request = Request::new(String::new());
        request.set_timeout(Duration::ZERO);
        let status = Client::new(&channel).call("Name", request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("the request was not sent to a:1"), "{status:?}");
        assert_eq!((fleet.recorder.codes(), fleet.recorder.unsent()), (vec![], vec![Code::DeadlineExceeded]));
        assert!(fleet.script.seen().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_drops_a_call_leaves_nothing_behind_in_any_phase() {
    for (after, sent, last) in [
        // In the first attempt, in the backoff, in the second attempt.
        (50, 1, Code::Cancelled),
        (150, 1, Code::Unavailable),
        (250, 2, Code::Cancelled),
    ] {
        for streaming in [false, true] {
            let slow = |reply: Reply| reply.after(100 * MILLI);
            let script = Script::of([slow(Reply::Fail(Code::Unavailable)), slow(Reply::Name)]);
            let fleet = Fleet::of(2, script).await;
            let client = client(&fleet, policy().with_backoff(constant(100 * MILLI))).await;
            let call = async {
                match streaming {
                    false => drop(client.name().await),
                    true => drop(exchange(&client, open(&["1"])).await),
                }
            };
            timeout(after * MILLI, call).await.unwrap_err();
            sleep(SECOND).await;
            let seen = fleet.script.take();
            assert_eq!(seen.len(), sent, "{after} ms, {streaming}");
            assert_eq!(seen.last().unwrap().is_cancelled, last == Code::Cancelled, "{after} ms, {streaming}");
            let codes = fleet.recorder.codes();
            assert_eq!((codes.len(), codes.last()), (sent, Some(&last)), "{after} ms, {streaming}");
            assert_eq!(fleet.recorder.in_flight(), 0);
        }
    }
}

/// Nothing is in flight on an instance that has failed the call, while the next attempt is waited for.
#[tokio::test(start_paused = true)]
async fn a_call_is_not_in_flight_during_its_backoff() {
    let fleet = Fleet::of(1, Script::of([Reply::Fail(Code::Unavailable)])).await;
    let client = client(&fleet, policy().with_backoff(constant(5 * SECOND))).await;
    let call = tokio::spawn(async move { client.name().await });
    sleep(SECOND).await;
    assert_eq!((fleet.recorder.in_flight(), fleet.script.seen().len(), call.is_finished()), (0, 1, false));
    call.await.unwrap().unwrap();
}
