//! grpc-go's rule on pings, at its defaults: more than two too early ones in a row end the connection, with
//! too_many_pings. Too early is within five minutes, or within two hours of a connection without a call.
//!
//! The channel's default interval of 10 s is scaled to 0.1 s.

use std::collections::BTreeSet;
use std::time::Duration;

use hither::tonic::ChannelBuilder;
use tokio::time::sleep;

use super::peer::Peer;
use super::testing::{Empty, ResponseParameters, StreamingOutputCallRequest};
use super::{Client, builder};

async fn connect(server: &Peer, describe: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Client {
    let builder = builder(&[&server.address]).keepalive_interval(Some(Duration::from_millis(100)));
    Client::new(describe(builder).connect().await.unwrap())
}

/// A server that logs each frame.
async fn server() -> Peer {
    let variables = [
        ("GODEBUG", "http2debug=2"),
        ("GRPC_GO_LOG_SEVERITY_LEVEL", "info"),
        ("GRPC_GO_LOG_VERBOSITY_LEVEL", "99"),
    ];
    Peer::go_server_with(&[], &variables).await
}

fn pings(server: &Peer) -> usize {
    server.program.stderr.count(|line| line.contains("read PING len=8"))
}

fn complaints(server: &Peer) -> usize {
    server.program.stderr.count(|line| line.contains("too_many_pings"))
}

/// By the objects that log.
fn connections(server: &Peer) -> usize {
    let lines = server.program.stderr.all();
    let of = |line: &String| Some(line.split_once("Framer ")?.1.split_once(':')?.0.to_owned());
    lines.iter().filter_map(of).collect::<BTreeSet<_>>().len()
}

/// A stream with one response, after this time.
async fn late_response(client: &mut Client, after: Duration) {
    let interval_us = i32::try_from(after.as_micros()).unwrap();
    let response_parameters = vec![ResponseParameters { size: 1, interval_us }];
    let request = StreamingOutputCallRequest { response_parameters, ..Default::default() };
    let mut messages = client.streaming_output_call(request).await.unwrap().into_inner();
    assert!(messages.message().await.unwrap().is_some());
    assert!(messages.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_stream_costs_no_connection() {
    let server = server().await;
    let mut client = connect(&server, |builder| builder).await;
    late_response(&mut client, Duration::from_secs(4)).await;
    client.empty_call(Empty {}).await.unwrap();
    assert!((1..=2).contains(&pings(&server)), "{:#?}", server.program.stderr.all());
    assert_eq!((complaints(&server), connections(&server)), (0, 1), "{:#?}", server.program.stderr.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_silent_and_idle_times_cost_no_connection() {
    let server = server().await;
    let mut client = connect(&server, |builder| builder).await;
    for _ in 0..4 {
        for _ in 0..20 {
            client.empty_call(Empty {}).await.unwrap();
        }
        late_response(&mut client, Duration::from_millis(700)).await;
        sleep(Duration::from_millis(300)).await;
        late_response(&mut client, Duration::from_millis(100)).await;
    }
    assert!(pings(&server) >= 4, "{:#?}", server.program.stderr.all());
    assert_eq!((complaints(&server), connections(&server)), (0, 1), "{:#?}", server.program.stderr.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_not_pinged() {
    let server = server().await;
    let mut client = connect(&server, |builder| builder).await;
    client.empty_call(Empty {}).await.unwrap();
    let before = pings(&server);
    sleep(Duration::from_secs(1)).await;
    client.empty_call(Empty {}).await.unwrap();
    assert_eq!((pings(&server) - before, connections(&server)), (0, 1), "{:#?}", server.program.stderr.all());
}

/// The server does not permit that: each complaint doubles the interval, and no call fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_complains_is_pinged_less() {
    let server = server().await;
    let mut client = connect(&server, |builder| builder.keepalive_while_idle(true)).await;
    for _ in 0..20 {
        client.empty_call(Empty {}).await.unwrap();
        sleep(Duration::from_millis(300)).await;
    }
    sleep(Duration::from_secs(2)).await;
    client.empty_call(Empty {}).await.unwrap();
    assert!(complaints(&server) >= 1, "{:#?}", server.program.stderr.all());
    // At 0.1 s for 8 s there would be twenty.
    assert!((2..=6).contains(&connections(&server)), "{:#?}", server.program.stderr.all());
}
