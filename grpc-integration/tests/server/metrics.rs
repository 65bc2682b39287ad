//! What an exporter is given of servers. The names are written out here once more: a rename breaks dashboards.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use hither_memory::MemoryRegistry;
use hither_tonic::{Lifecycle, MetricsLayer};
use http::{Request, Response};
use http_body::Body as _;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::transport::Server;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tower::{Layer, Service, ServiceBuilder, service_fn};

use crate::support::{client, greeter};

const SECOND: Duration = Duration::from_secs(1);

fn recorder() -> PrometheusRecorder {
    // With buckets: summaries would need quantiles.
    PrometheusBuilder::new().set_buckets(&[1.0]).unwrap().build_recorder()
}

/// All time series but buckets, as `name{label="value",…}`.
fn series(recorder: &PrometheusRecorder) -> BTreeMap<String, f64> {
    let text = recorder.handle().render();
    let lines = text.lines().filter(|line| line.contains('{') || line.starts_with("hither_server"));
    let lines = lines.filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
    let lines = lines.map(|line| line.rsplit_once(' ').unwrap());
    lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// The series of a method and a status.
fn of(recorder: &PrometheusRecorder, name: &str, method: &str, status: &str) -> f64 {
    let all = series(recorder);
    let name = format!("grpc_server_call_{name}{{grpc_method=\"{method}\",grpc_status=\"{status}\"}}");
    *all.get(&name).unwrap_or_else(|| panic!("no {name} in {all:#?}"))
}

fn started(recorder: &PrometheusRecorder, method: &str) -> f64 {
    series(recorder)[&format!("grpc_server_call_started{{grpc_method=\"{method}\"}}")]
}

fn request(path: &str) -> Request<Body> {
    typed(path, "application/grpc")
}

fn typed(path: &str, content_type: &str) -> Request<Body> {
    let request = Request::builder().uri(path).header("content-type", content_type);
    request.body(Body::empty()).unwrap()
}

fn grpc(status: &Status) -> Response<Body> {
    status.clone().into_http()
}

#[tokio::test]
async fn a_server_measures_its_calls_by_method_and_status() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (stop, stopped) = oneshot::channel::<()>();
    let (reporter, health) = tonic_health::server::health_reporter();
    let server = Lifecycle::builder(MemoryRegistry::new())
        .service(greeter())
        .health(reporter, ["demo.Greeter"])
        .announce_delay(Duration::ZERO)
        .propagation_delay(Duration::ZERO)
        .shutdown_on(async { drop(stopped.await) }, std::future::pending())
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let address = server.local_addr().to_string();
    let served = tokio::spawn(server.serve(|incoming, shutdown| {
        let mut server = Server::builder().layer(MetricsLayer::new());
        Ok(server.add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
    }));
    let mut client = client(&address).await;
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    client.check(ask("demo.Greeter")).await.unwrap();
    assert_eq!(client.check(ask("nothing")).await.unwrap_err().code(), Code::NotFound);
    let watch = client.watch(ask("")).await.unwrap();
    assert_eq!(series(&recorder)["hither_server_connections"], 1.0);

    let (check, watched) = ("grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch");
    assert_eq!((started(&recorder, check), started(&recorder, watched)), (2.0, 1.0));
    // A tag, a length and the text; a tag and the status.
    assert_eq!(of(&recorder, "rcvd_total_compressed_message_size_sum", check, "OK"), 14.0);
    assert_eq!(of(&recorder, "sent_total_compressed_message_size_sum", check, "OK"), 2.0);
    assert_eq!(of(&recorder, "duration_count", check, "OK"), 1.0);
    assert_eq!(of(&recorder, "duration_count", check, "NOT_FOUND"), 1.0);
    assert_eq!(of(&recorder, "rcvd_total_compressed_message_size_sum", check, "NOT_FOUND"), 9.0);
    drop(watch);
    let cancelled =
        format!("grpc_server_call_duration_count{{grpc_method=\"{watched}\",grpc_status=\"CANCELLED\"}}");
    let ended = async {
        while !series(&recorder).contains_key(&cancelled) {
            tokio::task::yield_now().await;
        }
    };
    timeout(10 * SECOND, ended).await.expect("the stream is cancelled");
    drop(client);
    stop.send(()).unwrap();
    let draining = async {
        while series(&recorder).get("hither_server_draining") != Some(&1.0) {
            tokio::task::yield_now().await;
        }
    };
    timeout(10 * SECOND, draining).await.expect("it drains");
    served.await.unwrap().unwrap();
    let last = series(&recorder);
    assert_eq!((last["hither_server_connections"], last["hither_server_draining"]), (0.0, 0.0));

    let page = include_str!("../../../docs/observability.md");
    for (name, kind) in [
        ("grpc.server.call.started", "counter"),
        ("grpc.server.call.duration", "histogram"),
        ("grpc.server.call.sent_total_compressed_message_size", "histogram"),
        ("grpc.server.call.rcvd_total_compressed_message_size", "histogram"),
        ("hither.server.connections", "gauge"),
        ("hither.server.draining", "gauge"),
    ] {
        assert!(page.contains(&format!("| `{name}` | {kind} |")), "{name} is not on the page");
        let described = format!("# HELP {} ", name.replace('.', "_"));
        assert!(recorder.handle().render().contains(&described), "{name} is not described");
    }
}

/// Names that a client makes up would be a time series each.
#[tokio::test(start_paused = true)]
async fn methods_that_never_answered_with_more_than_an_error_are_one() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut service = MetricsLayer::new().layer(service_fn(async |request: Request<Body>| {
        let status = match request.uri().path() {
            "/a.B/C" => Status::ok(""),
            "/a.B/D" => Status::permission_denied(""),
            _ => Status::unimplemented(""),
        };
        Ok::<_, Infallible>(grpc(&status))
    }));
    for number in 0..50 {
        service.call(request(&format!("/x.Y/{number}"))).await.unwrap();
    }
    service.call(request("/a.B/D")).await.unwrap();
    for _ in 0..3 {
        service.call(request("/a.B/C")).await.unwrap();
    }
    assert_eq!((started(&recorder, "other"), started(&recorder, "a.B/C")), (51.0, 3.0));
    assert_eq!(of(&recorder, "duration_count", "other", "UNIMPLEMENTED"), 50.0);
    assert_eq!(of(&recorder, "duration_count", "other", "PERMISSION_DENIED"), 1.0);
    assert_eq!(of(&recorder, "duration_count", "a.B/C", "OK"), 3.0);
    let started = series(&recorder).into_keys().filter(|name| name.contains("call_started")).count();
    assert_eq!(started, 2);
}

/// A server has pages beside gRPC, and one for what is not found.
#[tokio::test(start_paused = true)]
async fn what_is_no_response_of_grpc_is_no_method() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut service = MetricsLayer::new().layer(service_fn(async |request: Request<Body>| {
        let response = match request.uri().path() {
            "/a.B/C" => Response::builder().header("content-type", "application/grpc+proto"),
            "/health" => Response::builder().header("content-type", "text/plain"),
            "/gateway" => Response::builder().status(502).header("content-type", "application/grpc"),
            _ => Response::builder().status(404),
        };
        Ok::<_, Infallible>(response.body(Body::empty()).unwrap())
    }));
    for path in ["/a.B/C", "/health", "/gateway", "/x.Y/1", "/x.Y/2", "/a.B/C"] {
        service.call(request(path)).await.unwrap();
    }
    assert_eq!((started(&recorder, "other"), started(&recorder, "a.B/C")), (4.0, 2.0));
}

/// As in grpc-go and grpc-java, which answer such requests before there is a call.
#[tokio::test(start_paused = true)]
async fn what_is_no_request_of_grpc_is_not_counted() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let service = service_fn(async |_| Ok::<_, Infallible>(grpc(&Status::ok(""))));
    let mut service = MetricsLayer::new().layer(service);
    let mut page = request("/health");
    page.headers_mut().clear();
    let others = ["application/json", "application/grpc-web+proto", "application/grpc-web-text", "text/html"];
    for request in others.map(|kind| typed("/a.B/C", kind)).into_iter().chain([page]) {
        let response = service.call(request).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "0", "it is served");
    }
    assert_eq!(started(&recorder, "other"), 0.0);
    assert!(!series(&recorder).contains_key("grpc_server_call_started{grpc_method=\"a.B/C\"}"));
    for kind in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
        service.call(typed("/a.B/C", kind)).await.unwrap();
    }
    assert_eq!((started(&recorder, "other"), started(&recorder, "a.B/C")), (0.0, 3.0));
    // A layer around it may make calls of them, as that for grpc-web does.
    let mut translated = ServiceBuilder::new()
        .map_request(|mut request: Request<Body>| {
            request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            request
        })
        .service(service);
    translated.call(typed("/a.B/C", "application/grpc-web+proto")).await.unwrap();
    assert_eq!(started(&recorder, "a.B/C"), 4.0);
}

#[tokio::test(start_paused = true)]
async fn there_is_an_end_to_methods() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut service =
        MetricsLayer::new().layer(service_fn(async |_| Ok::<_, Infallible>(grpc(&Status::ok("")))));
    for number in 0..1100 {
        service.call(request(&format!("/x.Y/{number}"))).await.unwrap();
    }
    let started_of = series(&recorder).into_keys().filter(|name| name.contains("call_started")).count();
    assert_eq!((started_of, started(&recorder, "other")), (1001, 100.0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_was_cancelled_or_too_late() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut service = MetricsLayer::new().layer(service_fn(async |_| {
        sleep(10 * SECOND).await;
        Ok::<_, Infallible>(grpc(&Status::ok("")))
    }));
    timeout(SECOND, service.call(request("/a.B/C"))).await.unwrap_err();
    let mut late = request("/a.B/C");
    late.headers_mut().insert("grpc-timeout", "2S".parse().unwrap());
    timeout(2 * SECOND, service.call(late)).await.unwrap_err();
    assert_eq!(of(&recorder, "duration_sum", "other", "CANCELLED"), 1.0);
    assert_eq!(of(&recorder, "duration_sum", "other", "DEADLINE_EXCEEDED"), 2.0);
    assert_eq!(started(&recorder, "other"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_trailers_or_when_it_is_dropped() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    // Two messages of three bytes, and the status.
    let mut service = MetricsLayer::new().layer(service_fn(async |_| {
        let data = Bytes::from_static(b"\0\0\0\0\x03abc\0\0\0\0\x03def");
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "8".parse().unwrap());
        let frames = [http_body::Frame::data(data), http_body::Frame::trailers(trailers)];
        let response = Response::builder().header("content-type", "application/grpc");
        let body = Body::new(Frames(frames.into_iter().rev().collect()));
        Ok::<_, Infallible>(response.body(body).unwrap())
    }));
    let body = service.call(request("/a.B/C")).await.unwrap().into_body();
    let mut body = std::pin::pin!(body);
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        frame.unwrap();
        sleep(SECOND).await;
    }
    drop(service.call(request("/a.B/C")).await.unwrap());
    assert_eq!(started(&recorder, "a.B/C"), 2.0, "it has answered with more than an error");
    assert_eq!(of(&recorder, "sent_total_compressed_message_size_sum", "a.B/C", "RESOURCE_EXHAUSTED"), 6.0);
    assert_eq!(of(&recorder, "duration_sum", "a.B/C", "RESOURCE_EXHAUSTED"), 1.0);
    assert_eq!(of(&recorder, "duration_count", "a.B/C", "CANCELLED"), 1.0);
}

/// The last one comes first.
struct Frames(Vec<http_body::Frame<Bytes>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        std::task::Poll::Ready(self.0.pop().map(Ok))
    }
}
