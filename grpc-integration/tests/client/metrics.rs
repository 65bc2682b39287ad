//! What a recorder of the `metrics` crate is given. The names are written out here once more: a rename breaks dashboards.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, stream};
use hither_core::{Backoff, Instance, StaticRegistry};
use hither_tonic::{
    DiscoveryChannel, HedgingPolicy, MethodConfig, OutlierDetection, RetryPolicy, RoundRobin, WaitForReady,
};
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, LocalRecorderGuard, Metadata, Recorder,
    SharedString, Unit,
};
use tokio::time::sleep;
use tonic::{Code, GrpcMethod, Request, Status};
use tonic_prost::ProstCodec;

use crate::scripted::{Fleet, Reply, Script};
use crate::support::{Client, Net, Registry, SERVICE, Server, path, peers};
use crate::{SECOND, channel};

/// The metrics of everything that runs on this thread.
#[derive(Debug, Default)]
struct Metrics {
    counters: Mutex<BTreeMap<Key, Arc<AtomicU64>>>,
    gauges: Mutex<BTreeMap<Key, Arc<AtomicU64>>>,
    histograms: Mutex<BTreeMap<Key, Arc<Recorded>>>,
    /// The kind, the unit and the description.
    described: Mutex<BTreeMap<String, (&'static str, Unit, String)>>,
}

#[derive(Debug, Default)]
struct Recorded(Mutex<Vec<f64>>);

impl HistogramFn for Recorded {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

impl Recorder for Metrics {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(&name, ("counter", unit.unwrap(), description.into_owned()));
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(&name, ("gauge", unit.unwrap(), description.into_owned()));
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(&name, ("histogram", unit.unwrap(), description.into_owned()));
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::clone(self.counters.lock().unwrap().entry(key.clone()).or_default()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::clone(self.gauges.lock().unwrap().entry(key.clone()).or_default()))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::clone(self.histograms.lock().unwrap().entry(key.clone()).or_default()))
    }
}

impl Metrics {
    fn start(&self) -> LocalRecorderGuard<'_> {
        metrics::set_default_local_recorder(self)
    }

    fn describe(&self, name: &KeyName, description: (&'static str, Unit, String)) {
        self.described.lock().unwrap().insert(name.as_str().to_owned(), description);
    }

    /// All time series, as `name{label=value,…}`.
    #[allow(clippy::cast_precision_loss, reason = "it is small")]
    fn read(&self) -> BTreeMap<String, Vec<f64>> {
        let load = |value: &AtomicU64| value.load(Ordering::SeqCst);
        let (counters, gauges) = (self.counters.lock().unwrap(), self.gauges.lock().unwrap());
        let histograms = self.histograms.lock().unwrap();
        let counters = counters.iter().map(|(key, count)| (series(key), vec![load(count) as f64]));
        let gauges = gauges.iter().map(|(key, value)| (series(key), vec![f64::from_bits(load(value))]));
        let histograms =
            histograms.iter().map(|(key, recorded)| (series(key), recorded.0.lock().unwrap().clone()));
        counters.chain(gauges).chain(histograms).collect()
    }
}

fn series(key: &Key) -> String {
    let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
    format!("{}{{{}}}", key.name(), labels.join(","))
}

/// A request as generated code makes it.
fn request(method: &'static str, message: &str) -> Request<String> {
    let mut request = Request::new(message.to_owned());
    request.extensions_mut().insert(GrpcMethod::new("test.Echo", method));
    request
}

async fn call(client: &Client, method: &'static str, message: &str) -> Result<String, Status> {
    client.call(method, request(method, message)).await.map(tonic::Response::into_inner)
}

const NAME: &str = "grpc.method=test.Echo/Name,grpc.target=greeter";

#[tokio::test(start_paused = true)]
async fn the_names_labels_and_units_are_those_that_are_documented() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    call(&Client::new(&channel), "Name", "").await.unwrap();
    // And one that is sent twice.
    let fleet = Fleet::of(1, Script::of([Reply::Fail(Code::Unavailable)])).await;
    let retried = fleet.channel().method("", MethodConfig::default().with_retry(RetryPolicy::default()));
    call(&Client::new(&retried.connect().await.unwrap()), "Name", "").await.unwrap();
    // And a connection that has ended.
    registry.leave("a:1").await;
    sleep(SECOND).await;

    let mut found = BTreeMap::new();
    for name in metrics.read().into_keys() {
        let (name, labels) = name.split_once('{').unwrap();
        if ["hither.discovery.", "hither.registration."].iter().any(|of_core| name.starts_with(of_core)) {
            // hither-core's, and tested there.
            continue;
        }
        let labels = labels.trim_end_matches('}').split(',').map(|label| label.split_once('=').unwrap().0);
        found.insert(name.to_owned(), labels.collect::<Vec<_>>().join(" "));
    }
    let described = metrics.described.lock().unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|(name, labels)| (name.as_str(), described[name].0, described[name].1.as_str(), labels.as_str()))
        .collect();
    let attempt = "grpc.method grpc.target grpc.status";
    #[rustfmt::skip]
    let expected = [
        ("grpc.client.attempt.duration", "histogram", "seconds", attempt),
        ("grpc.client.attempt.rcvd_total_compressed_message_size", "histogram", "bytes", attempt),
        ("grpc.client.attempt.sent_total_compressed_message_size", "histogram", "bytes", attempt),
        ("grpc.client.attempt.started", "counter", "count", "grpc.method grpc.target"),
        ("grpc.client.call.duration", "histogram", "seconds", attempt),
        ("grpc.client.call.hedges", "histogram", "count", "grpc.method grpc.target"),
        ("grpc.client.call.retries", "histogram", "count", "grpc.method grpc.target"),
        ("grpc.client.call.retry_delay", "histogram", "seconds", "grpc.method grpc.target"),
        ("grpc.client.call.transparent_retries", "histogram", "count", "grpc.method grpc.target"),
        ("grpc.subchannel.connection_attempts_failed", "counter", "count", "grpc.target"),
        ("grpc.subchannel.connection_attempts_succeeded", "counter", "count", "grpc.target"),
        ("grpc.subchannel.disconnections", "counter", "count", "grpc.target grpc.disconnect_error"),
        ("grpc.subchannel.open_connections", "gauge", "count", "grpc.target"),
        ("hither.client.ejected", "gauge", "count", "grpc.target"),
        ("hither.client.held", "gauge", "count", "grpc.target"),
        ("hither.client.instances", "gauge", "count", "grpc.target hither.state"),
        ("hither.client.picks", "counter", "count", "grpc.target hither.pick.result"),
        ("hither.client.registered", "gauge", "count", "grpc.target"),
        ("hither.client.registry.staleness", "gauge", "seconds", "grpc.target"),
    ];
    assert_eq!(found, expected);
    let page = include_str!("../../../docs/observability.md");
    for (name, kind, ..) in expected {
        assert!(page.contains(&format!("| `{name}` | {kind} |")), "{name} is not on the page");
    }
}

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

#[tokio::test(start_paused = true)]
async fn ejections_are_counted() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = Vec::new();
    for address in ["a:1", "b:1", "c:1"] {
        servers.push(Server::on(&net, address));
        registry.up(address).await;
    }
    let builder = channel(&registry, &net).outlier_detection(OutlierDetection::default());
    let channel = builder.connect().await.unwrap();
    sleep(SECOND).await;
    let client = Client::new(&channel);
    servers[0].open_gate();
    for _ in 0..100 {
        let _ = client.call("Faulty", String::new()).await;
    }
    sleep(SECOND).await;
    let read = metrics.read();
    assert_eq!(read["hither.client.ejected{grpc.target=greeter}"], [1.0]);
    let found = "grpc.target=greeter,grpc.lb.outlier_detection.detection_method=consecutive_failures";
    assert_eq!(read[&format!("grpc.lb.outlier_detection.ejections_enforced{{{found}}}")], [1.0]);
    let status = channel.status();
    let ejected = status.instances()[0].ejected().unwrap();
    assert!(ejected.ends_with(" failures in a row"), "{ejected}");
    assert!(status.instances()[0].to_string().ends_with(&format!(", ejected: {ejected}")), "{status:#}");
    assert!(status.instances()[1..].iter().all(|instance| instance.ejected().is_none()));

    // No more than one at a time.
    servers[1].open_gate();
    for _ in 0..100 {
        let _ = client.call("Faulty", String::new()).await;
    }
    sleep(SECOND).await;
    let reason = "grpc.lb.outlier_detection.unenforced_reason=max_ejection_overflow";
    let read = metrics.read();
    assert_eq!(read["hither.client.ejected{grpc.target=greeter}"], [1.0]);
    assert_eq!(read[&format!("grpc.lb.outlier_detection.ejections_unenforced{{{found},{reason}}}")], [1.0]);
    assert_eq!(read[&format!("grpc.lb.outlier_detection.ejections_enforced{{{found}}}")], [1.0]);
    let page = include_str!("../../../docs/observability.md");
    for name in ["ejections_enforced", "ejections_unenforced"] {
        assert!(page.contains(&format!("| `grpc.lb.outlier_detection.{name}` | counter |")), "{name}");
    }
}

/// A gauge that is set by each of two channels is that of the last one.
#[tokio::test(start_paused = true)]
async fn gauges_are_sums_over_the_channels_of_a_target_and_end_with_them() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = Vec::new();
    for address in ["a:1", "b:1", "c:1"] {
        servers.push(Server::on(&net, address));
        registry.up(address).await;
    }
    registry.up("d:1").await;
    let one = channel(&registry, &net).connect().await.unwrap();
    let other = channel(&registry, &net).connect().await.unwrap();
    sleep(SECOND).await;
    let gauge = |name: &str| metrics.read()[&format!("hither.client.{name}")][0];
    let state = |state: &str| gauge(&format!("instances{{grpc.target=greeter,hither.state={state}}}"));
    let states = || [state("READY"), state("CONNECTING"), state("TRANSIENT_FAILURE")];
    let registered = || [gauge("registered{grpc.target=greeter}"), gauge("held{grpc.target=greeter}")];
    assert_eq!((states(), registered()), ([6.0, 0.0, 2.0], [8.0, 0.0]));
    for lost in ["a:1", "b:1", "c:1"] {
        assert!(registry.faults().delete_record(&Registry::service(), &lost.parse().unwrap()));
    }
    sleep(SECOND).await;
    assert_eq!((states(), registered()), ([6.0, 0.0, 2.0], [2.0, 6.0]));
    drop(one);
    sleep(SECOND).await;
    assert_eq!((states(), registered()), ([3.0, 0.0, 1.0], [1.0, 3.0]));
    drop(other);
    sleep(SECOND).await;
    assert_eq!((states(), registered()), ([0.0; 3], [0.0; 2]));
    assert_eq!(metrics.read()["grpc.subchannel.open_connections{grpc.target=greeter}"], [0.0]);
}

#[tokio::test(start_paused = true)]
async fn staleness_grows_while_the_registry_cannot_be_reached() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let _channel = channel(&registry, &net).connect().await.unwrap();
    let staleness = || metrics.read()["hither.client.registry.staleness{grpc.target=greeter}"][0];
    assert_eq!(staleness(), 0.0);
    registry.faults().stop();
    for seconds in [60, 600] {
        sleep(seconds * SECOND).await;
        let stale = staleness();
        assert!((f64::from(seconds) - 6.0..=660.0).contains(&stale), "{stale}");
    }
    registry.faults().start();
    sleep(100 * SECOND).await;
    assert_eq!(staleness(), 0.0);
}

/// With registries of their own, of which one is down.
#[tokio::test(start_paused = true)]
async fn a_channel_that_is_up_to_date_hides_no_other_that_is_stale() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut down, mut up, net) = (Registry::new(), Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    down.up("a:1").await;
    up.up("a:1").await;
    let _stale = channel(&down, &net).connect().await.unwrap();
    down.faults().stop();
    sleep(63 * SECOND).await;
    let staleness = || metrics.read()["hither.client.registry.staleness{grpc.target=greeter}"][0];
    let before = staleness();
    assert!(before > 0.0);
    let fresh = channel(&up, &net).connect().await.unwrap();
    assert_eq!(staleness(), before, "while it is made");
    up.up("b:1").await;
    sleep(SECOND / 100).await;
    assert_eq!(staleness(), before, "while it follows a change");
    drop(fresh);
    sleep(SECOND / 100).await;
    assert_eq!(staleness(), before, "when it is dropped");
}

/// Nothing is registered with the recorder, dialled or watched.
#[tokio::test(start_paused = true)]
async fn a_channel_with_settings_that_make_no_sense_starts_nothing() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (registry, net) = (Registry::new(), Net::new());
    let error = channel(&registry, &net).method("no/such/name", MethodConfig::default()).connect_lazy();
    assert!(error.unwrap_err().to_string().contains("no/such/name"));
    assert!(metrics.gauges.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn connections_are_counted_when_they_are_made_fail_and_end() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    sleep(SECOND).await;
    let read = || {
        let read = metrics.read();
        ["connection_attempts_succeeded", "connection_attempts_failed", "disconnections", "open_connections"]
            .map(|name| {
                let name = format!("grpc.subchannel.{name}{{grpc.target=greeter");
                read.range(name.clone()..)
                    .take_while(|(found, _)| found.starts_with(&name))
                    .map(|(_, value)| value[0])
                    .sum::<f64>()
            })
    };
    assert_eq!(read(), [1.0, 0.0, 0.0, 1.0]);
    server.break_connections();
    sleep(SECOND).await;
    assert_eq!(read(), [2.0, 0.0, 1.0, 1.0]);
    registry.up("b:1").await;
    sleep(SECOND / 2).await;
    assert_eq!(read(), [2.0, 1.0, 1.0, 1.0]);
    registry.leave("a:1").await;
    sleep(SECOND).await;
    let [succeeded, _, disconnections, open] = read();
    assert_eq!([succeeded, disconnections, open], [2.0, 2.0, 0.0], "an instance that left");
    drop(channel);
}

#[tokio::test(start_paused = true)]
async fn disconnections_have_the_reason_that_came_first() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).keepalive_while_idle(true).connect().await.unwrap();
    sleep(SECOND).await;
    let reasons = || -> Vec<_> {
        let read = metrics.read();
        let name = "grpc.subchannel.disconnections{grpc.target=greeter,grpc.disconnect_error=";
        let found = read.iter().filter_map(|(found, value)| Some((found.strip_prefix(name)?, value[0])));
        found.map(|(reason, count)| (reason.trim_end_matches('}').to_owned(), count)).collect()
    };
    let mut expected = Vec::new();
    let mut expect = |reason: &str| {
        expected.push((reason.to_owned(), 1.0));
        expected.sort_by(|(a, _), (b, _)| a.cmp(b));
        assert_eq!(reasons(), expected);
    };
    // It drains: GOAWAY, and then the end of the stream.
    server.stop();
    sleep(SECOND).await;
    expect("GOAWAY NO_ERROR");
    let server = Server::on(&net, "a:1");
    channel.wait_ready(10 * SECOND).await.unwrap();
    server.break_connections();
    sleep(SECOND / 10).await;
    // It says nothing.
    expect("unknown");
    drop(server);
    registry.leave("a:1").await;
    let _server = Server::on(&net, "b:1");
    registry.up("b:1").await;
    channel.wait_ready(10 * SECOND).await.unwrap();
    sleep(SECOND).await;
    registry.leave("b:1").await;
    sleep(SECOND).await;
    expect("subchannel shutdown");
    // A peer that answers nothing any more.
    peers::silent(&net, "c:1");
    registry.up("c:1").await;
    channel.wait_ready(10 * SECOND).await.unwrap();
    sleep(120 * SECOND).await;
    let timed_out = reasons().into_iter().find(|(reason, _)| reason == "connection timed out");
    assert!(timed_out.is_some_and(|(_, count)| count >= 1.0), "{:?}", reasons());
}

#[tokio::test(start_paused = true)]
async fn a_target_is_as_it_was_given() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let registry = StaticRegistry::new([Instance::new("a:1".parse().unwrap())]);
    let registries =
        hither_core::Registries::new().with("etcd", hither_core::Discovery::new(registry.clone()));
    let target = format!("etcd:///{SERVICE}");
    let _channel = DiscoveryChannel::for_target(&target, &registries)
        .unwrap()
        .connector(Net::new())
        .policy(RoundRobin::default())
        .connect_lazy()
        .unwrap();
    sleep(SECOND).await;
    let failed = format!("grpc.subchannel.connection_attempts_failed{{grpc.target={target}}}");
    assert!(metrics.read()[&failed][0] >= 1.0);
}

#[tokio::test(start_paused = true)]
async fn picks_are_counted_by_what_the_policy_decides() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    for _ in 0..3 {
        call(&Client::new(&channel), "Name", "").await.unwrap();
    }
    let read = metrics.read();
    let picks = |result: &str| {
        read[&format!("hither.client.picks{{grpc.target=greeter,hither.pick.result={result}}}")][0]
    };
    assert_eq!(["instance", "queue", "fail", "drop"].map(picks), [3.0, 0.0, 0.0, 0.0]);
}
