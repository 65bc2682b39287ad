//! Health checks: only what reports SERVING is called. The reports of others that are tried are named at the tests.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hither_memory::MemoryRegistry;
use hither_tonic::{
    ChannelBuilder, ConnectivityState, DiscoveryChannel, MemoryNetwork, MemoryServer, RoundRobin,
};
use http_body::Frame;
use tokio::time::{Instant, advance, sleep, timeout};
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::{Code, Status, Streaming};
use tonic_health::ServingStatus::{NotServing, Serving};
use tonic_health::server::HealthReporter;

use crate::SECOND;
use crate::support::{Client, Echo, Log, SERVICE};

const CHECKED: &str = "helloworld.Greeter";

/// A server with tonic's own health service, which begins as NOT_SERVING. (What it does not know it answers with NOT_FOUND
/// and not with SERVICE_UNKNOWN.)
struct Healthy {
    server: MemoryServer,
    echo: Echo,
    reporter: HealthReporter,
}

impl Healthy {
    async fn serve(network: &MemoryNetwork, address: &str) -> Self {
        let echo = Echo::new(address);
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status(CHECKED, NotServing).await;
        let router = Server::builder().add_service(echo.clone()).add_service(health);
        Self { server: network.serve(SERVICE, address, router).await.unwrap(), echo, reporter }
    }

    async fn set(&self, status: tonic_health::ServingStatus) {
        self.reporter.set_service_status(CHECKED, status).await;
    }

    fn calls(&self) -> usize {
        self.echo.calls.load(Ordering::SeqCst)
    }
}

fn network() -> MemoryNetwork {
    MemoryNetwork::new(MemoryRegistry::new())
}

fn builder(network: &MemoryNetwork) -> ChannelBuilder {
    network.channel(SERVICE).policy(RoundRobin::default()).health_check(CHECKED)
}

async fn client(channel: &DiscoveryChannel) -> Client {
    channel.wait_ready(60 * SECOND).await.unwrap();
    sleep(SECOND).await;
    Client::new(channel)
}

async fn calls(client: &Client, count: usize) -> usize {
    let mut failed = 0;
    for _ in 0..count {
        failed += usize::from(client.name().await.is_err());
    }
    failed
}

#[tokio::test(start_paused = true)]
async fn only_servers_that_report_serving_are_called_and_calls_in_flight_go_on() {
    let log = Log::capture();
    let network = network();
    let servers = [Healthy::serve(&network, "a:1").await, Healthy::serve(&network, "a:2").await];
    let channel = builder(&network).connect_lazy().unwrap();
    sleep(SECOND).await;
    let status = channel.status();
    assert_eq!(status.state(), ConnectivityState::TransientFailure);
    let client = Client::new(&channel);
    let error = client.name().await.unwrap_err();
    let expected = "0 of 2 instances of greeter ready; last error: a:";
    assert!(
        error.message().starts_with(expected) && error.message().ends_with(" reports NOT_SERVING"),
        "{error}"
    );
    assert_eq!(
        log.take().iter().filter(|line| line.starts_with("WARN instance unhealthy service=greeter")).count(),
        2
    );

    for server in &servers {
        server.set(Serving).await;
    }
    sleep(SECOND / 10).await;
    assert_eq!(log.take().iter().filter(|line| line.starts_with("INFO instance healthy again")).count(), 2);
    assert_eq!(calls(&client, 20).await, 0);
    assert_eq!(servers.each_ref().map(Healthy::calls), [10, 10]);

    let held: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call("Hold", String::new()).await })
        })
        .collect();
    sleep(SECOND / 10).await;
    servers[0].set(NotServing).await;
    sleep(SECOND / 10).await;
    let line =
        "WARN instance unhealthy service=greeter instance=a:1 address=a:1 cause=\"a:1 reports NOT_SERVING\"";
    assert_eq!(log.take(), [line]);
    assert_eq!(calls(&client, 20).await, 0);
    assert_eq!(servers.each_ref().map(Healthy::calls), [11, 31]);
    let first = channel.status().instances()[0].clone();
    assert_eq!(
        (first.state(), first.last_error()),
        (ConnectivityState::TransientFailure, Some("a:1 reports NOT_SERVING"))
    );
    assert_eq!((first.connections(), first.in_flight()), (1, 1), "nothing reconnects");
    for server in &servers {
        server.echo.gate.send_replace(true);
    }
    for call in held {
        call.await.unwrap().unwrap();
    }
    servers[0].set(Serving).await;
    sleep(SECOND / 10).await;
    assert_eq!(calls(&client, 20).await, 0);
    assert_eq!(servers.each_ref().map(Healthy::calls), [21, 41]);
    assert_eq!(channel.status().instances()[0].in_flight(), 0, "the stream is no call");
    drop(servers.map(|server| server.server));
}

#[tokio::test(start_paused = true)]
async fn the_whole_server_is_the_empty_name_and_nothing_is_checked_by_default() {
    let network = network();
    let server = Healthy::serve(&network, "a:1").await;
    for builder in [network.channel(SERVICE).health_check(""), network.channel(SERVICE)] {
        let channel = builder.connect().await.unwrap();
        assert_eq!(Client::new(&channel).name().await.unwrap(), "a:1");
    }
    drop(server.server);
}

#[tokio::test(start_paused = true)]
async fn servers_without_the_service_are_healthy_which_is_logged_once() {
    let log = Log::capture();
    let network = network();
    let mut servers = Vec::new();
    for address in ["a:1", "a:2", "a:3"] {
        let router = Server::builder().add_service(Echo::new(address));
        servers.push(network.serve(SERVICE, address, router).await.unwrap());
    }
    let client = client(&builder(&network).connect().await.unwrap()).await;
    assert_eq!(calls(&client, 30).await, 0);
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("WARN health is not checked; the instance counts as healthy"), "{lines:?}");
}

/// What a health service of our own answers to each stream.
type Answer = Arc<dyn Fn(usize) -> http::Response<Body> + Send + Sync>;

/// A health service that breaks the rules.
#[derive(Clone)]
struct Odd {
    streams: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<http::request::Parts>>>,
    opened: Arc<Mutex<Vec<Instant>>>,
    answer: Answer,
}

impl NamedService for Odd {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl tower_service::Service<http::Request<Body>> for Odd {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.requests.lock().unwrap().push(request.into_parts().0);
        let number = self.streams.fetch_add(1, Ordering::SeqCst);
        self.opened.lock().unwrap().push(Instant::now());
        let response = (self.answer)(number);
        Box::pin(async { Ok(response) })
    }
}

impl Odd {
    fn new(answer: impl Fn(usize) -> http::Response<Body> + Send + Sync + 'static) -> Self {
        Self {
            streams: Arc::default(),
            requests: Arc::default(),
            opened: Arc::default(),
            answer: Arc::new(answer),
        }
    }

    async fn serve(&self, network: &MemoryNetwork, address: &str) -> (MemoryServer, Echo) {
        let echo = Echo::new(address);
        let router = Server::builder().add_service(echo.clone()).add_service(self.clone());
        (network.serve(SERVICE, address, router).await.unwrap(), echo)
    }

    fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }

    /// The seconds between its streams.
    fn pauses(&self) -> Vec<f64> {
        let opened = self.opened.lock().unwrap();
        opened.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
    }
}

type Frames = Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Status>> + Send>>;

/// The body of a response.
struct Streamed(Frames);

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.as_mut().poll_next(cx)
    }
}

fn grpc(
    frames: impl futures_util::Stream<Item = Result<Frame<Bytes>, Status>> + Send + 'static,
) -> http::Response<Body> {
    let body = Body::new(Streamed(Box::pin(frames)));
    http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn data(bytes: &[u8]) -> Result<Frame<Bytes>, Status> {
    Ok(Frame::data(Bytes::copy_from_slice(bytes)))
}

const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
const NOT_SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 2];

fn trailers(code: Code) -> Result<Frame<Bytes>, Status> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", i32::from(code).into());
    Ok(Frame::trailers(trailers))
}

fn open(first: &'static [u8]) -> http::Response<Body> {
    grpc(stream::once(async { data(first) }).chain(stream::pending()))
}

/// A channel that is given nothing but failures for a minute. Returns its text.
async fn failure(odd: &Odd) -> String {
    let network = network();
    let _server = odd.serve(&network, "a:1").await;
    let channel = builder(&network).connect_lazy().unwrap();
    sleep(60 * SECOND).await;
    let error = Client::new(&channel).name().await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    let text = error.message().split_once("last error: ").unwrap().1;
    text.strip_prefix("health check failed at a:1: ").unwrap_or(text).to_owned()
}

/// As where the maximum age of connections is less than the time in which a report has to come.
#[tokio::test(start_paused = true)]
async fn a_report_that_does_not_come_over_several_connections_is_a_failure() {
    let network = network();
    let odd = Odd::new(|_| grpc(stream::pending()));
    let router = Server::builder()
        .max_connection_age(3 * SECOND)
        .add_service(Echo::new("a:1"))
        .add_service(odd.clone());
    let server = network.serve(SERVICE, "a:1", router).await.unwrap();
    let channel = builder(&network).connect_lazy().unwrap();
    let client = Client::new(&channel);
    let began = Instant::now();
    let failed = client.name().await.unwrap_err();
    assert!(failed.message().ends_with("no report within 10s"), "{failed:?}");
    assert_eq!(began.elapsed().as_secs(), 10);
    for _ in 0..60 {
        let began = Instant::now();
        let failed = client.name().await.unwrap_err();
        assert!(failed.message().ends_with("no report within 10s"), "{failed:?}");
        assert!(began.elapsed() < SECOND / 10, "{:?}", began.elapsed());
        sleep(SECOND).await;
    }
    assert!(odd.streams() > 15, "{}", odd.streams());
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_report_fails_and_is_retried_with_backoff() {
    for (frames, expected) in [
        (&[&[0, 0xff, 0xff, 0xff, 0xff][..], SERVING][..], "a health message of 4294967295 bytes"),
        (&[&[1, 0, 0, 0, 2, 8, 1]], "a compressed health message"),
        (&[&[0, 0, 0, 0, 1, 8]], "a health message that is no protobuf"),
        (&[b"HTTP/1.1 200 OK"], "no gRPC message"),
        (&[&[]], "no report within 10s"),
        (&[&[0, 0, 0, 0, 9], &[0, 0]], "no report within 10s"),
    ] {
        let frames: Vec<_> = frames.iter().map(|frame| data(frame)).collect();
        let frames = Arc::new(Mutex::new(frames));
        let odd = Odd::new(move |_| {
            let frames: Vec<_> = frames
                .lock()
                .unwrap()
                .iter()
                .map(|frame| {
                    let Ok(frame) = frame else { unreachable!() };
                    data(frame.data_ref().unwrap())
                })
                .collect();
            grpc(stream::iter(frames).chain(stream::pending()))
        });
        assert_eq!(failure(&odd).await, expected);
        let pauses = odd.pauses();
        assert!((3..=8).contains(&pauses.len()), "{expected}: {pauses:?}");
        let waits = if expected.starts_with("no report") { 10.0 } else { 0.0 };
        for (pause, backoff) in pauses.iter().zip([1.0, 1.6, 2.56, 4.1, 6.55, 10.5, 16.8, 26.8]) {
            let pause = pause - waits;
            assert!(pause > backoff * 0.79 && pause < backoff * 1.21, "{expected}: {pauses:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn endless_messages_are_bounded() {
    let endless = Odd::new(|_| {
        grpc(stream::repeat_with(|| data(&[0; 16 * 1024])).take(64 * 64).chain(stream::pending()))
    });
    // Empty messages, each of which is UNKNOWN.
    assert_eq!(failure(&endless).await, "a flood of reports");
    let flood = Odd::new(|_| grpc(stream::repeat_with(|| data(SERVING)).take(1_000_000)));
    assert_eq!(failure(&flood).await, "a flood of reports");
    assert!(flood.streams() <= 9, "{}", flood.streams());
    // Ten in each second are none.
    let network = network();
    let often = Odd::new(|_| {
        grpc(stream::unfold(0_u32, |number| async move {
            sleep(SECOND / 10).await;
            Some((data(if number % 2 == 0 { SERVING } else { NOT_SERVING }), number + 1))
        }))
    });
    let _server = often.serve(&network, "a:1").await;
    let _channel = builder(&network).connect_lazy().unwrap();
    sleep(600 * SECOND).await;
    assert_eq!(often.streams(), 1);
}

/// A server that never answers delays a channel by the connect_timeout at most, and never holds up others.
#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_counts_as_connecting_until_the_timeout() {
    let network = network();
    let silent = Odd::new(|_| grpc(stream::pending()));
    let _server = silent.serve(&network, "a:1").await;
    let channel = builder(&network).connect_timeout(3 * SECOND).connect_lazy().unwrap();
    sleep(SECOND).await;
    assert_eq!(channel.status().state(), ConnectivityState::Connecting);
    let began = Instant::now();
    Client::new(&channel).name().await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 2);
    let healthy = Healthy::serve(&network, "a:2").await;
    healthy.set(Serving).await;
    sleep(SECOND).await;
    assert_eq!(Client::new(&channel).name().await.unwrap(), "a:2");
    drop(healthy.server);
}

/// Proxies end streams that are silent: with a channel of go-kratos the instance was lost each time (go-kratos/kratos#3067).
#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_after_a_report_is_opened_again_and_the_report_counts_meanwhile() {
    let log = Log::capture();
    let network = network();
    let proxied = Odd::new(|_| {
        let cut = stream::once(async {
            sleep(60 * SECOND).await;
            Err(Status::internal("read timeout"))
        });
        grpc(stream::once(async { data(SERVING) }).chain(cut))
    });
    let (_server, _) = proxied.serve(&network, "a:1").await;
    let client = client(&builder(&network).connect().await.unwrap()).await;
    for _ in 0..600 {
        assert_eq!(client.name().await.unwrap(), "a:1");
        sleep(SECOND).await;
    }
    assert_eq!(proxied.streams(), 11);
    assert_eq!(log.take(), [""; 0]);
}

/// A health service that answers each stream once and ends it: grpc-go opens the next one at once.
#[tokio::test(start_paused = true)]
async fn streams_that_end_at_once_are_paced_and_their_reports_count() {
    let network = network();
    let polled = Odd::new(|number| {
        let report = if (10..20).contains(&number) { NOT_SERVING } else { SERVING };
        grpc(stream::iter([data(report), trailers(Code::Ok)]))
    });
    let (_server, echo) = polled.serve(&network, "a:1").await;
    let client = client(&builder(&network).connect().await.unwrap()).await;
    let mut failed = 0;
    for _ in 0..300 {
        failed += calls(&client, 1).await;
        sleep(SECOND).await;
    }
    assert!((25..=45).contains(&polled.streams()), "{}", polled.streams());
    assert!((60..=110).contains(&failed), "{failed}");
    assert_eq!(echo.calls.load(Ordering::SeqCst), 300 - failed);
}

#[tokio::test(start_paused = true)]
async fn other_statuses_and_http_errors_fail() {
    for (code, expected) in [
        (Code::Unavailable, "Unavailable"),
        (Code::NotFound, "NotFound"),
        (Code::Ok, "Ok"),
        (Code::PermissionDenied, "PermissionDenied"),
    ] {
        let odd = Odd::new(move |_| grpc(stream::iter([trailers(code)])));
        assert_eq!(failure(&odd).await, expected);
    }
    let html = Odd::new(|_| {
        let body = Body::new("<h1>down</h1>".to_owned());
        http::Response::builder().status(503).header("content-type", "text/html").body(body).unwrap()
    });
    let expected =
        "Unavailable: HTTP 503 Service Unavailable instead of a gRPC response (text/html): <h1>down</h1>";
    assert_eq!(failure(&html).await, expected);
    let unfinished = Odd::new(|_| grpc(stream::empty()));
    assert_eq!(failure(&unfinished).await, "Unknown: the stream has ended without a status");
    // Within a message, after which nothing else follows.
    let reset = Odd::new(|_| {
        let broken = stream::once(async {
            sleep(SECOND / 10).await;
            Err(Status::unavailable(""))
        });
        grpc(stream::once(async { data(&SERVING[..3]) }).chain(broken))
    });
    assert_eq!(failure(&reset).await, "Internal: the server reset the stream with INTERNAL_ERROR");
}

/// Proxies and servers may refuse others.
#[tokio::test(start_paused = true)]
async fn the_stream_is_requested_as_grpc_has_it() {
    let (network, odd) = (network(), Odd::new(|_| open(SERVING)));
    let _server = odd.serve(&network, "a:1").await;
    let _client = client(&builder(&network).connect_lazy().unwrap()).await;
    let head = odd.requests.lock().unwrap()[0].clone();
    assert_eq!(
        (head.method.as_str(), head.uri.to_string()),
        ("POST", "http://greeter/grpc.health.v1.Health/Watch".to_owned())
    );
    let header = |name| head.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!((header("te"), header("content-type")), (Some("trailers"), Some("application/grpc")));
    assert!(header("user-agent").unwrap().starts_with("hither"), "{head:?}");
}

/// grpc-go's calls wait for ever behind the watch.
#[tokio::test(start_paused = true)]
async fn where_a_connection_has_one_stream_it_is_for_calls() {
    let log = Log::capture();
    let network = network();
    let never = Odd::new(|_| grpc(stream::pending()));
    let echo = Echo::new("a:1");
    let router =
        Server::builder().max_concurrent_streams(1).add_service(echo.clone()).add_service(never.clone());
    let _server = network.serve(SERVICE, "a:1", router).await.unwrap();
    let client = client(&builder(&network).max_connections(1).connect().await.unwrap()).await;
    assert_eq!(calls(&client, 10).await, 0);
    assert_eq!(never.streams(), 0);
    let line = log.take().remove(0);
    assert!(line.contains("the server allows one stream at a time, which calls need"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn where_it_has_two_the_watch_takes_one_and_the_oldest_connection_alone_is_watched() {
    let network = network();
    let odd = Odd::new(|_| open(SERVING));
    let echo = Echo::new("a:1");
    let router =
        Server::builder().max_concurrent_streams(2).add_service(echo.clone()).add_service(odd.clone());
    let _server = network.serve(SERVICE, "a:1", router).await.unwrap();
    let channel = builder(&network).connect().await.unwrap();
    let client = client(&channel).await;
    let streams: Vec<_> = {
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(client.stream("Stream", String::new()).await.unwrap());
        }
        streams
    };
    assert_eq!((channel.status().instances()[0].connections(), odd.streams()), (3, 1));
    assert_eq!(channel.status().instances()[0].in_flight(), 5);
    drop(streams);
}

/// A server with two streams, one of them the watch's and one a call's, for which another call waits.
async fn busy(
    odd: &Odd,
    network: &MemoryNetwork,
) -> (MemoryServer, DiscoveryChannel, Streaming<String>, Waiting) {
    let router =
        Server::builder().max_concurrent_streams(2).add_service(Echo::new("a:1")).add_service(odd.clone());
    let server = network.serve(SERVICE, "a:1", router).await.unwrap();
    let channel = builder(network).max_connections(1).connect().await.unwrap();
    let client = Client::new(&channel);
    let first = client.stream("Stream", String::new()).await.unwrap();
    let second = tokio::spawn(async move { client.stream("Stream", String::new()).await.unwrap() });
    (server, channel, first, second)
}

type Waiting = tokio::task::JoinHandle<Streaming<String>>;

/// A watch that reports SERVING and is cut off after this time.
fn cut_after(time: Duration) -> Odd {
    Odd::new(move |_| {
        let cut = stream::once(async move {
            sleep(time).await;
            // Between two milliseconds even a pause of zero lasts until the next one.
            advance(Duration::from_micros(500)).await;
            Err(Status::internal("read timeout"))
        });
        grpc(stream::once(async { data(SERVING) }).chain(cut))
    })
}

/// A server that is busy is healthy: were it left out, the others would be busier still.
#[tokio::test(start_paused = true)]
async fn while_calls_have_all_streams_the_last_report_counts() {
    let (network, odd) = (network(), cut_after(SECOND / 2));
    let (_server, channel, first, second) = busy(&odd, &network).await;
    // The next watch is paced, and a call has the place of the last one.
    let second = timeout(SECOND, second).await.unwrap().unwrap();
    for _ in 0..300 {
        assert_eq!(channel.status().state(), ConnectivityState::Ready);
        sleep(SECOND).await;
    }
    assert_eq!(odd.streams(), 1);
    drop((first, second));
    sleep(11 * SECOND).await;
    assert!(odd.streams() > 1, "it is watched again");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_opened_again_keeps_its_place_before_the_calls_that_wait() {
    let (network, odd) = (network(), cut_after(60 * SECOND));
    let (_server, channel, first, mut second) = busy(&odd, &network).await;
    assert!(timeout(400 * SECOND, &mut second).await.is_err());
    assert_eq!((odd.streams(), channel.status().state()), (7, ConnectivityState::Ready));
    drop(first);
    timeout(SECOND, second).await.unwrap().unwrap();
}

/// The first connection is full and ends with GOAWAY, and the second has so many calls of two.
#[tokio::test(start_paused = true)]
async fn at_the_goaway_of_one_of_several_connections_the_watch_moves_to_another_one() {
    for calls in [1, 2] {
        let network = network();
        let odd = Odd::new(|number| open(if number == 0 { SERVING } else { NOT_SERVING }));
        let router = Server::builder()
            .max_concurrent_streams(2)
            .max_connection_age(30 * SECOND)
            .add_service(Echo::new("a:1"))
            .add_service(odd.clone());
        let _server = network.serve(SERVICE, "a:1", router).await.unwrap();
        let channel = builder(&network).connect().await.unwrap();
        let client = client(&channel).await;
        let _first = client.stream("Stream", String::new()).await.unwrap();
        sleep(14 * SECOND).await;
        let mut second = Vec::new();
        for _ in 0..calls {
            second.push(client.stream("Stream", String::new()).await.unwrap());
        }
        let seen = || {
            let status = channel.status();
            (status.state(), status.instances()[0].connections(), odd.streams())
        };
        assert_eq!(seen(), (ConnectivityState::Ready, 2, 1));
        sleep(17 * SECOND).await;
        if calls == 2 {
            assert_eq!(seen(), (ConnectivityState::Ready, 1, 1), "it is full");
            second.pop();
            sleep(8 * SECOND).await;
        }
        assert_eq!(seen(), (ConnectivityState::TransientFailure, 1, 2));
    }
}

/// GOAWAY was taken for a failed check, so a fleet that drained its connections was unhealthy as a whole
/// (envoyproxy/envoy#11324); and the stream held up the end of its connection (grpc/grpc-go#8776).
#[tokio::test(start_paused = true)]
async fn the_stream_keeps_no_connection_open_and_each_new_connection_is_checked() {
    let network = network();
    let live = Arc::new(());
    let odd = {
        let live = Arc::clone(&live);
        Odd::new(move |number| {
            let held = Arc::clone(&live);
            let report = data(if number == 7 { NOT_SERVING } else { SERVING });
            grpc(stream::once(async { report }).chain(stream::once(async move {
                let _held = held;
                std::future::pending().await
            })))
        })
    };
    let echo = Echo::new("a:1");
    // GOAWAY, and the end of the connection with its last stream.
    let router =
        Server::builder().max_connection_age(5 * SECOND).add_service(echo.clone()).add_service(odd.clone());
    let server = network.serve(SERVICE, "a:1", router).await.unwrap();
    let channel = builder(&network).connect().await.unwrap();
    let client = client(&channel).await;
    let mut failed = 0;
    for _ in 0..59 {
        failed += calls(&client, 1).await;
        assert!(Arc::strong_count(&live) <= 4, "one stream, and for a moment the next");
        sleep(SECOND).await;
    }
    assert!((4..=6).contains(&failed), "{failed}: the eighth connection was not called");
    assert_eq!(odd.streams(), 12);
    drop((channel, client));
    sleep(SECOND).await;
    assert_eq!(Arc::strong_count(&live), 2, "no stream is left");
    timeout(60 * SECOND, server.shut_down()).await.expect("nothing holds it up");
}

/// One that ends each connection after a report answers no call: without calls it would be connected to without end.
#[tokio::test(start_paused = true)]
async fn a_server_that_ends_each_connection_after_a_report_is_not_flooded() {
    let network = network();
    let odd = Odd::new(|_| open(SERVING));
    let echo = Echo::new("a:1");
    let router = Server::builder()
        .max_connection_age(Duration::from_millis(5))
        .add_service(echo.clone())
        .add_service(odd.clone());
    let _server = network.serve(SERVICE, "a:1", router).await.unwrap();
    let _channel = builder(&network).connect_lazy().unwrap();
    sleep(60 * SECOND).await;
    assert!(odd.streams() < 60, "{}", odd.streams());
}
