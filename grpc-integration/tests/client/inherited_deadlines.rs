//! The deadline of a call goes on to the calls that are made while it is being served (grpc/grpc-rust#2316 asks for it).

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt, stream};
use hither_memory::MemoryRegistry;
use hither_tonic::{
    CallDeadline, ChannelBuilder, DeadlineLayer, DiscoveryChannel, MemoryNetwork, MemoryServer,
};
use http_body::Body as _;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::{Layer, Service, service_fn};

use crate::SECOND;
use crate::support::{Client, Echo, SERVICE, path};

type Answer = BoxFuture<'static, Result<String, Status>>;
type Codec = ProstCodec<String, String>;

/// A service of one handler. It answers `Stream` with a stream, from which the handler's work is done, and any other
/// method with one message.
#[derive(Clone)]
struct Hop(Arc<dyn Fn(Request<String>) -> Answer + Send + Sync>);

impl Hop {
    fn new<F>(handler: impl Fn(Request<String>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<String, Status>> + Send + 'static,
    {
        Self(Arc::new(move |request| handler(request).boxed()))
    }

    /// Works for a while, then makes a call on this channel, and returns its answer.
    fn calling(channel: DiscoveryChannel, work: Duration) -> Self {
        Self::new(move |request| {
            let client = Client::new(&channel);
            async move {
                sleep(work).await;
                let mut inner = Request::new(String::new());
                if let Ok(millis) = request.into_inner().parse() {
                    inner.set_timeout(Duration::from_millis(millis));
                }
                client.call("Any", inner).await.map(Response::into_inner)
            }
        })
    }

    /// Answers with the time that it has.
    fn last() -> Self {
        Self::new(|request| {
            let current = CallDeadline::current();
            assert_eq!(request.extensions().get(), current.as_ref());
            async move {
                Ok(current.map_or("no deadline".to_owned(), |deadline| format!("{:?}", deadline.left())))
            }
        })
    }
}

impl fmt::Debug for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hop")
    }
}

impl NamedService for Hop {
    const NAME: &'static str = "test.Echo";
}

impl Service<http::Request<Body>> for Hop {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let handler = Arc::clone(&self.0);
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Codec::new());
            Ok(if request.uri().path().ends_with("Stream") {
                let stream = move |request| {
                    let messages = Box::pin(stream::once(handler(request)));
                    async { Ok(Response::new(messages)) }
                };
                grpc.server_streaming(service_fn(stream), request).await
            } else {
                grpc.unary(service_fn(move |request| handler(request).map_ok(Response::new)), request).await
            })
        })
    }
}

/// Is never ready, and answers with a status alone, which has the deadline of the call in its extensions.
struct Busy;

impl Service<http::Request<Body>> for Busy {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _request: http::Request<Body>) -> Self::Future {
        let mut response = Status::unavailable("busy").into_http();
        if let Some(deadline) = CallDeadline::current() {
            response.extensions_mut().insert(deadline);
        }
        ready(Ok(response))
    }
}

/// Serves it with the layer.
async fn serve(network: &MemoryNetwork, service: &str, hop: Hop) -> MemoryServer {
    let router = tonic::transport::Server::builder().layer(DeadlineLayer::new()).add_service(hop);
    network.serve(service, format!("{service}:80").as_str(), router).await.unwrap()
}

/// A client of the first of two hops. The first works for 4 s, then calls `last` on a channel that is as `describe` has
/// it.
async fn two_hops(
    last: Hop,
    describe: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
) -> (Client, [MemoryServer; 2]) {
    let network = MemoryNetwork::new(MemoryRegistry::new());
    let last = serve(&network, "last", last).await;
    let inner = describe(network.channel("last")).connect().await.unwrap();
    let first = serve(&network, "first", Hop::calling(inner, 4 * SECOND)).await;
    (Client::new(&network.channel("first").connect().await.unwrap()), [first, last])
}

fn within(timeout: Duration, message: &str) -> Request<String> {
    let mut request = Request::new(message.to_owned());
    request.set_timeout(timeout);
    request
}

#[tokio::test(start_paused = true)]
async fn the_second_hop_has_what_the_first_has_left_less_the_margin() {
    let (client, _servers) = two_hops(Hop::last(), |builder| builder.inherit_deadline(SECOND)).await;
    assert_eq!(client.call("Any", within(10 * SECOND, "")).await.unwrap().into_inner(), "5s");
    let mut stream = client.stream("Stream", within(10 * SECOND, "")).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap(), "5s", "a call that a stream makes");
    assert_eq!(client.call("Any", String::new()).await.unwrap().into_inner(), "no deadline");
}

/// As in grpc-java (grpc/grpc-java#1575).
#[tokio::test(start_paused = true)]
async fn the_earliest_deadline_counts() {
    for (inner, default, expected) in [
        ("", None, "5s"),
        ("2000", None, "2s"),
        ("9000", None, "5s"),
        ("", Some(3 * SECOND), "3s"),
        ("2000", Some(3 * SECOND), "2s"),
        ("9000", Some(8 * SECOND), "5s"),
    ] {
        let (client, _servers) = two_hops(Hop::last(), |builder| {
            let builder = builder.inherit_deadline(SECOND);
            default.into_iter().fold(builder, ChannelBuilder::default_timeout)
        })
        .await;
        let answer = client.call("Any", within(10 * SECOND, inner)).await.unwrap().into_inner();
        assert_eq!(answer, expected, "{inner:?} {default:?}");
    }
}

/// Deadlines that go on unasked have cancelled what was to go on (grpc/grpc-java#11690,
/// open-telemetry/opentelemetry-java-instrumentation#4169).
#[tokio::test(start_paused = true)]
async fn a_channel_without_the_setting_inherits_nothing() {
    let (client, _servers) = two_hops(Hop::last(), |builder| builder).await;
    assert_eq!(client.call("Any", within(10 * SECOND, "")).await.unwrap().into_inner(), "no deadline");
}

#[tokio::test(start_paused = true)]
async fn outside_of_a_handler_the_setting_changes_nothing() {
    let network = MemoryNetwork::new(MemoryRegistry::new());
    let _server = serve(&network, SERVICE, Hop::last()).await;
    let client = Client::new(&network.channel(SERVICE).inherit_deadline(SECOND).connect().await.unwrap());
    assert_eq!(client.call("Any", String::new()).await.unwrap().into_inner(), "no deadline");
    assert_eq!(client.call("Any", within(10 * SECOND, "")).await.unwrap().into_inner(), "10s");
}

#[tokio::test(start_paused = true)]
async fn a_call_for_which_no_time_is_left_is_not_sent() {
    let network = MemoryNetwork::new(MemoryRegistry::new());
    let echo = Echo::new("a:1");
    let router = tonic::transport::Server::builder().add_service(echo.clone());
    let _server = network.serve(SERVICE, "a:1", router).await.unwrap();
    let channel = network.channel(SERVICE).inherit_deadline(SECOND).connect().await.unwrap();
    let client = Client::new(&channel);
    for (left, expected) in [
        (Duration::ZERO, "not sent: the deadline of the call that is being served has passed"),
        (SECOND / 2, "not sent: 500ms is left of the call that is being served, and the margin is 1s"),
        (SECOND, "not sent: 1s is left of the call that is being served, and the margin is 1s"),
    ] {
        let deadline = CallDeadline::new(Instant::now() + left);
        let status = deadline.scope(client.name()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, expected));
    }
    assert_eq!(echo.calls.load(Ordering::SeqCst), 0);
    let deadline = CallDeadline::new(Instant::now() + SECOND + SECOND / 1000);
    deadline.scope(client.name()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_spawned_task_has_the_deadline_that_it_is_given() {
    let network = MemoryNetwork::new(MemoryRegistry::new());
    let _last = serve(&network, "last", Hop::last()).await;
    let channel = network.channel("last").inherit_deadline(SECOND).connect().await.unwrap();
    let hop = Hop::new(move |request| {
        let (client, deadline) =
            (Client::new(&channel), *request.extensions().get::<CallDeadline>().unwrap());
        async move {
            let ask =
                |client: Client| async move { client.call("Any", String::new()).await.unwrap().into_inner() };
            let without = tokio::spawn(ask(client.clone())).await.unwrap();
            let with = tokio::spawn(deadline.scope(ask(client))).await.unwrap();
            Ok(format!("{without}, {with}"))
        }
    });
    let _first = serve(&network, "first", hop).await;
    let client = Client::new(&network.channel("first").connect().await.unwrap());
    let answer = client.call("Any", within(10 * SECOND, "")).await.unwrap().into_inner();
    assert_eq!(answer, "no deadline, 9s");
}

/// Two hops, the second of which does not answer; a client of the first, and how many handlers the second runs.
async fn held() -> (Client, impl Fn() -> usize, [MemoryServer; 2]) {
    let network = MemoryNetwork::new(MemoryRegistry::new());
    let echo = Echo::new("last");
    let router = tonic::transport::Server::builder().add_service(echo.clone());
    let last = network.serve("last", "last:80", router).await.unwrap();
    let inner = network.channel("last").inherit_deadline(SECOND).connect().await.unwrap();
    let hop = Hop::new(move |_| {
        let client = Client::new(&inner);
        async move { client.call("Hold", String::new()).await.map(Response::into_inner) }
    });
    let first = serve(&network, "first", hop).await;
    let client = Client::new(&network.channel("first").connect().await.unwrap());
    (client, move || echo.gate.receiver_count(), [first, last])
}

#[tokio::test(start_paused = true)]
async fn an_inherited_deadline_leaves_the_margin_to_answer_in() {
    let (client, handlers, _servers) = held().await;
    let began = Instant::now();
    let status = client.call("Any", within(10 * SECOND, "")).await.unwrap_err();
    assert_eq!((status.code(), began.elapsed().as_secs()), (Code::DeadlineExceeded, 9));
    assert_eq!(status.message(), "not done within 9s: no answer from last:80");
    sleep(SECOND).await;
    assert_eq!(handlers(), 0);
}

#[tokio::test(start_paused = true)]
async fn calls_are_cancelled_when_the_caller_of_the_one_being_served_is_gone() {
    let (client, handlers, _servers) = held().await;
    let call = tokio::spawn(async move { client.call("Any", String::new()).await });
    sleep(SECOND).await;
    assert_eq!(handlers(), 1);
    call.abort();
    sleep(SECOND).await;
    assert_eq!(handlers(), 0);
}

/// Over another transport in memory they are not (grpc/grpc-java#10363).
#[tokio::test(start_paused = true)]
async fn calls_are_cancelled_with_the_stream_that_makes_them() {
    let (client, handlers, _servers) = held().await;
    let mut stream = client.stream("Stream", String::new()).await.unwrap();
    assert!(timeout(SECOND, stream.message()).await.is_err());
    assert_eq!(handlers(), 1);
    drop(stream);
    sleep(SECOND).await;
    assert_eq!(handlers(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_within_the_layer_has_its_deadline_from_the_start_and_its_own_readiness_and_end() {
    let mut service = DeadlineLayer::new().layer(Busy);
    assert!(service.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending());
    let request = http::Request::builder().header("grpc-timeout", "10S").body(Body::empty()).unwrap();
    let response = service.call(request).await.unwrap();
    let expected = CallDeadline::new(Instant::now() + 10 * SECOND);
    assert_eq!(response.extensions().get(), Some(&expected));
    // A status alone ends the stream with the headers.
    assert!(response.body().is_end_stream());
    assert_eq!(response.body().size_hint().exact(), Some(0));
}

/// Over a socket, from a channel of tonic's, with headers as the clients of several languages write them.
#[tokio::test]
async fn the_first_caller_may_be_any_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router =
        tonic::transport::Server::builder().layer(DeadlineLayer::new()).add_service(Hop::new(|_| {
            let left = CallDeadline::current().map(CallDeadline::left);
            async move { Ok(left.map_or(String::new(), |left| left.as_secs().to_string())) }
        }));
    let served = tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    let minutes = |text: &str| text.parse::<u64>().map(|seconds| seconds.div_ceil(60)).ok();
    for (timeout, expected) in [
        ("3599999871u", None),  // more than eight digits
        ("99999871u", Some(2)), // grpc-go
        ("3599999m", Some(60)), // grpc-java
        ("3600S", Some(60)),
        ("60M", Some(60)),
        ("1H", Some(60)),
        ("99999999H", Some(99_999_999 * 60)),
        ("", None),
        ("H", None),
        ("-1S", None),
        ("1.5H", None),
        ("1h", None),
        ("1 H", None),
        ("3600", None),
    ] {
        let mut request = Request::new(String::new());
        request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
        grpc.ready().await.unwrap();
        let answer = grpc.unary(request, path("Any"), Codec::new()).await.unwrap().into_inner();
        assert_eq!(minutes(&answer), expected, "{timeout:?}");
    }
    served.abort();
}
