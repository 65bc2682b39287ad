//! nginx in front of a tonic server.

use std::time::Duration;

use hither::Backoff;
use hither::tonic::{ConnectivityState, MethodConfig, RetryPolicy, RoundRobin};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::load::{Load, Tally, empty_call, exchange, refused, requests, short_stream};
use super::peer::Peer;
use super::testing::Empty;
use super::upstream::{DELAY, ECHO_INITIAL, Upstream, with};
use super::{Client, LONG, builder, connect};

const CALLERS: usize = 16;

async fn in_front(server: &str) -> (Upstream, Peer, Client) {
    let upstream = Upstream::start().await;
    let nginx = Peer::nginx(&upstream.address, server).await;
    let client = connect(&[&nginx.address]).await;
    (upstream, nginx, client)
}

/// It ends a connection after `keepalive_requests`, by default 1000.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_while_it_ends_connections_after_a_thousand_requests() {
    let (_upstream, _nginx, client) = in_front("").await;
    let load = Load::start(&client, CALLERS, empty_call);
    load.more(6000).await;
    load.stop().await.assert_all_ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_go_on_while_it_ends_connections_after_a_thousand_requests() {
    let (_upstream, _nginx, client) = in_front("").await;
    let load = Load::start(&client, CALLERS, short_stream);
    load.more(3000).await;
    load.stop().await.assert_all_ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_while_it_ends_connections_after_each_ten_requests() {
    let (_upstream, _nginx, client) = in_front("keepalive_requests 10;").await;
    let load = Load::start(&client, CALLERS, empty_call);
    load.more(2000).await;
    load.stop().await.assert_all_ok();
}

/// It allows 128 streams by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_callers_than_it_allows_streams_wait() {
    let (_upstream, _nginx, client) = in_front("").await;
    let load = Load::start(&client, 300, empty_call);
    load.more(3000).await;
    load.stop().await.assert_all_ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_the_thousand_requests_of_its_connection() {
    let (_upstream, _nginx, mut client) = in_front("").await;
    let (sender, requests) = requests();
    sender.send(exchange(1, 1)).await.unwrap();
    let mut responses = client.full_duplex_call(requests).await.unwrap().into_inner();
    responses.message().await.unwrap().unwrap();
    let load = Load::start(&client, CALLERS, empty_call);
    for _ in 0..5 {
        load.more(500).await;
        sender.send(exchange(1, 1)).await.unwrap();
        responses.message().await.unwrap().unwrap();
    }
    load.stop().await.assert_all_ok();
}

/// It closes an idle connection after 75 s by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_while_it_closes_idle_connections() {
    let (_upstream, _nginx, mut client) = in_front("keepalive_timeout 50ms;").await;
    for pause in (40..70).chain(40..70) {
        client.empty_call(Empty {}).await.unwrap();
        sleep(Duration::from_millis(pause)).await;
    }
}

/// The server ends the call while the request is still open (hyperium/h2#633).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_a_call_that_the_server_refuses_early_arrives() {
    let (_upstream, _nginx, mut client) = in_front("").await;
    let status = client.streaming_input_call(refused()).await.unwrap_err();
    says(&status, Code::ResourceExhausted, &["no more uploads"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_pass_again_after_the_server_behind_it_was_restarted() {
    let (upstream, _nginx, mut client) = in_front("").await;
    client.empty_call(Empty {}).await.unwrap();
    let port = upstream.kill().await;
    client.empty_call(Empty {}).await.unwrap_err();
    let _upstream = Upstream::at(port, |builder| builder).await;
    client.empty_call(Empty {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_costs_no_call() {
    let (_upstream, nginx, client) = in_front("").await;
    let load = Load::start(&client, CALLERS, empty_call);
    for _ in 0..5 {
        load.more(300).await;
        nginx.nginx_signal("reload").await;
    }
    load.more(300).await;
    load.stop().await.assert_all_ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_costs_no_call_while_another_one_is_up() {
    assert_eq!(stopped_by("quit").await.failures(), 0);
}

/// Those that it was answering may fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_stop_costs_no_more_than_the_calls_in_flight() {
    let tally = stopped_by("stop").await;
    assert!(tally.failures() <= CALLERS, "{tally:#?}");
    assert!(tally.failed.keys().all(|status| status.starts_with("Unavailable")), "{tally:#?}");
}

async fn stopped_by(signal: &str) -> Tally {
    let upstream = Upstream::start().await;
    let mut leaving = Peer::nginx(&upstream.address, "").await;
    let staying = Peer::nginx(&upstream.address, "").await;
    let client = connect(&[&leaving.address, &staying.address]).await;
    let load = Load::start(&client, CALLERS, empty_call);
    load.more(1000).await;
    leaving.nginx_signal(signal).await;
    leaving.program.end().await;
    load.more(1000).await;
    load.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_502_is_unavailable_and_in_words() {
    let (upstream, _nginx, mut client) = in_front("").await;
    client.empty_call(Empty {}).await.unwrap();
    let _port = upstream.kill().await;
    let status = client.empty_call(Empty {}).await.unwrap_err();
    says(&status, Code::Unavailable, &["502", "text/html", "Bad Gateway"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_504_is_unavailable_and_in_words() {
    let (_upstream, _nginx, mut client) = in_front("grpc_read_timeout 100ms;").await;
    let status = client.empty_call(with(DELAY, "10000")).await.unwrap_err();
    says(&status, Code::Unavailable, &["504", "text/html", "Gateway Time-out"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_503_is_unavailable_and_in_words() {
    let (_upstream, _nginx, mut client) = in_front("return 503;").await;
    let status = client.empty_call(Empty {}).await.unwrap_err();
    says(&status, Code::Unavailable, &["503", "text/html", "Service Temporarily Unavailable"]);
}

/// Responses of a proxy's own are no gRPC, and are retried by the code that they stand for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_503_and_502_are_retried_at_another_one() {
    let (upstream, gone) = (Upstream::start().await, Upstream::start().await);
    let unwilling = Peer::nginx(&upstream.address, "return 503;").await;
    let orphaned = Peer::nginx(&gone.address, "").await;
    let nginx = Peer::nginx(&upstream.address, "").await;
    let _port = gone.kill().await;
    let backoff = Backoff::proportional(Duration::from_millis(1), 1.0, Duration::from_millis(1), 0.0);
    let method = MethodConfig::default().with_retry(RetryPolicy::default().with_backoff(backoff));
    let addresses = [&unwilling.address, &orphaned.address, &nginx.address].map(String::as_str);
    let builder = builder(&addresses).policy(RoundRobin::default()).method("", method);
    let channel = builder.connect().await.unwrap();
    let all_ready = async {
        while channel.status().count(ConnectivityState::Ready) < 3 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(LONG, all_ready).await.is_ok(), "{:#}", channel.status());
    let client = Client::new(channel);
    // The budget allows a hundred retries: two for each of these calls.
    for _ in 0..20 {
        empty_call(client.clone()).await.unwrap();
        short_stream(client.clone()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_other_answers_have_the_code_that_grpc_maps_them_to() {
    for (answer, code, words) in [
        ("return 401;", Code::Unauthenticated, "401"),
        ("return 403;", Code::PermissionDenied, "403"),
        ("return 404;", Code::Unimplemented, "404"),
        ("return 429;", Code::Unavailable, "429"),
        ("return 400;", Code::Internal, "400"),
        ("return 413;", Code::Unknown, "413"),
        ("return 500;", Code::Unknown, "500"),
        ("return 301 https://elsewhere/;", Code::Unknown, "301"),
        ("default_type text/html; return 200 welcome;", Code::Unknown, "text/html"),
    ] {
        let (_upstream, _nginx, mut client) = in_front(answer).await;
        let status = client.empty_call(Empty {}).await.unwrap_err();
        says(&status, code, &[words]);
    }
}

/// Its limit is 8 kB for one header by default. It does not answer but end the connection, with all that is in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_header_over_its_limit_fails_and_calls_go_on() {
    let (_upstream, _nginx, mut client) = in_front("").await;
    client.empty_call(Empty {}).await.unwrap();
    let status = client.empty_call(with(ECHO_INITIAL, &"x".repeat(20_000))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    // nginx closes with data of ours unread, so that the kernel resets the connection; with that its GOAWAY may be lost.
    let words =
        ["closed the connection with ENHANCE_YOUR_CALM", "the connection was closed", "reset by peer"];
    assert!(words.iter().any(|words| status.message().contains(words)), "{status:?}");
    let load = Load::start(&client, CALLERS, empty_call);
    load.more(100).await;
    load.stop().await.assert_all_ok();
}

/// Its limit is one page for all response headers by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_headers_over_its_limit_harm_their_own_call_alone() {
    let (_upstream, _nginx, client) = in_front("").await;
    let load = Load::start(&client, CALLERS, empty_call);
    load.more(100).await;
    for _ in 0..20 {
        let status = client.clone().unary_call(with(ECHO_INITIAL, &"x".repeat(7000))).await.unwrap_err();
        says(&status, Code::Unavailable, &["502"]);
    }
    load.more(100).await;
    load.stop().await.assert_all_ok();
}

#[track_caller]
fn says(status: &Status, code: Code, words: &[&str]) {
    assert_eq!(status.code(), code, "{status:?}");
    for word in words {
        assert!(status.message().contains(word), "{word} is not in {:?}", status.message());
    }
}
