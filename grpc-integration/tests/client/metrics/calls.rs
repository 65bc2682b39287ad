//! What is measured of calls and their attempts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};
use hither_core::{Backoff, SortedById};
use hither_tonic::{
    CallInfo, HedgingPolicy, LoadBalancingPolicy, MethodConfig, Pick, Picker, ReadyInstance, RetryPolicy,
    WaitForReady,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, GrpcMethod, Request, Status};
use tonic_prost::ProstCodec;

use super::{Metrics, NAME, call, request};
use crate::scripted::{Fleet, Reply, Script};
use crate::support::{Client, Net, Registry, Server, path, peers};
use crate::{SECOND, channel};

#[tokio::test(start_paused = true)]
async fn calls_and_attempts_are_measured_by_method_and_status() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    let client = Client::new(&channel);
    let waiting = {
        let (client, mut request) = (client.clone(), request("Hold", "12345"));
        request.extensions_mut().insert(WaitForReady(true));
        tokio::spawn(async move { client.call("Hold", request).await })
    };
    sleep(3 * SECOND).await;
    registry.up("a:1").await;
    channel.wait_ready(SECOND).await.unwrap();
    sleep(2 * SECOND).await;
    server.open_gate();
    waiting.await.unwrap().unwrap();
    for (method, code) in [("Fail", Code::Unavailable), ("Else", Code::Unimplemented)] {
        assert_eq!(call(&client, method, "").await.unwrap_err().code(), code);
    }
    let mut late = request("Ticks", "");
    late.set_timeout(SECOND / 2);
    let mut ticks = client.stream("Ticks", late).await.unwrap();
    while ticks.message().await.is_ok_and(|tick| tick.is_some()) {}
    drop(client.stream("Ticks", request("Ticks", "")).await.unwrap());

    let read = metrics.read();
    let at = |name: &str, method: &str, status: &str| {
        let name =
            format!("{name}{{grpc.method=test.Echo/{method},grpc.target=greeter,grpc.status={status}}}");
        read.get(&name).cloned().unwrap_or_else(|| panic!("no {name} in {read:#?}"))
    };
    let call_duration = at("grpc.client.call.duration", "Hold", "OK")[0];
    let attempt_duration = at("grpc.client.attempt.duration", "Hold", "OK")[0];
    assert!((5.0..5.1).contains(&call_duration), "{call_duration}");
    assert!((2.0..2.1).contains(&attempt_duration), "{attempt_duration}");
    // A tag, a length and the text.
    assert_eq!(at("grpc.client.attempt.sent_total_compressed_message_size", "Hold", "OK"), [7.0]);
    assert_eq!(at("grpc.client.attempt.rcvd_total_compressed_message_size", "Hold", "OK"), [5.0]);
    for (method, status, count) in [
        ("Fail", "UNAVAILABLE", 1),
        ("Else", "UNIMPLEMENTED", 1),
        ("Ticks", "DEADLINE_EXCEEDED", 1),
        ("Ticks", "CANCELLED", 1),
    ] {
        assert_eq!(at("grpc.client.call.duration", method, status).len(), count, "{method}");
        assert_eq!(at("grpc.client.attempt.duration", method, status).len(), count, "{method}");
    }
    assert_eq!(at("grpc.client.call.duration", "Ticks", "DEADLINE_EXCEEDED"), [0.5]);
    let received = at("grpc.client.attempt.rcvd_total_compressed_message_size", "Ticks", "DEADLINE_EXCEEDED");
    assert_eq!(received, [24.0], "four ticks");
    assert_eq!(read["grpc.client.attempt.started{grpc.method=test.Echo/Ticks,grpc.target=greeter}"], [2.0]);
    assert_eq!(
        read.keys().filter(|name| name.starts_with("grpc.client.call.duration")).count(),
        5,
        "a status that never occurred makes no time series"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_sends_is_measured_without_framing() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    let mut grpc = Client::new(&channel).grpc;
    // Paused: it is no unary call, all of which is there at once.
    let messages = stream::iter(0..64).then(|_| async {
        sleep(SECOND / 100).await;
        "a".repeat(64 * 1024)
    });
    let mut request = Request::new(messages);
    request.extensions_mut().insert(GrpcMethod::new("test.Echo", "Length"));
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<String, String>::new();
    let length = grpc.client_streaming(request, path("Length"), codec).await.unwrap();
    assert_eq!(length.into_inner(), (64 * 64 * 1024).to_string());
    let name = "grpc.client.attempt.sent_total_compressed_message_size{grpc.method=test.Echo/Length,\
                grpc.target=greeter,grpc.status=OK}";
    assert_eq!(metrics.read()[name], [f64::from(64 * (64 * 1024 + 4))]);
}

/// Names that may come from anywhere make a time series each (grpc/grpc-java#2285, grafana/beyla#2219).
#[tokio::test(start_paused = true)]
async fn methods_that_are_not_generated_code_are_one() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    let client = Client::new(&channel);
    for number in 0..50 {
        client.call(&format!("Random{number}"), String::new()).await.unwrap_err();
    }
    call(&client, "Name", "").await.unwrap();
    let read = metrics.read();
    let started: Vec<_> =
        read.iter().filter(|(name, _)| name.starts_with("grpc.client.attempt.started")).collect();
    let expected = [
        ("grpc.client.attempt.started{grpc.method=other,grpc.target=greeter}".to_owned(), vec![50.0]),
        (format!("grpc.client.attempt.started{{{NAME}}}"), vec![1.0]),
    ];
    assert_eq!(started, expected.each_ref().map(|(name, value)| (name, value)));

    // And there is an end to names that a program makes up.
    for number in 0..1100 {
        let method: &'static str = format!("Made{number}").leak();
        call(&client, method, "").await.unwrap_err();
    }
    let read = metrics.read();
    let started = read.keys().filter(|name| name.starts_with("grpc.client.attempt.started")).count();
    assert_eq!(started, 1001);
    assert_eq!(read["grpc.client.attempt.started{grpc.method=other,grpc.target=greeter}"], [151.0]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_refused_once_is_one_call_with_two_attempts() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let refused = peers::refusing(&net, "a:1");
    let _server = Server::on(&net, "b:1");
    registry.up("a:1").await;
    registry.up("b:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    sleep(SECOND).await;
    let client = Client::new(&channel);
    for _ in 0..2 {
        call(&client, "Name", "").await.unwrap();
    }
    assert!(refused.load(Ordering::SeqCst) > 0);
    let read = metrics.read();
    let durations = |name: &str, status: &str| {
        read.get(&format!("{name}{{{NAME},grpc.status={status}}}")).map_or(0, Vec::len)
    };
    let refusals = durations("grpc.client.attempt.duration", "UNAVAILABLE");
    assert!(refusals > 0);
    assert_eq!(durations("grpc.client.attempt.duration", "OK"), 2);
    assert_eq!(durations("grpc.client.call.duration", "OK"), 2);
    assert_eq!(durations("grpc.client.call.duration", "UNAVAILABLE"), 0);
    let started = &read[&format!("grpc.client.attempt.started{{{NAME}}}")];
    assert_eq!(started[0], f64::from(u32::try_from(refusals).unwrap() + 2));
    let transparent = &read[&format!("grpc.client.call.transparent_retries{{{NAME}}}")];
    assert_eq!(transparent.iter().sum::<f64>(), f64::from(u32::try_from(refusals).unwrap()));
    assert_eq!(read[&format!("grpc.client.call.retries{{{NAME}}}")], [0.0; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_pauses_of_a_call_that_is_refused_again_and_again_are_its_delay() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let refused = peers::refusing(&net, "a:1");
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let began = Instant::now();
    call(&client, "Name", "").await.unwrap_err();
    let read = metrics.read();
    let attempts = f64::from(u32::try_from(refused.load(Ordering::SeqCst)).unwrap());
    assert_eq!(read[&format!("grpc.client.call.transparent_retries{{{NAME}}}")], [attempts - 1.0]);
    let [delay] = read[&format!("grpc.client.call.retry_delay{{{NAME}}}")][..] else { panic!("{read:#?}") };
    let elapsed = began.elapsed().as_secs_f64();
    assert!(delay > 1.0 && (elapsed - 0.01..=elapsed).contains(&delay), "{delay} of {elapsed}");
}

/// The delay is not recorded of hedged calls; a server that refuses does not make them others.
#[tokio::test(start_paused = true)]
async fn a_hedged_call_that_was_only_sent_again_transparently_has_no_delay() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let refused = peers::refusing(&net, "a:1");
    registry.up("a:1").await;
    let hedging = HedgingPolicy::after(SECOND / 10).with_non_fatal_codes([]);
    let builder = channel(&registry, &net).method("", MethodConfig::default().with_hedging(hedging));
    let client = Client::new(&builder.connect().await.unwrap());
    call(&client, "Name", "").await.unwrap_err();
    let attempts = f64::from(u32::try_from(refused.load(Ordering::SeqCst)).unwrap());
    let of = |name: &str| metrics.read().remove(&format!("grpc.client.call.{name}{{{NAME}}}")).unwrap();
    assert_eq!(of("transparent_retries"), [attempts - 1.0]);
    assert_eq!((of("retry_delay"), of("hedges"), of("retries")), (vec![], vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn retries_and_hedges_are_recorded_of_calls_that_have_any() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let backoff = Backoff::proportional(SECOND / 100, 1.0, SECOND / 100, 0.0);
    let retry = RetryPolicy::default().with_max_attempts(4).with_backoff(backoff);
    let fail = || Reply::Fail(Code::Unavailable);
    let fleet = Fleet::of(2, Script::of([fail(), fail()])).await;
    let builder = fleet.channel().method("", MethodConfig::default().with_retry(retry));
    let client = Client::new(&builder.connect().await.unwrap());
    for _ in 0..3 {
        call(&client, "Name", "").await.unwrap();
    }
    let of = |name: &str| metrics.read().remove(&format!("grpc.client.call.{name}{{{NAME}}}")).unwrap();
    assert_eq!((of("retries"), of("hedges"), of("transparent_retries")), (vec![2.0], vec![], vec![]));
    let [delay] = of("retry_delay")[..] else { panic!("{:?}", of("retry_delay")) };
    assert!((0.02..0.025).contains(&delay), "twice the backoff: {delay}");

    let fleet = Fleet::of(3, Script::of([Reply::Silence, Reply::Silence])).await;
    let hedging = HedgingPolicy::after(SECOND / 10).with_max_attempts(3);
    let builder = fleet.channel().method("", MethodConfig::default().with_hedging(hedging));
    call(&Client::new(&builder.connect().await.unwrap()), "Name", "").await.unwrap();
    assert_eq!((of("retries"), of("hedges"), of("transparent_retries")), (vec![2.0], vec![2.0], vec![]));
    assert_eq!(of("retry_delay").len(), 1, "another attempt was in flight");
    // Those that came too late are attempts that were cancelled.
    let cancelled = format!("grpc.client.attempt.duration{{{NAME},grpc.status=CANCELLED}}");
    assert_eq!(metrics.read()[&cancelled].len(), 2);
}

/// Decides by the method.
#[derive(Debug, Clone)]
struct ByMethod(SortedById<ReadyInstance>);

impl LoadBalancingPolicy for ByMethod {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        Arc::new(Self(ready.clone()))
    }
}

impl Picker for ByMethod {
    fn pick(&self, call: &CallInfo<'_>) -> Pick {
        match call.path() {
            "/test.Echo/Queue" => Pick::Queue,
            "/test.Echo/Fail" => Pick::Fail(Status::unavailable("no")),
            "/test.Echo/Drop" => Pick::Drop(Status::unavailable("no")),
            _ => Pick::Instance(self.0[0].clone().into()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn picks_are_counted_by_what_the_policy_decides() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let policy = ByMethod(SortedById::new());
    let client = Client::new(&channel(&registry, &net).policy(policy).connect().await.unwrap());
    for (method, count) in [("Name", 4), ("Queue", 3), ("Fail", 2), ("Drop", 1)] {
        for _ in 0..count {
            let is_answered = timeout(SECOND, call(&client, method, "")).await.is_ok_and(|call| call.is_ok());
            assert_eq!(is_answered, method == "Name");
        }
    }
    let read = metrics.read();
    let picks = |result: &str| {
        read[&format!("hither.client.picks{{grpc.target=greeter,hither.pick.result={result}}}")][0]
    };
    assert_eq!(["instance", "fail", "drop"].map(picks), [4.0, 2.0, 1.0]);
    assert!(picks("queue") >= 3.0, "a call that is queued is picked for again before it waits");
}
