//! One call: its deadline, its retries, its end.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hither_tonic::{
    CalledInstance, Connected, Connector, Destination, DiscoveryChannel, MethodConfig, ResponseFuture,
    RetryPolicy, WaitForReady,
};
use http_body::Body as _;
use tokio::time::{Instant, sleep};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tower_service::Service as _;

use crate::scripted::{Fleet, Reply, Script};
use crate::support::{Client, Net, Registry, SERVICE, Server, path, peers, until};
use crate::{SECOND, channel};

fn within(timeout: Duration, message: &str) -> Request<String> {
    let mut request = Request::new(message.to_owned());
    request.set_timeout(timeout);
    request
}

/// A timeout as gRPC writes it.
fn read(timeout: &str) -> Duration {
    let (count, unit) = timeout.split_at(timeout.len() - 1);
    let unit = match unit {
        "n" => Duration::from_nanos(1),
        "u" => Duration::from_micros(1),
        "m" => Duration::from_millis(1),
        "S" => SECOND,
        _ => panic!("{timeout:?}"),
    };
    unit * count.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_server_that_does_not_answer_ends_at_its_deadline() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let began = Instant::now();
    let status = client.call("Hold", within(3 * SECOND, "")).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.message(), "not done within 3s: no answer from a:1");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_deadline_while_messages_arrive() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    for method in ["Ticks", "Stream"] {
        let began = Instant::now();
        let mut stream = client.stream(method, within(3 * SECOND, "")).await.unwrap();
        let status = loop {
            match stream.message().await {
                Ok(message) => assert!(message.is_some() && began.elapsed() < 4 * SECOND, "{method}"),
                Err(status) => break status,
            }
        };
        assert_eq!(began.elapsed().as_secs(), 3, "{method}");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_against_a_server_that_ignores_it() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let streaming = peers::streaming(&net, "a:1");
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let began = Instant::now();
    let mut stream = client.stream("Any", within(3 * SECOND, "")).await.unwrap();
    let mut messages = 0;
    let status = loop {
        match stream.message().await {
            Ok(message) => {
                assert!(message.is_some() && messages < 100);
                messages += 1;
            }
            Err(status) => break status,
        }
    };
    assert_eq!(began.elapsed().as_secs(), 3);
    assert!((25..=30).contains(&messages), "{messages}");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.message(), "not done within 3s: the response of a:1 had begun");
    until("the stream is cancelled", || streaming.load(Ordering::SeqCst) == 0).await;
}

/// A call of 3 s that is sent now.
fn sent(channel: &mut DiscoveryChannel, method: &str) -> ResponseFuture {
    let request = http::Request::post(format!("/test.Echo/{method}")).header("grpc-timeout", "3S");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    channel.call(request.body(Body::new("\0\0\0\0\0".to_owned())).unwrap())
}

/// It had no deadline then: on several threads, one call in twenty.
#[tokio::test(start_paused = true)]
async fn a_deadline_holds_where_the_response_has_begun_before_the_call_is_awaited() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _streaming = peers::streaming(&net, "a:1");
    registry.up("a:1").await;
    let mut channel = channel(&registry, &net).connect().await.unwrap();
    let began = Instant::now();
    let call = sent(&mut channel, "Any");
    sleep(SECOND).await;
    let mut body = pin!(call.await.unwrap().into_body());
    let status = loop {
        match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            Some(Ok(_)) => assert!(began.elapsed() < 4 * SECOND),
            ended => break ended.unwrap().unwrap_err(),
        }
    };
    assert_eq!((began.elapsed().as_secs(), status.code()), (3, Code::DeadlineExceeded));
}

/// As tonic's server does when the time is over, and a hair earlier than the client is woken.
#[tokio::test(start_paused = true)]
async fn a_server_that_cancels_a_call_because_of_its_deadline_has_exceeded_it() {
    let retry = RetryPolicy::default().with_codes([Code::Cancelled]);
    for config in [MethodConfig::default(), MethodConfig::default().with_retry(retry)] {
        let late = Reply::Fail(Code::Cancelled).after(2 * SECOND);
        let fleet = Fleet::of(1, Script::of([late, Reply::HeadersThenFail(Code::Cancelled)])).await;
        let builder = fleet.channel().method("", config);
        let mut channel = builder.connect().await.unwrap();
        let call = sent(&mut channel, "Any");
        sleep(4 * SECOND).await;
        let status = call.await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        let mut body = pin!(sent(&mut channel, "Any").await.unwrap().into_body());
        sleep(4 * SECOND).await;
        let status = poll_fn(|cx| body.as_mut().poll_frame(cx)).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert_eq!(fleet.recorder.codes(), [Code::DeadlineExceeded; 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_default_timeout_is_for_calls_without_one_and_caps_the_others() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let client = Client::new(&channel(&registry, &net).default_timeout(3 * SECOND).connect().await.unwrap());
    for (request, seconds) in
        [(Request::new(String::new()), 3), (within(9 * SECOND, ""), 3), (within(2 * SECOND, ""), 2)]
    {
        let began = Instant::now();
        assert_eq!(client.call("Hold", request).await.unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(began.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn the_server_gets_the_time_that_is_left() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let channel = channel(&registry, &net).default_timeout(20 * SECOND).connect_lazy().unwrap();
    let mut request = within(10 * SECOND, "grpc-timeout");
    request.extensions_mut().insert(WaitForReady(true));
    let client = Client::new(&channel);
    let call = tokio::spawn(async move { client.call("Metadata", request).await });
    sleep(4 * SECOND).await;
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let left = read(call.await.unwrap().unwrap().get_ref());
    assert!(left <= 6 * SECOND && left > 5 * SECOND, "{left:?}");

    let left = Client::new(&channel).call("Metadata", "grpc-timeout".to_owned()).await.unwrap();
    let left = read(left.get_ref());
    assert!(left <= 20 * SECOND && left > 19 * SECOND, "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_is_not_sent() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let status = client.call("Name", within(Duration::ZERO, "")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    client.name().await.unwrap();
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_server_refuses_before_processing_is_retried_on_another() {
    for refuse in [peers::refusing, peers::going_away] {
        let (mut registry, net) = (Registry::new(), Net::new());
        let refused = refuse(&net, "a:1");
        let server = Server::on(&net, "b:1");
        registry.up("a:1").await;
        registry.up(&server.address).await;
        let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
        until("both are tried", || net.dials("a:1").len() == 1 && net.dials("b:1").len() == 1).await;
        for _ in 0..20 {
            assert_eq!(client.call("Length", "x".repeat(1000)).await.unwrap().into_inner(), "1000");
            sleep(3 * SECOND).await;
        }
        let refused = refused.load(Ordering::SeqCst);
        assert!((5..=20).contains(&refused), "{refused}");
    }
}

/// `a:1` is a peer that shuts down once `left` is set; all others are on the network.
#[derive(Debug)]
struct Parting {
    left: Arc<AtomicBool>,
    net: Net,
}

#[async_trait]
impl Connector for Parting {
    async fn connect(&self, destination: Destination<'_>) -> std::io::Result<Connected> {
        match destination.address().to_string().as_str() {
            "a:1" if !self.left.load(Ordering::SeqCst) => Ok(peers::parting(&self.left)),
            _ => self.net.connect(destination).await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_goaway_is_read_even_when_writing_the_request_that_crosses_it_fails() {
    for _ in 0..10 {
        let (mut registry, net) = (Registry::new(), Net::new());
        let server = Server::on(&net, "b:1");
        registry.up("a:1").await;
        registry.up(&server.address).await;
        let left = Arc::<AtomicBool>::default();
        let connector = Parting { left: Arc::clone(&left), net: net.clone() };
        let client = Client::new(&channel(&registry, &net).connector(connector).connect().await.unwrap());
        sleep(SECOND).await;
        left.store(true, Ordering::SeqCst);
        for _ in 0..2 {
            assert_eq!(client.name().await.unwrap(), "b:1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_is_sent_again_more_and_more_slowly_until_its_deadline_or_ten_times() {
    for (seconds, code, expected) in [
        (1, Code::DeadlineExceeded, "refused before: the server reset the stream with REFUSED_STREAM at a:1"),
        (10, Code::Unavailable, "the server reset the stream with REFUSED_STREAM at a:1"),
    ] {
        let (mut registry, net) = (Registry::new(), Net::new());
        let refused = peers::refusing(&net, "a:1");
        registry.up("a:1").await;
        let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
        let mut request = Request::new(String::new());
        request.set_timeout(seconds * SECOND);
        let began = Instant::now();
        let status = client.call("Name", request).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().ends_with(expected), "{status}");
        let attempts = refused.load(Ordering::SeqCst);
        assert!(
            if seconds == 1 { (7..10).contains(&attempts) } else { attempts == 10 },
            "{attempts} attempts"
        );
        assert!(began.elapsed() < 4 * SECOND, "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_body_is_replayed_up_to_64_kib_when_it_is_streamed() {
    for (length, replayed) in [(60 * 1024, true), (70 * 1024, false)] {
        let (mut registry, net) = (Registry::new(), Net::new());
        let refused = peers::refusing(&net, "a:1");
        registry.up("a:1").await;
        let channel = channel(&registry, &net).connect().await.unwrap();
        let messages = stream::iter(0..length / 1024).then(|_| async {
            tokio::task::yield_now().await;
            "x".repeat(1024)
        });
        let mut request = Request::new(messages);
        request.set_timeout(SECOND);
        let codec = ProstCodec::<String, String>::new();
        let mut grpc = Grpc::new(channel);
        let status = grpc.client_streaming(request, path("Length"), codec).await.unwrap_err();
        let attempts = refused.load(Ordering::SeqCst);
        match replayed {
            true => assert!(status.code() == Code::DeadlineExceeded && attempts > 2, "{status}, {attempts}"),
            false => assert!(status.code() == Code::Unavailable && attempts == 1, "{status}, {attempts}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_unary_call_is_sent_again_whatever_its_size() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let refused = peers::refusing(&net, "a:1");
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let mut request = Request::new("x".repeat(1024 * 1024));
    request.set_timeout(SECOND);
    assert_eq!(client.call("Length", request).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(refused.load(Ordering::SeqCst) > 2);
}

#[tokio::test(start_paused = true)]
async fn a_long_body_of_many_messages_arrives_whole() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    let messages = stream::iter((0..1000).map(|_| "x".repeat(1000))).then(|message| async {
        tokio::task::yield_now().await;
        message
    });
    let mut grpc = Grpc::new(channel);
    let codec = ProstCodec::<String, String>::new();
    let answer = grpc.client_streaming(Request::new(messages), path("Length"), codec).await.unwrap();
    assert_eq!(answer.into_inner(), "1000000");
}

#[tokio::test(start_paused = true)]
async fn a_status_from_the_server_is_never_retried() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let status = client.call("Fail", String::new()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "not today"));
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_connection_breaks_is_not_retried_and_fails_at_once() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let (a, b) = (Server::on(&net, "a:1"), Server::on(&net, "b:1"));
    registry.up(&a.address).await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call("Hold", String::new()).await }
    });
    let mut stream = client.stream("Stream", String::new()).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap(), "a:1");
    until("both calls are there", || a.calls() == 2).await;
    registry.up(&b.address).await;
    a.break_connections();
    for status in [call.await.unwrap().unwrap_err(), stream.message().await.unwrap_err()] {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().ends_with(" at a:1"), "{status}");
    }
    assert_eq!(a.calls() + b.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_carries_the_service_as_authority_and_reports_its_instance() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    for (method, code) in [("Authority", Code::Ok), ("Nonsense", Code::Unimplemented)] {
        let called = CalledInstance::default();
        let mut request = Request::new(String::new());
        request.extensions_mut().insert(called.clone());
        let answer = client.call(method, request).await;
        assert_eq!(answer.as_ref().map_or_else(Status::code, |_| Code::Ok), code);
        assert_eq!(called.get().unwrap().instance().id().as_str(), "a:1");
        if let Ok(authority) = answer {
            assert_eq!(authority.get_ref(), SERVICE);
        }
    }
    let agent = client.call("Metadata", "user-agent".to_owned()).await.unwrap().into_inner();
    assert!(agent.starts_with("hither-tonic/"), "{agent}");

    let named = channel(&registry, &net).authority("greeter.internal:443").connect().await.unwrap();
    let authority = Client::new(&named).call("Authority", String::new()).await.unwrap();
    assert_eq!(authority.get_ref(), "greeter.internal:443");
}

#[tokio::test(start_paused = true)]
async fn an_interceptor_sees_every_call() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let channel: DiscoveryChannel = channel(&registry, &net).connect().await.unwrap();
    let mut grpc = Grpc::new(InterceptedService::new(channel, |mut request: Request<()>| {
        if request.metadata().contains_key("x-forbidden") {
            return Err(Status::permission_denied("not by us"));
        }
        request.metadata_mut().insert("x-token", "secret".parse().unwrap());
        Ok(request)
    }));
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<String, String>::new();
    let request = Request::new("x-token".to_owned());
    assert_eq!(grpc.unary(request, path("Metadata"), codec.clone()).await.unwrap().into_inner(), "secret");
    let mut request = Request::new(String::new());
    request.metadata_mut().insert("x-forbidden", "1".parse().unwrap());
    let status = grpc.unary(request, path("Name"), codec).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_encoded_fails_with_the_encoders_status() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    let mut grpc = Grpc::new(channel).max_encoding_message_size(10);
    let request = Request::new("x".repeat(100));
    let status = grpc.unary(request, path("Length"), ProstCodec::<String, String>::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}

#[tokio::test(start_paused = true)]
async fn sending_a_request_ends_with_its_call() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::described(&net, "a:1", |server| server.max_concurrent_streams(1));
    registry.up(&server.address).await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    // Neither does the server read to the end, nor is there one; that the stream is dropped closes `alive`.
    let (alive, mut dropped) = tokio::sync::oneshot::channel::<()>();
    let endless = stream::once(async { "x".to_owned() }).chain(stream::once(async move {
        let _alive = alive;
        std::future::pending().await
    }));
    let mut grpc = Grpc::new(channel.clone());
    let codec = ProstCodec::<String, String>::new();
    let status = grpc.client_streaming(Request::new(endless), path("Fail"), codec).await.unwrap_err();
    assert_eq!(status.message(), "not today");
    tokio::time::timeout(SECOND, &mut dropped).await.unwrap().unwrap_err();
    let client = Client::new(&channel);
    for _ in 0..10 {
        client.name().await.unwrap();
    }
    assert_eq!(server.accepted(), 1);
}

/// Answers each call with a page that has no end, or only with the beginning of one.
fn endless_page(net: &Net, address: &str, flows: bool) {
    let mut incoming = net.listen(address);
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(incoming.recv().await.unwrap()).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let head = http::Response::builder().status(502).header("content-type", "text/html").body(());
            let mut page = respond.send_response(head.unwrap(), false).unwrap();
            tokio::spawn(async move {
                page.send_data("<html>".into(), false).unwrap();
                // Far more than is shown.
                let mut left = if flows { 1024 * 1024 } else { 0_usize };
                while left > 0 {
                    page.reserve_capacity(16 * 1024);
                    match poll_fn(|cx| page.poll_capacity(cx)).await {
                        Some(Ok(room)) => {
                            left = left.saturating_sub(room);
                            page.send_data(vec![b'x'; room].into(), false).unwrap();
                        }
                        _ => return,
                    }
                }
                // The client has enough of it.
                poll_fn(|cx| page.poll_reset(cx)).await.unwrap();
            });
        }
    });
}

/// Of a page in place of a response so much is read as is shown, and for so long.
#[tokio::test(start_paused = true)]
async fn a_proxys_page_without_an_end_is_read_up_to_a_bound_of_size_and_of_time() {
    for (flows, text, wait) in [(true, "<html>xxx", Duration::ZERO), (false, "<html>", SECOND)] {
        let (mut registry, net) = (Registry::new(), Net::new());
        endless_page(&net, "a:1", flows);
        registry.up("a:1").await;
        let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
        let began = Instant::now();
        let status = client.name().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains(text), "{status}");
        assert!(began.elapsed() >= wait && began.elapsed() < wait + SECOND / 2, "{:?}", began.elapsed());
    }
}
