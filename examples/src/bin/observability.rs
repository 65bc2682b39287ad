//! What a channel and a server do, to be seen: the channel's status on stdout, metrics for Prometheus, spans for OpenTelemetry.
//!
//! `cargo run -p hither-examples --features observability --bin observability`
//!
//! A server and a client in one process; a second instance is registered that cannot be reached. Metrics are at
//! `http://127.0.0.1:9000/metrics` (`METRICS_ADDRESS`), and spans go to a collector at port 4317
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`). It ends at ctrl-c.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, pin};

use futures_util::StreamExt;
use hither::memory::MemoryRegistry;
use hither::tonic::metrics::{LATENCY_BUCKETS, SIZE_BUCKETS};
use hither::tonic::{DiscoveryChannel, Lifecycle, MetricsLayer};
use hither::{Discovery, Instance, Registration, RegistrationConfig, keep_registered};
use hither_examples::demo::proto::Request;
use hither_examples::demo::{Demo, DiscoverDemoClient};
use http::HeaderMap;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use opentelemetry::global;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::time::sleep;
use tonic::transport::Server;
use tracing::{Instrument, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

type BoxError = Box<dyn Error + Send + Sync>;

const SERVICE: &str = "greeter";
/// Nothing listens there.
const UNREACHABLE: &str = "127.0.0.1:1";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), BoxError> {
    // Before all else: what counts does so for the recorder that is there when it is made.
    export_metrics()?;
    let spans = export_spans()?;

    let registry = MemoryRegistry::new();
    let server = Lifecycle::builder(registry.clone()).service(SERVICE).bind("127.0.0.1:0").await?;
    let server = server.serve(|incoming, shutdown| {
        let mut server = Server::builder().trace_fn(server_span).layer(MetricsLayer::new());
        let router = server.add_service(Demo::service("ada"));
        Ok(router.serve_with_incoming_shutdown(incoming, shutdown))
    });
    let unreachable = Registration::new(SERVICE.parse()?, Instance::new(UNREACHABLE.parse()?))?;
    let _kept = keep_registered(registry.clone(), unreachable, RegistrationConfig::default());

    tokio::select! {
        served = server => served?,
        called = client(registry) => called?,
    }
    spans.shutdown()?;
    Ok(())
}

/// Calls the service all the time, and prints the channel's status whenever it has changed.
async fn client(registry: MemoryRegistry) -> Result<(), BoxError> {
    let channel =
        DiscoveryChannel::builder(Discovery::new(registry), SERVICE).propagate(inject).connect().await?;
    let statuses = channel.status_changes();
    // It ends with the channel.
    tokio::spawn(async move {
        let mut statuses = pin::pin!(statuses);
        while let Some(status) = statuses.next().await {
            println!("{status:#}");
        }
    });
    let mut client = DiscoverDemoClient::new(channel);
    loop {
        let call = client.discover(Request { name: "Ada".to_owned() });
        if let Err(status) = call.instrument(info_span!("greeting")).await {
            println!("call failed: {status}");
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Serves the metrics over HTTP. Without buckets, histograms would be summaries.
fn export_metrics() -> Result<(), BoxError> {
    let address = env::var("METRICS_ADDRESS").unwrap_or_else(|_| "127.0.0.1:9000".to_owned());
    PrometheusBuilder::new()
        .with_recommended_naming(true)
        .set_buckets_for_metric(Matcher::Suffix("duration".to_owned()), &LATENCY_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("message_size".to_owned()), &SIZE_BUCKETS)?
        .with_http_listener(address.parse::<SocketAddr>()?)
        .install()?;
    println!("metrics at http://{address}/metrics");
    Ok(())
}

/// Sends the spans of this program and of hither's calls to a collector.
fn export_spans() -> Result<SdkTracerProvider, BoxError> {
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let resource = Resource::builder().with_service_name("observability").build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("observability"));
    // The exporter makes calls too: of spans that are no calls of this program's there would be no end.
    let filter = Targets::new()
        .with_target("hither_tonic::call", tracing::Level::DEBUG)
        .with_target("observability", tracing::Level::INFO);
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    Ok(provider)
}

/// Writes the present span into the headers of a request.
fn inject(headers: &mut HeaderMap) {
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut HeaderInjector(headers));
    });
}

/// The span of a call on the server, below the attempt that has brought it.
fn server_span(request: &http::Request<()>) -> Span {
    let headers = HeaderExtractor(request.headers());
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&headers));
    let path = request.uri().path();
    let span = info_span!("serve", otel.kind = "server", otel.name = path);
    // An error means that no subscriber records spans.
    let _ = span.set_parent(parent);
    span
}
