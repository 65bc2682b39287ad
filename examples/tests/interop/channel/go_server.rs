//! grpc-go's server, with the settings that end connections.

use std::time::Duration;

use futures_util::future::join_all;
use hither::tonic::{CalledInstance, MethodConfig, RetryPolicy, RoundRobin};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::load::{Load, Tally, empty_call, short_stream};
use super::peer::Peer;
use super::testing::{EchoStatus, Empty, ResponseParameters, SimpleRequest, StreamingOutputCallRequest};
use super::upstream::{ECHO_INITIAL, with};
use super::{Client, LONG, builder, connect};

const CALLERS: usize = 16;

/// Each connection of these servers ends after about 0.3 s.
const SHORT_LIVES: [&str; 2] = ["-age", "300ms"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_maximum_age_of_connections_costs_no_call() {
    let server = Peer::go_server(&SHORT_LIVES).await;
    calls_pass(&connect(&[&server.address]).await).await;
}

/// What is in flight 0.1 s after the end of a connection's age is cut; these calls take less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_maximum_age_of_connections_with_a_grace_costs_no_call() {
    let server = Peer::go_server(&[&SHORT_LIVES[..], &["-grace", "1s"]].concat()).await;
    calls_pass(&connect(&[&server.address]).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_maximum_age_of_connections_to_three_servers_costs_no_call() {
    let servers = join_all((0..3).map(|_| Peer::go_server(&SHORT_LIVES))).await;
    let addresses: Vec<_> = servers.iter().map(|server| server.address.as_str()).collect();
    calls_pass(&connect(&addresses).await).await;
}

/// It counts attempts by `grpc-previous-rpc-attempts`, and asks for the next one by `grpc-retry-pushback-ms`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_streams_are_retried_when_the_server_asks_for_it() {
    for (failing, is_answered) in [("2", true), ("3", false)] {
        let server = Peer::go_server(&["-fail", failing]).await;
        let method = MethodConfig::default().with_retry(RetryPolicy::default());
        let client = Client::new(builder(&[&server.address]).method("", method).connect().await.unwrap());
        for call in 0..10 {
            let began = Instant::now();
            let outcome = if call % 2 == 0 {
                empty_call(client.clone()).await
            } else {
                short_stream(client.clone()).await
            };
            assert!(began.elapsed() >= Duration::from_millis(40), "{:?}", began.elapsed());
            match outcome {
                Ok(()) => assert!(is_answered),
                Err(status) => {
                    assert!(!is_answered, "{status:?}");
                    assert_eq!((status.code(), status.message()), (Code::Unavailable, "after 2 attempts"));
                }
            }
        }
    }
}

/// Calls of 16 callers for 3 s.
async fn calls_pass(client: &Client) {
    let load = Load::start(client, CALLERS, empty_call);
    sleep(Duration::from_secs(3)).await;
    load.stop().await.assert_all_ok();
}

/// Responses that take long enough to be cut (grpc/grpc-java#9566, grpc/grpc-go#2767).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_maximum_age_of_connections_cuts_no_large_response() {
    let server = Peer::go_server(&[&SHORT_LIVES[..], &["-grace", "5s"]].concat()).await;
    let load = Load::start(&connect(&[&server.address]).await, CALLERS, |mut client| async move {
        let request = SimpleRequest { response_size: 3_000_000, ..Default::default() };
        client.unary_call(request).await.map(drop)
    });
    load.more(200).await;
    load.stop().await.assert_all_ok();
}

/// A caller that calls now and then finds a connection that has just been closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_maximum_idle_time_of_connections_costs_no_call() {
    let server = Peer::go_server(&["-idle", "50ms"]).await;
    let mut client = connect(&[&server.address]).await;
    for pause in (40..70).chain(40..70) {
        client.empty_call(Empty {}).await.unwrap();
        sleep(Duration::from_millis(pause)).await;
    }
}

/// A stream outlives its connection's age, because the age's grace is unlimited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_finished_after_the_age_of_its_connection() {
    let server = Peer::go_server(&SHORT_LIVES).await;
    let mut client = connect(&[&server.address]).await;
    let response_parameters = vec![ResponseParameters { size: 10, interval_us: 100_000 }; 20];
    let request = StreamingOutputCallRequest { response_parameters, ..Default::default() };
    let mut messages = client.streaming_output_call(request).await.unwrap().into_inner();
    let load = Load::start(&client, CALLERS, empty_call);
    let mut count = 0;
    while messages.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 20);
    load.stop().await.assert_all_ok();
}

/// More calls than ten connections have streams for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_for_a_stream_where_few_are_allowed() {
    for streams in ["1", "2", "5"] {
        let server = Peer::go_server(&["-streams", streams]).await;
        let client = connect(&[&server.address]).await;
        let calls = Load::start(&client, 64, empty_call);
        let streams = Load::start(&client, 8, short_stream);
        calls.more(2000).await;
        streams.more(200).await;
        calls.stop().await.assert_all_ok();
        streams.stop().await.assert_all_ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_costs_no_call_while_another_server_is_up() {
    assert_eq!(stopped_by(Signal::TERM).await.failures(), 0);
}

/// Those that it was answering may fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_costs_no_more_than_the_calls_in_flight() {
    let tally = stopped_by(Signal::INT).await;
    assert!(tally.failures() <= CALLERS, "{tally:#?}");
    assert!(tally.failed.keys().all(|status| status.starts_with("Unavailable")), "{tally:#?}");
}

async fn stopped_by(signal: Signal) -> Tally {
    let (mut leaving, staying) = (Peer::go_server(&[]).await, Peer::go_server(&[]).await);
    let client = connect(&[&leaving.address, &staying.address]).await;
    let load = Load::start(&client, CALLERS, empty_call);
    load.more(1000).await;
    leaving.signal(signal);
    leaving.program.end().await;
    load.more(1000).await;
    load.stop().await
}

/// grpc-go allows 16 MiB of headers by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_headers_and_status_messages_arrive() {
    let server = Peer::go_server(&[]).await;
    let client = connect(&[&server.address]).await;
    let load = Load::start(&client, CALLERS, empty_call);
    load.more(100).await;
    for size in [5000, 20_000, 60_000, 500_000] {
        let text = "x".repeat(size);
        let request = with(ECHO_INITIAL, &text);
        let response =
            client.clone().unary_call(request).await.unwrap_or_else(|status| panic!("{size}: {status}"));
        assert_eq!(response.metadata().get(ECHO_INITIAL).unwrap().as_bytes(), text.as_bytes());

        let response_status = Some(EchoStatus { code: Code::NotFound.into(), message: text.clone() });
        let request = SimpleRequest { response_status, ..Default::default() };
        let status = client.clone().unary_call(request).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{size}: {status}");
        assert_eq!(status.message(), text);
    }
    load.more(100).await;
    load.stop().await.assert_all_ok();
}

/// What the server allows is in its SETTINGS: a request that is over it fails unsent, and no other call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_over_the_limit_of_the_server_harm_their_own_call_alone() {
    let server = Peer::go_server(&["-headers", "4096"]).await;
    let client = connect(&[&server.address]).await;
    let load = Load::start(&client, CALLERS, empty_call);
    load.more(100).await;
    for _ in 0..20 {
        let mut request = Request::new(Empty {});
        for key in ["a", "b", "c"] {
            request.metadata_mut().insert(key, MetadataValue::try_from("x".repeat(2000)).unwrap());
        }
        let status = client.clone().empty_call(request).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.message().contains("exceed the 4096 that"), "{status:?}");
    }
    load.more(100).await;
    load.stop().await.assert_all_ok();
}

/// SIGSTOP: the kernel goes on to acknowledge, and nothing answers. The default time until it is noticed is scaled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_left_and_used_again_after_it_thaws() {
    let (frozen, other) = (Peer::go_server(&[]).await, Peer::go_server(&[]).await);
    let scaled = builder(&[&frozen.address, &other.address])
        .keepalive_interval(Some(Duration::from_millis(500)))
        .keepalive_timeout(Duration::from_millis(500))
        .policy(RoundRobin::default());
    let client = Client::new(scaled.connect().await.unwrap());
    let load = Load::start(&client, CALLERS, empty_call);
    load.more(1000).await;
    frozen.signal(Signal::STOP);
    // Calls that the frozen one had fail when it is noticed.
    load.more(4000).await;
    let tally = load.stop().await;
    assert!(tally.failures() <= CALLERS, "{tally:#?}");
    assert!(tally.failed.keys().all(|status| status.contains(&frozen.address)), "{tally:#?}");

    let load = Load::start(&client, CALLERS, empty_call);
    load.more(1000).await;
    frozen.signal(Signal::CONT);
    load.more(1000).await;
    load.stop().await.assert_all_ok();
    answers(&client, &frozen).await;
}

/// Waits until a call is answered by this server.
async fn answers(client: &Client, server: &Peer) {
    let address = server.address.parse().unwrap();
    let is_it = async {
        loop {
            let (called, mut request) = (CalledInstance::default(), Request::new(Empty {}));
            request.extensions_mut().insert(called.clone());
            client.clone().empty_call(request).await.unwrap();
            if called.get().is_some_and(|instance| instance.instance().address() == &address) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(LONG, is_it).await.is_ok(), "{} answers no call", server.address);
}
