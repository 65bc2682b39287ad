//! HAProxy in front of a tonic server.

use rustix::process::Signal;
use tonic::Code;

use super::load::{Load, Tally, empty_call, refused, short_stream};
use super::peer::Peer;
use super::testing::Empty;
use super::upstream::{DELAY, Upstream, with};
use super::{Client, connect};

const CALLERS: usize = 16;

async fn in_front(backend: &str) -> (Upstream, Peer, Client) {
    let upstream = Upstream::start().await;
    let haproxy = Peer::haproxy(&upstream.address, backend).await;
    let client = connect(&[&haproxy.address]).await;
    (upstream, haproxy, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_streams_pass() {
    let (_upstream, _haproxy, client) = in_front("").await;
    let calls = Load::start(&client, CALLERS, empty_call);
    let streams = Load::start(&client, CALLERS, short_stream);
    calls.more(5000).await;
    streams.more(500).await;
    calls.stop().await.assert_all_ok();
    streams.stop().await.assert_all_ok();
}

/// The server ends the call while the request is still open (haproxy/haproxy#1219).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_a_call_that_the_server_refuses_early_arrives() {
    let (_upstream, _haproxy, mut client) = in_front("").await;
    let status = client.streaming_input_call(refused()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "no more uploads"));
}

/// haproxy/haproxy#914, haproxy/haproxy#1006.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_pass_again_after_the_server_behind_it_was_restarted() {
    let (upstream, _haproxy, mut client) = in_front("").await;
    client.empty_call(Empty {}).await.unwrap();
    let port = upstream.kill().await;
    client.empty_call(Empty {}).await.unwrap_err();
    let _upstream = Upstream::at(port, |builder| builder).await;
    client.empty_call(Empty {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_costs_no_call() {
    let (_upstream, haproxy, client) = in_front("").await;
    let load = Load::start(&client, CALLERS, empty_call);
    for _ in 0..5 {
        load.more(300).await;
        haproxy.signal(Signal::USR2);
    }
    load.more(300).await;
    load.stop().await.assert_all_ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_costs_no_call_while_another_one_is_up() {
    assert_eq!(stopped_by(Signal::USR1).await.failures(), 0);
}

/// Those that it was answering may fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_stop_costs_no_more_than_the_calls_in_flight() {
    let tally = stopped_by(Signal::TERM).await;
    assert!(tally.failures() <= CALLERS, "{tally:#?}");
    assert!(tally.failed.keys().all(|status| status.starts_with("Unavailable")), "{tally:#?}");
}

async fn stopped_by(signal: Signal) -> Tally {
    let upstream = Upstream::start().await;
    let mut leaving = Peer::haproxy(&upstream.address, "").await;
    let staying = Peer::haproxy(&upstream.address, "").await;
    let client = connect(&[&leaving.address, &staying.address]).await;
    let load = Load::start(&client, CALLERS, empty_call);
    load.more(1000).await;
    leaving.signal(signal);
    leaving.program.end().await;
    load.more(1000).await;
    load.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_503_is_unavailable_and_in_words() {
    let (upstream, _haproxy, mut client) = in_front("").await;
    client.empty_call(Empty {}).await.unwrap();
    let _port = upstream.kill().await;
    let status = client.empty_call(Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let status = client.empty_call(Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    for word in ["503", "text/html", "No server is available"] {
        assert!(status.message().contains(word), "{word} is not in {:?}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_504_is_unavailable_and_in_words() {
    let (_upstream, _haproxy, mut client) = in_front("timeout server 100ms").await;
    let status = client.empty_call(with(DELAY, "10000")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    for word in ["504", "text/html"] {
        assert!(status.message().contains(word), "{word} is not in {:?}", status.message());
    }
}
