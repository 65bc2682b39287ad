//! The spans of calls and attempts, as a tracing layer sees them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use http::HeaderValue;
use tokio::time::sleep;
use tonic::{Code, Request};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Instrument, Subscriber, debug_span};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry as Spans};

use crate::support::{Client, Net, Registry, Server, peers};
use crate::{SECOND, channel};

/// A span that has ended.
#[derive(Debug, Clone)]
struct Ended {
    name: &'static str,
    parent: Option<String>,
    fields: BTreeMap<&'static str, String>,
}

#[derive(Debug, Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

#[derive(Debug, Clone, Default)]
struct Capture(Arc<Mutex<Vec<Ended>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        values.record(span.extensions_mut().get_mut::<Fields>().unwrap());
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        let fields = span.extensions_mut().remove::<Fields>().unwrap().0;
        let parent = span.parent().map(|parent| parent.name().to_owned());
        if span.metadata().target() == "hither_tonic::call" {
            self.0.lock().unwrap().push(Ended { name: span.name(), parent, fields });
        }
    }
}

impl Capture {
    /// Captures what happens on this thread.
    fn start() -> (Self, DefaultGuard, Dispatch) {
        let capture = Self::default();
        let guard = tracing::subscriber::set_default(
            Spans::default().with(capture.clone().with_filter(LevelFilter::DEBUG)),
        );
        // With one subscriber only, the threads of other tests decide whether a span is of interest.
        (capture, guard, Dispatch::new(NoSubscriber::default()))
    }

    fn take(&self) -> Vec<Ended> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn fields(expected: &[(&'static str, &str)]) -> BTreeMap<&'static str, String> {
    expected.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_call_is_a_span_under_the_callers_and_its_attempt_another_one() {
    let (capture, _guard, _second) = Capture::start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.put(hither_core::Instance::new("a:1".parse().unwrap()).with_id("one".parse().unwrap())).await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    let client = Client::new(&channel);
    client.name().instrument(debug_span!("handler")).await.unwrap();
    let spans = capture.take();
    assert_eq!(spans.iter().map(|span| span.name).collect::<Vec<_>>(), ["grpc.attempt", "grpc.call"]);
    let [attempt, call] = &spans[..] else { panic!() };
    assert_eq!((call.parent.as_deref(), attempt.parent.as_deref()), (Some("handler"), Some("grpc.call")));
    assert_eq!(
        call.fields,
        fields(&[
            ("otel.kind", "client"),
            ("otel.name", "test.Echo/Name"),
            ("rpc.method", "test.Echo/Name"),
            ("rpc.response.status_code", "OK"),
            ("rpc.system.name", "grpc"),
            ("server.address", "greeter"),
        ])
    );
    assert_eq!(
        attempt.fields,
        fields(&[
            ("hither.instance.id", "one"),
            ("otel.kind", "client"),
            ("otel.name", "Attempt.test.Echo/Name"),
            ("rpc.method", "test.Echo/Name"),
            ("rpc.response.status_code", "OK"),
            ("rpc.system.name", "grpc"),
            ("server.address", "a"),
            ("server.port", "1"),
        ])
    );

    let page = include_str!("../../../docs/observability.md");
    for field in call.fields.keys().chain(attempt.fields.keys()) {
        assert!(page.contains(&format!("`{field}`")), "{field} is not on the page");
    }

    client.call("Fail", String::new()).await.unwrap_err();
    for span in capture.take() {
        let of = |name: &str| span.fields[name].as_str();
        assert_eq!(
            [of("rpc.response.status_code"), of("error.type"), of("otel.status_code")],
            ["UNAVAILABLE", "UNAVAILABLE", "ERROR"]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_has_the_address_and_the_port_that_it_is_sent_to() {
    let (capture, _guard, _second) = Capture::start();
    for (address, host, port) in [
        ("10.0.0.7:8001", "10.0.0.7", Some("8001")),
        ("[2001:db8::7]:8001", "2001:db8::7", Some("8001")),
        ("a.example:8001", "a.example", Some("8001")),
        ("unix:///run/a.sock", "/run/a.sock", None),
    ] {
        let (mut registry, net) = (Registry::new(), Net::new());
        let _server = Server::on(&net, address);
        registry.up(address).await;
        Client::new(&channel(&registry, &net).connect().await.unwrap()).name().await.unwrap();
        let [attempt, _call] = &capture.take()[..] else { panic!("no two spans") };
        assert_eq!(attempt.fields["server.address"], host);
        assert_eq!(attempt.fields.get("server.port").map(String::as_str), port);
    }
}

/// In others, spans of calls that were cancelled, or of streams that were not read, never end (DataDog/dd-trace-py#19600,
/// openzipkin/brave#1340).
#[tokio::test(start_paused = true)]
async fn spans_end_with_the_response_or_when_it_is_dropped() {
    let (capture, _guard, _second) = Capture::start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    let client = Client::new(&channel);
    let mut stream = client.stream("Stream", String::new()).await.unwrap();
    stream.message().await.unwrap().unwrap();
    sleep(SECOND).await;
    assert!(capture.take().is_empty(), "it goes on");
    server.open_gate();
    while stream.message().await.unwrap().is_some() {}
    let status = |span: &Ended| (span.name, span.fields["rpc.response.status_code"].clone());
    let ended: Vec<_> = capture.take().iter().map(status).collect();
    assert_eq!(ended, [("grpc.attempt", "OK".to_owned()), ("grpc.call", "OK".to_owned())]);

    server.close_gate();
    assert!(client.call("Hold", String::new()).now_or_never().is_none());
    let ended: Vec<_> = capture.take().iter().map(status).collect();
    assert_eq!(ended, [("grpc.attempt", "CANCELLED".to_owned()), ("grpc.call", "CANCELLED".to_owned())]);

    let mut late = Request::new(String::new());
    late.set_timeout(SECOND);
    assert_eq!(client.call("Hold", late).await.unwrap_err().code(), Code::DeadlineExceeded);
    let ended: Vec<_> = capture.take().iter().map(status).collect();
    let late = "DEADLINE_EXCEEDED".to_owned();
    assert_eq!(ended, [("grpc.attempt", late.clone()), ("grpc.call", late)]);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_a_span_and_one_that_was_never_sent_has_none() {
    let (capture, _guard, _second) = Capture::start();
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    sleep(SECOND).await;
    let client = Client::new(&channel);
    client.name().await.unwrap_err();
    let spans = capture.take();
    assert_eq!(spans.iter().map(|span| span.name).collect::<Vec<_>>(), ["grpc.call"]);

    let _refused = peers::refusing(&net, "a:1");
    let _server = Server::on(&net, "b:1");
    registry.up("b:1").await;
    sleep(300 * SECOND).await;
    for _ in 0..2 {
        client.name().await.unwrap();
    }
    let spans = capture.take();
    let attempts: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "grpc.attempt")
        .map(|span| {
            (span.fields["hither.instance.id"].as_str(), span.fields["rpc.response.status_code"].as_str())
        })
        .collect();
    assert!(attempts.contains(&("a:1", "UNAVAILABLE")) && attempts.contains(&("b:1", "OK")), "{attempts:?}");
    assert_eq!(spans.iter().filter(|span| span.name == "grpc.call").count(), 2);
}

/// The context is that of the attempt, so that the spans of a server are below it, and not beside it.
#[tokio::test(start_paused = true)]
async fn what_propagates_the_context_runs_in_the_span_of_each_attempt() {
    let (_capture, _guard, _second) = Capture::start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net)
        .propagate(|headers| {
            let span = tracing::Span::current();
            let name = span.metadata().map_or("none", tracing::Metadata::name);
            headers.insert("traceparent", HeaderValue::from_static(name));
        })
        .connect()
        .await
        .unwrap();
    let client = Client::new(&channel);
    let sent = client.call("Metadata", "traceparent".to_owned()).await.unwrap();
    assert_eq!(sent.into_inner(), "grpc.attempt");
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_what_propagates_the_context_fails_the_call_alone() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let builder = channel(&registry, &net).propagate(|headers| {
        assert!(headers.remove("x-panic").is_none(), "no propagator");
    });
    let client = Client::new(&builder.connect().await.unwrap());
    let mut request = Request::new(String::new());
    request.metadata_mut().insert("x-panic", "1".parse().unwrap());
    let status = client.call("Name", request).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("no propagator"), "{status}");
    client.name().await.unwrap();
}

/// Headers that it adds count for what a server accepts, as the caller's own do.
#[tokio::test(start_paused = true)]
async fn headers_that_propagation_adds_are_within_what_the_server_accepts() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let builder = channel(&registry, &net).propagate(|headers| {
        headers.insert("baggage", "b".repeat(20 * 1024).parse().unwrap());
    });
    let client = Client::new(&builder.connect().await.unwrap());
    let status = client.name().await.unwrap_err();
    assert_eq!((status.code(), server.calls()), (Code::ResourceExhausted, 0), "{status}");
}
