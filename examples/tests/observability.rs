//! `observability`, as a process whose metrics are scraped and whose spans are received.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[path = "../../backend-etcd/tests/support/port.rs"]
mod port;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use port::Port;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

const LONG: Duration = Duration::from_secs(30);

/// A collector of OpenTelemetry's.
#[derive(Debug)]
struct Collector(UnboundedSender<Span>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let spans = resources.into_iter().flat_map(|resource| resource.scope_spans);
        for span in spans.flat_map(|scope| scope.spans) {
            // The test may be over.
            let _ = self.0.send(span);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collect() -> (String, UnboundedReceiver<Span>) {
    let (sender, spans) = unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let incoming = futures_util::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    tokio::spawn(server.serve_with_incoming(incoming));
    (endpoint, spans)
}

async fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    response
}

async fn line(stdout: &mut Lines<BufReader<ChildStdout>>, holds: impl Fn(&str) -> bool) -> String {
    loop {
        let line = timeout(LONG, stdout.next_line()).await.expect("a line in time").unwrap();
        let line = line.expect("the program goes on");
        if holds(&line) {
            return line;
        }
    }
}

/// Receives spans until there are those of a call with all their ancestors.
async fn trace(spans: &mut UnboundedReceiver<Span>) -> [Span; 4] {
    let mut known = BTreeMap::new();
    loop {
        let span = timeout(LONG, spans.recv()).await.expect("a span in time").unwrap();
        known.insert(span.span_id.clone(), span);
        for served in known.values().filter(|span| span.kind() == SpanKind::Server) {
            let above = |span: &Span| known.get(&span.parent_span_id);
            if let Some(attempt) = above(served)
                && let Some(call) = above(attempt)
                && let Some(root) = above(call)
            {
                return [root, call, attempt, served].map(Clone::clone);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_scraped_spans_received_and_an_unreachable_instance_printed() {
    let (endpoint, mut spans) = collect().await;
    let port = Port::new();
    let address = port.endpoint();
    let mut program = Command::new(env!("CARGO_BIN_EXE_observability"))
        .env("METRICS_ADDRESS", &address)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(program.stdout.take().unwrap()).lines();
    line(&mut stdout, |line| line == format!("metrics at http://{address}/metrics")).await;
    let unreachable = line(&mut stdout, |line| line.contains("TRANSIENT_FAILURE for")).await;
    assert!(unreachable.starts_with("  127.0.0.1:1: "), "{unreachable}");
    assert!(
        unreachable.ends_with("last error: Connection refused (os error 111) at 127.0.0.1:1"),
        "{unreachable}"
    );

    let [root, call, attempt, served] = trace(&mut spans).await;
    let names = [&root, &call, &attempt, &served].map(|span| span.name.as_str());
    let method = "discover.DiscoverDemo/Discover";
    assert_eq!(
        names,
        ["greeting", method, &format!("Attempt.{method}"), &format!("/{method}")],
        "one trace, from the caller to the server"
    );
    assert!([&call, &attempt, &served].iter().all(|span| span.trace_id == root.trace_id));
    assert_eq!((call.kind(), attempt.kind()), (SpanKind::Client, SpanKind::Client));
    let status = attempt.attributes.iter().find(|attribute| attribute.key == "rpc.response.status_code");
    assert!(format!("{status:?}").contains("OK"), "{status:?}");

    let metrics = scrape(&address).await;
    for expected in [
        "# TYPE grpc_client_attempt_duration_seconds histogram",
        "# TYPE grpc_client_attempt_sent_total_compressed_message_size_bytes histogram",
        "# HELP grpc_client_call_duration_seconds Time from the start of a call to its status, with all waiting",
        "hither_client_registered{grpc_target=\"greeter\"} 2\n",
        "hither_client_held{grpc_target=\"greeter\"} 0\n",
        "hither_client_instances{grpc_target=\"greeter\",hither_state=\"READY\"} 1\n",
        "hither_client_instances{grpc_target=\"greeter\",hither_state=\"TRANSIENT_FAILURE\"} 1\n",
        "hither_client_registry_staleness_seconds{grpc_target=\"greeter\"} 0\n",
        "grpc_subchannel_open_connections{grpc_target=\"greeter\"} 1\n",
        "hither_registration_instances{hither_service=\"greeter\",hither_state=\"REGISTERED\"} 2\n",
        "hither_server_connections 1\n",
        "grpc_server_call_started_total{grpc_method=\"discover.DiscoverDemo/Discover\"} ",
        "grpc_client_attempt_started_total{grpc_method=\"discover.DiscoverDemo/Discover\",grpc_target=\"greeter\"} ",
        "grpc_client_call_duration_seconds_bucket{grpc_method=\"discover.DiscoverDemo/Discover\",\
         grpc_target=\"greeter\",grpc_status=\"OK\",le=\"0.1\"} ",
    ] {
        assert!(metrics.contains(expected), "no {expected:?} in {metrics}");
    }
}
