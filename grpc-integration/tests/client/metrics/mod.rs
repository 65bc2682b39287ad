//! What a recorder of the `metrics` crate is given. The names are written out here once more: a rename breaks dashboards.

mod calls;
mod channels;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hither_tonic::{MethodConfig, RetryPolicy};
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, LocalRecorderGuard, Metadata, Recorder,
    SharedString, Unit,
};
use tokio::time::sleep;
use tonic::{Code, GrpcMethod, Request, Status};

use crate::scripted::{Fleet, Reply, Script};
use crate::support::{Client, Net, Registry, Server};
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
    let page = include_str!("../../../../docs/observability.md");
    for (name, kind, ..) in expected {
        assert!(page.contains(&format!("| `{name}` | {kind} |")), "{name} is not on the page");
    }
}
