//! Retries by policy. What gRPC's own tests have (grpc-go's `test/retry_test.go`) is here over a network in memory, and what
//! others report of retries is named at the tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use hither_core::{Backoff, SortedById};
use hither_tonic::{
    CallInfo, CalledInstance, ChannelBuilder, ErrorKind, HedgingPolicy, LeastRequest, LoadBalancingPolicy,
    MethodConfig, Pick, Picker, ReadyInstance, RetryBudget, RetryPolicy, RetryThrottling, Sticky,
    WaitForReady,
};
use tokio::time::{Instant, advance, sleep, timeout};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::SECOND;
use crate::scripted::{Fleet, Reply, Script};
use crate::support::{Client, Net, Registry, SERVICE, Server, path};

const MILLI: Duration = Duration::from_millis(1);

/// The delays are 10 ms.
fn policy() -> RetryPolicy {
    RetryPolicy::default().with_max_attempts(4).with_backoff(constant(10 * MILLI))
}

fn constant(delay: Duration) -> Backoff {
    Backoff::proportional(delay, 1.0, delay, 0.0)
}

fn retrying(policy: RetryPolicy) -> MethodConfig {
    MethodConfig::default().with_retry(policy)
}

/// A client of the fleet whose calls are all retried by the policy.
async fn client(fleet: &Fleet, policy: RetryPolicy) -> Client {
    connect(fleet, fleet.channel().method("", retrying(policy))).await
}

async fn connect(fleet: &Fleet, builder: ChannelBuilder) -> Client {
    let channel = builder.connect().await.unwrap();
    // All servers are connected then.
    sleep(SECOND).await;
    assert_eq!(fleet.recorder.in_flight(), 0);
    Client::new(&channel)
}

/// Calls with a stream of requests, which goes on with what `rest` yields.
async fn exchange(
    client: &Client,
    requests: impl futures_util::Stream<Item = String> + Send + 'static,
) -> Result<Streaming<String>, Status> {
    let mut grpc = client.grpc.clone();
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<String, String>::new();
    grpc.streaming(Request::new(requests), path("Exchange"), codec).await.map(Response::into_inner)
}

/// Requests without an end.
fn open(requests: &[&str]) -> impl futures_util::Stream<Item = String> + Send + 'static {
    stream::iter(requests.iter().map(ToString::to_string).collect::<Vec<_>>()).chain(stream::pending())
}

/// The first message of a response, or its status.
async fn first(response: Result<Streaming<String>, Status>) -> Result<String, Code> {
    let message = response.map_err(|status| status.code())?.message().await;
    message.map_err(|status| status.code()).map(Option::unwrap_or_default)
}

#[tokio::test(start_paused = true)]
async fn attempts_are_made_at_the_instants_of_the_backoff() {
    for seed in 0..20 {
        let fleet = Fleet::of(1, Script::default()).await;
        fleet.script.then(Reply::Fail(Code::Unavailable));
        let backoff = || Backoff::proportional(100 * MILLI, 2.0, 300 * MILLI, 0.2).with_seed(seed);
        let policy = RetryPolicy::default().with_max_attempts(5).with_backoff(backoff());
        let client = client(&fleet, policy).await;
        let mut template = backoff();
        for _ in 0..3 {
            let began = Instant::now();
            client.name().await.unwrap_err();
            let (mut expected, mut at) = (template.fork(), Duration::ZERO);
            for (seen, nominal) in fleet.script.take().iter().zip([0, 100, 200, 300, 300]) {
                if nominal > 0 {
                    let delay = expected.next_delay();
                    assert!(delay >= nominal * MILLI * 4 / 5 && delay <= nominal * MILLI * 6 / 5);
                    at += delay;
                }
                // Tokio's timers round up to a millisecond.
                let late = (seen.at - began).checked_sub(at).unwrap();
                assert!(late <= 5 * MILLI, "{late:?} late");
            }
        }
    }
}

/// grpc-go's TestRetryUnary.
#[tokio::test(start_paused = true)]
async fn a_call_is_answered_by_its_first_attempt_that_is_or_fails_with_its_last() {
    let fleet = Fleet::of(1, Script::default()).await;
    let client = client(&fleet, policy().with_codes([Code::AlreadyExists])).await;
    let (retryable, other) = (Reply::Fail(Code::AlreadyExists), Reply::Fail(Code::Internal));
    for (failures, last, code) in [
        (0, Reply::Name, None),
        (1, Reply::Name, None),
        (2, Reply::Name, None),
        (3, Reply::Name, None),
        (0, other.clone(), Some(Code::Internal)),
        (1, other.clone(), Some(Code::Internal)),
        (2, other, Some(Code::Internal)),
        (3, retryable.clone(), Some(Code::AlreadyExists)),
    ] {
        fleet.script.push((0..failures).map(|_| retryable.clone()).chain([last]));
        let outcome = client.call("Name", "request".to_owned()).await;
        assert_eq!(outcome.err().map(|status| status.code()), code);
        let seen = fleet.script.take();
        assert_eq!(seen.len(), failures + 1);
        for (number, seen) in seen.iter().enumerate() {
            let previous = (number > 0).then(|| number.to_string());
            assert_eq!(seen.previous(), previous.as_deref());
        }
        let codes = fleet.recorder.codes();
        assert_eq!(codes.len(), failures + 1, "each attempt has one end: {codes:?}");
        assert!(codes.iter().take(failures).all(|code| *code == Code::AlreadyExists), "{codes:?}");
    }
    assert_eq!(fleet.recorder.in_flight(), 0);
}

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

/// grpc-go's TestRetryStreaming.
#[tokio::test(start_paused = true)]
async fn a_stream_is_replayed_until_its_response_begins() {
    use Reply::{Fail, HeadersThenFail, MessageThenFail, Name, Pushback};
    let unavailable = Err(Code::Unavailable);
    let fail = |reads| Fail(Code::Unavailable).reading(reads);
    for (about, replies, expected) in [
        ("a code that is not retryable", vec![Fail(Code::Internal).reading(1)], Err(Code::Internal)),
        ("one retry", vec![fail(1), Name.reading(2)], Ok("a:1")),
        ("at most four attempts", vec![fail(1), fail(1), fail(1), fail(1)], unavailable),
        ("several requests", vec![fail(2), MessageThenFail(Code::Aborted).reading(2)], Ok("a:1")),
        (
            "more requests each time",
            vec![fail(0), fail(1), fail(2), MessageThenFail(Code::Aborted).reading(3)],
            Ok("a:1"),
        ),
        ("nothing after headers", vec![fail(1), HeadersThenFail(Code::Unavailable).reading(1)], unavailable),
        ("a negative pushback", vec![Pushback(Code::Unavailable, "-1").reading(1)], unavailable),
        ("a pushback that is no number", vec![Pushback(Code::Unavailable, "xxx").reading(1)], unavailable),
    ] {
        let attempts = replies.len();
        let fleet = Fleet::of(1, Script::of(replies)).await;
        let client = client(&fleet, policy()).await;
        let is_complete = about == "one retry";
        let response = if is_complete {
            exchange(&client, stream::iter(["1", "2"].map(str::to_owned))).await
        } else {
            exchange(&client, open(&["1", "2", "3"])).await
        };
        assert_eq!(first(response).await, expected.map(str::to_owned), "{about}");
        let seen = fleet.script.take();
        assert_eq!(seen.len(), attempts, "{about}");
        for (number, seen) in seen.iter().enumerate() {
            let previous = (number > 0).then(|| number.to_string());
            assert_eq!(seen.previous(), previous.as_deref(), "{about}");
            assert!(seen.messages.iter().eq(["1", "2", "3"].iter().take(seen.messages.len())), "{about}");
        }
        assert_eq!(fleet.recorder.codes().len(), attempts, "{about}");
    }
}

/// The second message of a response fails: its caller has seen the first.
#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_is_not_retried() {
    let fleet = Fleet::of(2, Script::of([Reply::MessageThenFail(Code::Unavailable)])).await;
    let client = client(&fleet, policy()).await;
    let mut response = client.stream("Name", String::new()).await.unwrap();
    response.message().await.unwrap().unwrap();
    assert_eq!(response.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fleet.script.take().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_more_than_64_kib_is_sent_once() {
    let failing = Reply::Fail(Code::Unavailable);
    let fleet = Fleet::of(2, Script::of([failing.clone().reading(3), failing.reading(2)])).await;
    let client = client(&fleet, policy()).await;
    // One after the other: what is there at once is kept, whatever its size.
    let messages = |count: usize| {
        let messages = stream::iter(0..count).then(|_| async {
            sleep(MILLI).await;
            "x".repeat(30 * 1024)
        });
        messages.chain(stream::pending())
    };
    let outcome = exchange(&client, messages(3)).await;
    assert_eq!(first(outcome).await, Err(Code::Unavailable));
    assert_eq!(fleet.script.take().len(), 1, "committed by 90 KiB");

    fleet.script.push([Reply::MessageThenFail(Code::Ok).reading(2)]);
    first(exchange(&client, messages(2)).await).await.unwrap();
    assert_eq!(fleet.script.take().len(), 2, "60 KiB are replayed");

    // A unary request is complete, and needs no buffer.
    fleet.script.push([Reply::Fail(Code::Unavailable)]);
    client.call("Name", "x".repeat(1024 * 1024)).await.unwrap();
    assert_eq!(fleet.script.take().len(), 2);
}

/// What goes on being sent to an attempt that has failed would use up the buffer while the next one waits. Tonic's servers
/// end it, with a reset after their response; this one does not.
#[tokio::test(start_paused = true)]
async fn sending_stops_while_the_backoff_runs() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut incoming = net.listen("a:1");
    registry.up("a:1").await;
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(incoming.recv().await.unwrap()).await.unwrap();
        let mut held = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let response = http::Response::builder().header("content-type", "application/grpc");
            if held.is_empty() {
                let response = response.header("grpc-status", "14").body(()).unwrap();
                respond.send_response(response, true).unwrap();
                held.push(request.into_body());
                continue;
            }
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                let response = response.header("grpc-status", "11").body(()).unwrap();
                respond.send_response(response, true).unwrap();
            });
        }
    });
    let method = retrying(policy().with_backoff(constant(5 * SECOND)));
    let client = Client::new(&crate::channel(&registry, &net).method("", method).connect().await.unwrap());
    let (sender, receiver) = tokio::sync::mpsc::channel::<String>(1);
    let requests =
        stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    let call = tokio::spawn(async move { first(exchange(&client, requests).await).await });
    sleep(SECOND).await;
    let sending = async {
        for _ in 0..3 {
            sender.send("x".repeat(50 * 1024)).await.unwrap();
        }
    };
    // The first fills the channel, from which nothing is read.
    timeout(SECOND, sending).await.unwrap_err();
    drop(sender);
    assert_eq!(call.await.unwrap(), Err(Code::OutOfRange), "the answer to the second attempt");
}

#[tokio::test(start_paused = true)]
async fn a_server_sets_the_delay_and_the_one_after_that_is_the_first_again() {
    let pushback = |millis| Reply::Pushback(Code::Unavailable, millis);
    let fail = Reply::Fail(Code::Unavailable);
    let fleet = Fleet::of(1, Script::of([fail.clone(), fail.clone(), pushback("1000"), fail])).await;
    let backoff = Backoff::proportional(100 * MILLI, 2.0, SECOND, 0.0);
    let client = client(&fleet, policy().with_max_attempts(5).with_backoff(backoff)).await;
    client.name().await.unwrap();
    let seen = fleet.script.take();
    let gaps: Vec<_> = seen.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis()).collect();
    assert_eq!(gaps.len(), 4);
    for (gap, expected) in gaps.iter().zip([100, 200, 1000, 100]) {
        assert!((expected..expected + 5).contains(gap), "{gaps:?}");
    }

    // It does not make another code retryable, and an attempt too many is not made for it either.
    fleet.script.push([Reply::Pushback(Code::Internal, "10")]);
    assert_eq!(client.name().await.unwrap_err().code(), Code::Internal);
    assert_eq!(fleet.script.take().len(), 1);
    fleet.script.push((0..5).map(|_| pushback("0")));
    assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fleet.script.take().len(), 5);
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

/// Envoy's predicate of previous hosts gives up after a few draws (envoyproxy/envoy#27317, #36736).
#[tokio::test(start_paused = true)]
async fn each_attempt_goes_to_an_instance_that_was_not_tried_while_there_is_one() {
    async fn servers(fleet: &Fleet, client: &Client) -> Vec<String> {
        client.name().await.unwrap_err();
        let mut servers: Vec<_> = fleet.script.take().into_iter().map(|seen| seen.server).collect();
        assert_eq!(servers.len(), 4);
        servers.sort();
        servers
    }
    let fleet = Fleet::of(4, Script::default()).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    let all = ["a:1", "b:1", "c:1", "d:1"];
    for builder in [fleet.channel(), fleet.network.channel(SERVICE).policy(Sticky::default())] {
        let builder =
            builder.method("", retrying(policy())).retry_budget(RetryBudget::default().with_ratio(5.0));
        let client = connect(&fleet, builder).await;
        for _ in 0..50 {
            assert_eq!(servers(&fleet, &client).await, all);
        }
    }
    // Where there is none, to one that was.
    let fleet = Fleet::of(3, Script::default()).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    let client = client(&fleet, policy()).await;
    let mut servers = servers(&fleet, &client).await;
    servers.dedup();
    assert_eq!(servers, all[..3]);
}

#[tokio::test(start_paused = true)]
async fn weight_zero_gets_no_retries_while_another_instance_is_ready() {
    for (weights, expected) in [([1, 0], &["a:1"][..]), ([0, 0], &["a:1", "b:1"])] {
        let fleet = Fleet::weighted(&weights, Script::default()).await;
        fleet.script.then(Reply::Fail(Code::Unavailable));
        let builder =
            fleet.network.channel(SERVICE).policy(LeastRequest::default()).method("", retrying(policy()));
        let client = connect(&fleet, builder).await;
        client.name().await.unwrap_err();
        let mut servers: Vec<_> = fleet.script.take().into_iter().map(|seen| seen.server).collect();
        assert_eq!(servers.len(), 4);
        servers.sort();
        servers.dedup();
        assert_eq!(servers, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_caller_gets_the_last_failure_whole() {
    let fleet = Fleet::of(2, Script::default()).await;
    fleet.script.then(Reply::Pushback(Code::Unavailable, "1"));
    let client = client(&fleet, policy()).await;
    let called = CalledInstance::default();
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(called.clone());
    let status = client.call("Name", request).await.unwrap_err();
    let last = fleet.script.take().pop().unwrap().server;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, format!("from {last}").as_str()));
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "1");
    assert_eq!(called.get().unwrap().instance().id().to_string(), last);
}

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

#[tokio::test(start_paused = true)]
async fn a_response_of_a_proxy_is_retried_by_the_code_that_it_stands_for() {
    let fleet = Fleet::of(2, Script::of([Reply::Http(503), Reply::Http(502)])).await;
    let client = client(&fleet, policy()).await;
    client.name().await.unwrap();
    assert_eq!(fleet.script.take().len(), 3);
    fleet.script.push([Reply::Http(404)]);
    assert_eq!(client.name().await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(fleet.script.take().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_retried_elsewhere() {
    let mut fleet = Fleet::of(2, Script::of([Reply::Silence])).await;
    let client = client(&fleet, policy()).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.name().await }
    });
    sleep(SECOND).await;
    let seen = fleet.script.take();
    let at = fleet
        .servers
        .iter()
        .position(|server| server.host().address().to_string() == seen[0].server)
        .unwrap();
    fleet.servers.remove(at).kill();
    let name = call.await.unwrap().unwrap();
    assert_ne!(name, seen[0].server);
    assert_eq!(fleet.recorder.codes(), [Code::Unavailable, Code::Ok]);

    // Without a policy it is not.
    let fleet = Fleet::of(2, Script::of([Reply::Silence, Reply::Silence])).await;
    let plain = fleet.channel().method("test.Echo/Other", retrying(RetryPolicy::default()));
    let client = connect(&fleet, plain).await;
    let call = tokio::spawn(async move { client.name().await });
    sleep(SECOND).await;
    fleet.servers.into_iter().for_each(|server| server.kill());
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

/// A call whose connection died between two attempts was retried until its deadline (grpc/grpc-go#5341).
#[tokio::test(start_paused = true)]
async fn where_no_instance_is_left_a_call_fails_after_its_attempts() {
    let mut fleet = Fleet::of(1, Script::of([Reply::Silence])).await;
    let client = client(&fleet, policy().with_backoff(constant(100 * MILLI))).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move {
            let mut request = Request::new(String::new());
            request.set_timeout(60 * SECOND);
            client.call("Name", request).await
        }
    });
    sleep(SECOND).await;
    let began = Instant::now();
    fleet.servers.remove(0).kill();
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("refused"), "{status:?}");
    assert!((300..320).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(fleet.recorder.codes(), [Code::Unavailable], "one was sent");
    // Where calls wait for an instance, the next attempt does.
    let router = || tonic::transport::Server::builder().add_service(crate::support::Echo::new("again"));
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(WaitForReady(true));
    let call = tokio::spawn(async move { client.call("Name", request).await });
    sleep(60 * SECOND).await;
    let _server = fleet.network.serve(SERVICE, "a:1", router()).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap().into_inner(), "again");
}

/// Drops what it is asked for after so many picks, which it counts.
#[derive(Debug, Clone)]
struct Dropping {
    after: usize,
    picks: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct DroppingPicker(Dropping, ReadyInstance);

impl LoadBalancingPolicy for Dropping {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        Arc::new(DroppingPicker(self.clone(), ready[0].clone()))
    }
}

impl Picker for DroppingPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        match self.0.picks.fetch_add(1, Ordering::SeqCst) < self.0.after {
            true => Pick::Instance(self.1.clone().into()),
            false => Pick::Drop(Status::unavailable("dropped")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_policy_drops_is_not_retried() {
    // At the first attempt, and at the second.
    for (after, attempts, picks) in [(0, 0, 1), (1, 1, 2)] {
        let fleet = Fleet::of(1, Script::default()).await;
        fleet.script.then(Reply::Fail(Code::Unavailable));
        let dropping = Dropping { after, picks: Arc::default() };
        let builder = fleet.channel().policy(dropping.clone()).method("", retrying(policy()));
        let client = connect(&fleet, builder).await;
        assert_eq!(client.name().await.unwrap_err().message(), "dropped");
        assert_eq!((fleet.script.seen().len(), dropping.picks.load(Ordering::SeqCst)), (attempts, picks));
    }
}

#[tokio::test(start_paused = true)]
async fn settings_are_those_of_the_method_and_the_channel_limits_attempts() {
    let fleet = Fleet::of(1, Script::default()).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    let many = RetryBudget::default().with_ratio(10.0);
    let builder = || {
        let (policy, three) = (policy().with_max_attempts(9), policy().with_max_attempts(3));
        let (all, service) = (retrying(policy), retrying(three));
        fleet
            .channel()
            .method("", all)
            .method("test.Echo", service)
            .method("test.Echo/Once", MethodConfig::default())
            .retry_budget(many)
    };
    let client = connect(&fleet, builder()).await;
    let attempts = async |client: &Client, path: &'static str| {
        let mut grpc = client.grpc.clone();
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<String, String>::new();
        let outcome = grpc.unary(Request::new(String::new()), path.parse().unwrap(), codec).await;
        let outcome: Result<Response<String>, Status> = outcome;
        outcome.unwrap_err();
        fleet.script.take().len()
    };
    assert_eq!(attempts(&client, "/test.Echo/Name").await, 3);
    assert_eq!(attempts(&client, "/test.Echo/Once").await, 1);
    for (most, expected) in [(1, 1), (2, 2), (100, 3)] {
        let client = connect(&fleet, builder().max_attempts(most)).await;
        assert_eq!(attempts(&client, "/test.Echo/Name").await, expected);
    }
    let all = |most| {
        fleet
            .channel()
            .retry_budget(many)
            .method("", retrying(policy().with_max_attempts(9)))
            .max_attempts(most)
    };
    assert_eq!(attempts(&connect(&fleet, all(5)).await, "/test.Echo/Name").await, 5);
    assert_eq!(attempts(&connect(&fleet, all(100)).await, "/test.Echo/Name").await, 9);
}

#[tokio::test(start_paused = true)]
async fn timeout_and_wait_for_ready_of_a_method_take_the_place_of_the_channels() {
    let fleet = Fleet::of(1, Script::default()).await;
    fleet.script.then(Reply::Silence);
    let patient = MethodConfig::default().with_timeout(3 * SECOND).with_wait_for_ready(true);
    let builder = fleet.channel().default_timeout(SECOND).method("test.Echo/Patient", patient);
    let client = connect(&fleet, builder).await;
    let elapsed = async |method: &str, timeout: Option<Duration>, wait: Option<bool>| {
        let mut request = Request::new(String::new());
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        if let Some(wait) = wait {
            request.extensions_mut().insert(WaitForReady(wait));
        }
        let began = Instant::now();
        client.call(method, request).await.unwrap_err();
        began.elapsed().as_secs_f64().round()
    };
    assert_eq!(elapsed("Name", None, None).await, 1.0);
    assert_eq!(elapsed("Patient", None, None).await, 3.0);
    assert_eq!(elapsed("Patient", Some(2 * SECOND), None).await, 2.0);
    assert_eq!(elapsed("Patient", Some(9 * SECOND), None).await, 3.0, "the smaller of the two, as in gRPC");
    fleet.servers.into_iter().for_each(|server| server.kill());
    sleep(SECOND).await;
    assert_eq!(elapsed("Name", None, None).await, 0.0);
    assert_eq!(elapsed("Name", None, Some(true)).await, 1.0);
    assert_eq!(elapsed("Patient", None, None).await, 3.0);
    assert_eq!(elapsed("Patient", None, Some(false)).await, 0.0);
}

#[tokio::test]
async fn settings_that_make_no_sense_are_errors_that_name_them() {
    let fleet = Fleet::of(1, Script::default()).await;
    let hedging = HedgingPolicy::after(Duration::ZERO);
    for (builder, expected) in [
        (
            fleet.channel().method("a.S/M", retrying(policy()).with_hedging(hedging)),
            "method \"a.S/M\": it has both a retry policy and a hedging policy",
        ),
        (
            fleet.channel().method("/a.S/M", retrying(policy())),
            "method \"/a.S/M\": write package.Service/Method, package.Service, or nothing for all methods",
        ),
        (fleet.channel().max_attempts(0), "max_attempts is zero"),
        (
            fleet.channel().retry_budget(RetryBudget::default().with_ratio(-1.0)),
            "ratio of retry_budget is -1, not 0 to 1000",
        ),
        (
            fleet.channel().retry_throttling(RetryThrottling::new(0, 0.1)),
            "max_tokens of retry_throttling is 0, not 1 to 1000",
        ),
    ] {
        let error = builder.connect_lazy().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidArgument, expected));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_costs_no_call() {
    let (mut registry, mut servers) = (Registry::new(), Vec::new());
    for _ in 0..3 {
        let server = Server::start().await;
        registry.up(&server.address).await;
        servers.push(server);
    }
    let builder = hither_tonic::DiscoveryChannel::builder(registry.discovery(), SERVICE);
    let channel = builder.method("", retrying(policy())).connect().await.unwrap();
    let client = Client::new(&channel);
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    client.call("Faulty", String::new()).await?;
                }
                Ok::<_, Status>(())
            })
        })
        .collect();
    for _ in 0..2 {
        sleep(100 * MILLI).await;
        drop(servers.pop());
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}
