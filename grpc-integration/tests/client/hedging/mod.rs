//! Hedges by policy. What others report of hedging is named at the tests.

mod limits;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hither_tonic::{
    CalledInstance, ChannelBuilder, HedgingPolicy, MethodConfig, RetryBudget, Sticky, WaitForReady,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::scripted::{Fleet, Reply, Script, Seen};
use crate::support::{Client, Echo, Net, Registry, SERVICE, Server, path, peers};
use crate::{SECOND, channel};

const MILLI: Duration = Duration::from_millis(1);

/// Up to four attempts, 100 ms after each other.
fn policy() -> HedgingPolicy {
    HedgingPolicy::after(100 * MILLI).with_max_attempts(4)
}

fn hedged(fleet: &Fleet, policy: HedgingPolicy) -> ChannelBuilder {
    let budget = RetryBudget::default().with_ratio(5.0);
    fleet.channel().method("", MethodConfig::default().with_hedging(policy)).retry_budget(budget)
}

async fn connect(fleet: &Fleet, builder: ChannelBuilder) -> Client {
    let channel = builder.connect().await.unwrap();
    // All servers are connected then.
    sleep(SECOND).await;
    assert_eq!(fleet.recorder.in_flight(), 0);
    Client::new(&channel)
}

async fn client(fleet: &Fleet, policy: HedgingPolicy) -> Client {
    connect(fleet, hedged(fleet, policy)).await
}

/// When attempts have arrived, in milliseconds since then.
fn instants(seen: &[Seen], began: Instant) -> Vec<u128> {
    seen.iter().map(|seen| (seen.at - began).as_millis()).collect()
}

#[track_caller]
fn assert_near(instants: &[u128], expected: &[u128]) {
    assert_eq!(instants.len(), expected.len(), "{instants:?}");
    for (at, expected) in instants.iter().zip(expected) {
        assert!((*expected..expected + 5).contains(at), "{instants:?}");
    }
}

/// Waits until the servers have learnt of what was cancelled.
async fn settle(fleet: &Fleet) {
    sleep(SECOND).await;
    assert_eq!(fleet.recorder.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_response_wins_and_the_other_attempts_are_cancelled() {
    let slow = Reply::Name.after(60 * SECOND);
    let fleet =
        Fleet::of(5, Script::of([slow.clone(), slow, Reply::Name.after(150 * MILLI), Reply::Silence])).await;
    let client = client(&fleet, policy()).await;
    let called = CalledInstance::default();
    let mut request = Request::new("request".to_owned());
    request.extensions_mut().insert(called.clone());
    let began = Instant::now();
    let name = client.call("Name", request).await.unwrap().into_inner();
    assert!((350..355).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(called.get().unwrap().instance().id().to_string(), name, "the one that has answered");
    settle(&fleet).await;
    let seen = fleet.script.take();
    assert_near(&instants(&seen, began), &[0, 100, 200, 300]);
    let mut servers: Vec<_> = seen.iter().map(|seen| seen.server.clone()).collect();
    assert_eq!(servers[2], name);
    servers.sort();
    servers.dedup();
    assert_eq!(servers.len(), 4, "each on another instance");
    let cancelled: Vec<_> = seen.iter().map(|seen| seen.is_cancelled).collect();
    assert_eq!(cancelled, [true, true, false, true]);
    let previous: Vec<_> = seen.iter().map(|seen| seen.previous().map(str::to_owned)).collect();
    assert_eq!(previous, [None, Some("1".to_owned()), Some("2".to_owned()), Some("3".to_owned())]);
    let mut codes = fleet.recorder.codes();
    codes.sort_by_key(|code| *code as i32);
    assert_eq!(codes, [Code::Ok, Code::Cancelled, Code::Cancelled, Code::Cancelled]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_answered_in_time_is_sent_once() {
    let fleet = Fleet::of(3, Script::default()).await;
    fleet.script.then(Reply::Name.after(90 * MILLI));
    let client = client(&fleet, policy()).await;
    for _ in 0..10 {
        client.name().await.unwrap();
    }
    settle(&fleet).await;
    assert_eq!((fleet.script.take().len(), fleet.recorder.codes()), (10, vec![Code::Ok; 10]));
}

#[tokio::test(start_paused = true)]
async fn without_a_delay_all_attempts_are_made_at_once() {
    let fleet = Fleet::of(3, Script::default()).await;
    fleet.script.then(Reply::Name.after(SECOND));
    let client = client(&fleet, HedgingPolicy::after(Duration::ZERO).with_max_attempts(3)).await;
    let began = Instant::now();
    client.name().await.unwrap();
    assert_near(&instants(&fleet.script.take(), began), &[0, 0, 0]);
}

/// grpc-java waited for the delay nevertheless (grpc/grpc-java#10145).
#[tokio::test(start_paused = true)]
async fn a_failure_that_is_not_fatal_brings_the_next_attempt_at_once() {
    let fails = Reply::Fail(Code::Unavailable);
    let fleet = Fleet::of(4, Script::of([fails.clone(), fails.after(30 * MILLI), Reply::Silence])).await;
    let client = client(&fleet, policy()).await;
    let began = Instant::now();
    client.name().await.unwrap();
    // The delay is counted anew from there.
    assert_near(&instants(&fleet.script.take(), began), &[0, 0, 30, 130]);
    settle(&fleet).await;
    assert_eq!(fleet.recorder.codes(), [Code::Unavailable, Code::Unavailable, Code::Cancelled, Code::Ok]);
}

#[tokio::test(start_paused = true)]
async fn a_fatal_failure_ends_the_call_and_all_its_attempts() {
    let fleet = Fleet::of(4, Script::of([Reply::Silence, Reply::Fail(Code::Internal)])).await;
    let client = client(&fleet, policy()).await;
    let began = Instant::now();
    let status = client.name().await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().starts_with("from "), "the server's own: {status:?}");
    settle(&fleet).await;
    assert_near(&instants(&fleet.script.take(), began), &[0, 100]);
}

#[tokio::test(start_paused = true)]
async fn when_all_attempts_fail_the_last_failure_is_returned() {
    let fails = |after: u32| Reply::Fail(Code::Unavailable).after(after * MILLI);
    let fleet = Fleet::of(2, Script::of([fails(500), fails(50), fails(50), fails(50)])).await;
    let client = client(&fleet, policy()).await;
    let began = Instant::now();
    let status = client.name().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    // The third has no other instance while the first is open. It and the fourth are sent when nothing else is.
    assert_near(&instants(&fleet.script.take(), began), &[0, 100, 500, 550]);
    assert_eq!(began.elapsed().as_millis() / 10, 60);
    settle(&fleet).await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_has_failed_is_not_in_flight_while_another_is() {
    // The other is not gRPC's.
    for failure in [Reply::Fail(Code::Unavailable), Reply::Http(503)] {
        let fleet = Fleet::of(2, Script::of([Reply::Silence, failure])).await;
        let client = client(&fleet, policy().with_max_attempts(2)).await;
        let call = tokio::spawn(async move { client.name().await });
        sleep(SECOND).await;
        assert_eq!((fleet.script.seen().len(), fleet.recorder.in_flight()), (2, 1));
        call.abort();
        settle(&fleet).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pushback_delays_the_next_attempt_or_forbids_it() {
    let pushback = |value| Reply::Pushback(Code::Unavailable, value);
    let fleet = Fleet::of(4, Script::of([pushback("250"), Reply::Silence])).await;
    let client = client(&fleet, policy()).await;
    let began = Instant::now();
    client.name().await.unwrap();
    assert_near(&instants(&fleet.script.take(), began), &[0, 250, 350]);

    // The first attempt goes on.
    fleet.script.push([Reply::Name.after(500 * MILLI), pushback("-1")]);
    let began = Instant::now();
    client.name().await.unwrap();
    assert_near(&instants(&fleet.script.take(), began), &[0, 100]);
    assert_eq!(began.elapsed().as_millis() / 10, 50);

    fleet.script.push([pushback("-1")]);
    assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fleet.script.take().len(), 1);

    // One that is too late for the deadline is not waited for.
    fleet.script.push([pushback("2000")]);
    let mut request = Request::new(String::new());
    request.set_timeout(SECOND);
    let began = Instant::now();
    assert_eq!(client.call("Name", request).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!((began.elapsed(), fleet.script.take().len()), (Duration::ZERO, 1));
    settle(&fleet).await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_all_attempts() {
    let fleet = Fleet::of(4, Script::default()).await;
    fleet.script.then(Reply::Silence);
    let client = client(&fleet, policy().with_max_attempts(3)).await;
    let mut request = Request::new(String::new());
    request.set_timeout(SECOND);
    let began = Instant::now();
    let status = client.call("Name", request).await.unwrap_err();
    assert_eq!((status.code(), began.elapsed().as_millis()), (Code::DeadlineExceeded, 1000));
    settle(&fleet).await;
    assert_eq!(fleet.recorder.codes(), [Code::DeadlineExceeded; 3]);
    let seen = fleet.script.take();
    assert!(seen.iter().all(|seen| seen.is_cancelled));
    // Each knows what is left.
    let timeouts: Vec<_> = seen
        .iter()
        .map(|seen| seen.metadata.get("grpc-timeout").unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(
        timeouts[1].starts_with('9') && timeouts[2].starts_with('8') || timeouts[2].starts_with('7'),
        "{timeouts:?}"
    );
}

/// Attempts that were being begun while another one won were a race and a deadlock (grpc/grpc-java#9185, #10314).
#[tokio::test(start_paused = true)]
async fn a_caller_that_drops_a_call_cancels_all_its_attempts() {
    let fleet = Fleet::of(4, Script::default()).await;
    fleet.script.then(Reply::Silence);
    let client = client(&fleet, policy()).await;
    for (after, sent) in [(50, 1), (99, 1), (101, 2), (250, 3), (1000, 4)] {
        timeout(after * MILLI, client.name()).await.unwrap_err();
        settle(&fleet).await;
        let seen = fleet.script.take();
        assert_eq!(seen.len(), sent, "after {after} ms");
        assert!(seen.iter().all(|seen| seen.is_cancelled), "after {after} ms");
        assert_eq!(fleet.recorder.codes(), vec![Code::Cancelled; sent]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_and_hedges_at_the_same_moment_leave_nothing_in_flight() {
    let fleet = Fleet::of(4, Script::default()).await;
    fleet.script.then(Reply::Name.after(2 * MILLI));
    let channel =
        hedged(&fleet, HedgingPolicy::after(2 * MILLI).with_max_attempts(4)).connect().await.unwrap();
    let client = Client::new(&channel);
    let calls = (0..500).map(|_| {
        let client = client.clone();
        async move { client.name().await }
    });
    let answered =
        stream::iter(calls).buffer_unordered(20).filter(|outcome| std::future::ready(outcome.is_ok()));
    assert_eq!(answered.count().await, 500);
    sleep(100 * MILLI).await;
    assert_eq!(fleet.recorder.in_flight(), 0);
    let codes = fleet.recorder.codes();
    assert_eq!(codes.iter().filter(|code| **code == Code::Ok).count(), 500);
    assert!(codes.iter().all(|code| matches!(code, Code::Ok | Code::Cancelled)));
}

#[tokio::test(start_paused = true)]
async fn there_is_no_second_copy_for_the_same_instance() {
    let fleet = Fleet::of(1, Script::of([Reply::Name.after(SECOND)])).await;
    let client = client(&fleet, policy()).await;
    client.name().await.unwrap();
    assert_eq!(fleet.script.take().len(), 1);
    // Unless it has failed the first.
    fleet.script.push([Reply::Fail(Code::Unavailable).after(150 * MILLI)]);
    client.name().await.unwrap();
    assert_eq!(fleet.script.take().len(), 2);
    settle(&fleet).await;
}

#[tokio::test(start_paused = true)]
async fn hedges_go_to_any_other_server_where_the_policy_goes_on_picking_the_same_one() {
    for weight in [1, 0] {
        let fleet = Fleet::weighted(&[weight; 4], Script::default()).await;
        let client = connect(&fleet, hedged(&fleet, policy()).policy(Sticky::default())).await;
        fleet.script.then(Reply::Name.after(150 * MILLI));
        let mut others = BTreeSet::new();
        for _ in 0..40 {
            let home = client.name().await.unwrap();
            let seen: Vec<_> = fleet.script.take().into_iter().map(|seen| seen.server).collect();
            assert_eq!((seen.len(), &seen[0]), (2, &home));
            others.insert(seen[1].clone());
        }
        assert_eq!(others.len(), 3, "{others:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_no_second_copy_where_an_attempt_went_after_all_others_had_failed() {
    let replies = [Reply::Fail(Code::Unavailable), Reply::Name.after(SECOND)];
    let fleet = Fleet::of(2, Script::of(replies)).await;
    let client = client(&fleet, policy()).await;
    let began = Instant::now();
    client.name().await.unwrap();
    assert_near(&instants(&fleet.script.take(), began), &[0, 0]);
    settle(&fleet).await;
}

/// What is refused is sent again, whatever the policy: where no other attempt is.
#[tokio::test(start_paused = true)]
async fn there_is_no_second_copy_where_another_server_has_refused_the_call() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let refused = peers::refusing(&net, "a:1");
    let server = Server::on(&net, "b:1");
    registry.up("a:1").await;
    registry.up("b:1").await;
    let builder = channel(&registry, &net).method("", MethodConfig::default().with_hedging(policy()));
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    for count in 1..=4 {
        timeout(SECOND, client.call("Hold", String::new())).await.unwrap_err();
        assert_eq!((server.calls(), refused.load(Ordering::SeqCst)), (count, count));
    }
    server.open_gate();
    client.call("Hold", String::new()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_requests_is_not_hedged_and_one_of_responses_is() {
    let fleet = Fleet::of(3, Script::of([Reply::Name.after(SECOND)])).await;
    let client = client(&fleet, policy()).await;
    let mut grpc = client.grpc.clone();
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<String, String>::new();
    let requests = stream::once(async {
        sleep(10 * MILLI).await;
        "1".to_owned()
    });
    grpc.client_streaming(Request::new(requests), path("Name"), codec).await.unwrap();
    assert_eq!(fleet.script.take().len(), 1);
    // Nor is it sent again when it has failed.
    fleet.script.push([Reply::Fail(Code::Unavailable).reading(1)]);
    let codec = ProstCodec::<String, String>::new();
    let requests = stream::once(async {
        sleep(10 * MILLI).await;
        "1".to_owned()
    });
    grpc.ready().await.unwrap();
    let status = grpc.client_streaming(Request::new(requests), path("Name"), codec).await.unwrap_err();
    assert_eq!((status.code(), fleet.script.take().len()), (Code::Unavailable, 1));

    fleet.script.push([Reply::Silence]);
    let mut response = client.stream("Name", String::new()).await.unwrap();
    response.message().await.unwrap().unwrap();
    assert_eq!(fleet.script.take().len(), 2);
}

/// A response's headers decide, and what follows belongs to the caller.
#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_has_won() {
    let fleet = Fleet::of(3, Script::of([Reply::MessageThenFail(Code::Unavailable)])).await;
    let client = client(&fleet, policy()).await;
    let mut response = client.stream("Name", String::new()).await.unwrap();
    response.message().await.unwrap().unwrap();
    assert_eq!(response.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fleet.script.take().len(), 1);
    settle(&fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_an_instance_is_hedged_from_when_it_is_sent() {
    let fleet = Fleet::of(0, Script::default()).await;
    let channel = hedged(&fleet, policy()).connect_lazy().unwrap();
    let call = tokio::spawn(async move {
        let mut request = Request::new(String::new());
        request.extensions_mut().insert(WaitForReady(true));
        Client::new(&channel).call("Hold", request).await
    });
    sleep(60 * SECOND).await;
    let echoes = [Echo::new("a"), Echo::new("b")];
    let mut servers = Vec::new();
    for (echo, address) in echoes.iter().zip(["a:1", "b:1"]) {
        let router = tonic::transport::Server::builder().add_service(echo.clone());
        servers.push(fleet.network.serve(SERVICE, address, router).await.unwrap());
        sleep(50 * MILLI).await;
    }
    let calls = || echoes.iter().map(|echo| echo.calls.load(Ordering::SeqCst)).sum::<usize>();
    assert_eq!(calls(), 1);
    sleep(100 * MILLI).await;
    assert_eq!(calls(), 2);
    echoes[1].gate.send_replace(true);
    assert_eq!(call.await.unwrap().unwrap().into_inner(), "b");
}

/// With one setting for all of them.
#[tokio::test(start_paused = true)]
async fn quick_and_slow_methods_are_measured_apart() {
    let fleet = Fleet::of(4, Script::default()).await;
    let client = client(&fleet, HedgingPolicy::after_percentile(0.9)).await;
    let mut random = fastrand::Rng::with_seed(5);
    let mut hedged = [0; 2];
    for _ in 0..400 {
        for (kind, calls, milliseconds) in [(0, 9, 1..2), (1, 1, 1000..2000)] {
            for _ in 0..calls {
                fleet.script.push([Reply::Name.after(random.u32(milliseconds.clone()) * MILLI)]);
                client.call(["Quick", "Slow"][kind], String::new()).await.unwrap();
                hedged[kind] += fleet.script.take().len() - 1;
            }
        }
    }
    // A tenth of the slow ones, but for the first hundred.
    assert!(hedged[0] == 0 && (10..=60).contains(&hedged[1]), "{hedged:?}");
}

#[tokio::test(start_paused = true)]
async fn a_measured_delay_hedges_the_slowest_calls_alone() {
    let fleet = Fleet::of(4, Script::default()).await;
    let client = client(&fleet, HedgingPolicy::after_percentile(0.9)).await;
    let mut random = fastrand::Rng::with_seed(5);
    let mut hedged = 0;
    let calls = 1500;
    for number in 0..calls {
        // Evenly from 0 to 100 ms.
        fleet.script.push([Reply::Name.after(random.u32(0..100) * MILLI)]);
        client.name().await.unwrap();
        let seen = fleet.script.take();
        assert!(number > 100 || seen.len() == 1, "nothing is known yet");
        hedged += seen.len() - 1;
        if number >= 200
            && let [first, second] = &seen[..]
        {
            let delay = (second.at - first.at).as_millis();
            assert!((70..=107).contains(&delay), "{delay}");
        }
    }
    // A tenth, less at most the width of a bucket, and within five standard deviations.
    assert!((70..=210).contains(&hedged), "{hedged} of {calls}");
}

/// A failure brings the next attempt at once, and says nothing of how long calls take.
#[tokio::test(start_paused = true)]
async fn a_method_that_is_not_measured_yet_is_sent_again_after_a_failure_alone() {
    let replies = [Reply::Fail(Code::Unavailable), Reply::Name.after(SECOND)];
    let fleet = Fleet::of(4, Script::of(replies)).await;
    let client = client(&fleet, HedgingPolicy::after_percentile(0.9).with_max_attempts(4)).await;
    let began = Instant::now();
    client.name().await.unwrap();
    assert_near(&instants(&fleet.script.take(), began), &[0, 0]);
}

#[tokio::test(start_paused = true)]
async fn attempts_have_their_numbers_and_go_elsewhere_though_the_policy_would_not() {
    let unavailable = Reply::Fail(Code::Unavailable);
    for replies in [[unavailable.clone(), unavailable], [Reply::Silence, Reply::Silence]] {
        let fleet = Fleet::of(3, Script::of(replies)).await;
        let builder = fleet.network.channel(SERVICE).policy(Sticky::default());
        let builder = builder.method("", MethodConfig::default().with_hedging(policy()));
        let client = connect(&fleet, builder).await;
        client.name().await.unwrap();
        let seen = fleet.script.take();
        assert_eq!(seen.iter().map(Seen::previous).collect::<Vec<_>>(), [None, Some("1"), Some("2")]);
        let mut servers: Vec<_> = seen.into_iter().map(|seen| seen.server).collect();
        servers.sort();
        assert_eq!(servers, ["a:1", "b:1", "c:1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedged_call_waits_for_an_instance_no_longer_than_until_its_deadline() {
    let fleet = Fleet::of(0, Script::default()).await;
    let channel = hedged(&fleet, policy()).connect_lazy().unwrap();
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(WaitForReady(true));
    request.set_timeout(2 * SECOND);
    let (client, began) = (Client::new(&channel), Instant::now());
    let outcome = timeout(60 * SECOND, client.call("Name", request)).await;
    assert_eq!(outcome.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < 3 * SECOND, "{:?}", began.elapsed());
}
