//! Health checks of grpc-go's servers, by its own health service.

use std::time::Duration;

use hither::tonic::{CalledInstance, ConnectivityState, DiscoveryChannel, RoundRobin};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use tonic::Request;

use super::peer::Peer;
use super::testing::Empty;
use super::{Client, LONG, builder};

/// Waits until the channel has so many instances in this state.
async fn until(channel: &DiscoveryChannel, state: ConnectivityState, count: usize) {
    let reached = async {
        while channel.status().count(state) != count {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, reached).await.unwrap_or_else(|_| panic!("{:#}", channel.status()));
}

/// Makes twenty calls; returns how many of them this server has answered.
async fn calls_to(server: &Peer, client: &mut Client) -> usize {
    let mut count = 0;
    for _ in 0..20 {
        let called = CalledInstance::default();
        let mut request = Request::new(Empty {});
        request.extensions_mut().insert(called.clone());
        client.empty_call(request).await.unwrap();
        count += usize::from(called.get().unwrap().instance().address().to_string() == server.address);
    }
    count
}

/// Calls until of twenty calls this server answers so many: what a status shows counts for calls a moment later.
async fn until_called(server: &Peer, client: &mut Client, expected: usize) {
    let reached = async { while calls_to(server, client).await != expected {} };
    timeout(LONG, reached).await.unwrap_or_else(|_| panic!("never {expected} of twenty calls"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_called_while_it_reports_serving() {
    let (first, second) = (Peer::go_server(&[]).await, Peer::go_server(&[]).await);
    let builder = builder(&[&first.address, &second.address]).policy(RoundRobin::default()).health_check("");
    let channel = builder.connect().await.unwrap();
    let mut client = Client::new(channel.clone());
    for _ in 0..3 {
        until(&channel, ConnectivityState::Ready, 2).await;
        until_called(&first, &mut client, 10).await;
        first.signal(Signal::USR1);
        until(&channel, ConnectivityState::TransientFailure, 1).await;
        until_called(&first, &mut client, 0).await;
        assert_eq!(calls_to(&first, &mut client).await, 0);
        let status = channel.status().to_string();
        assert!(status.contains("1 of 2 instances ready"), "{status}");
        first.signal(Signal::USR2);
    }
    // GracefulStop waits for all streams, of which this is one (grpc/grpc-go#8776, #8882).
    let mut first = first;
    first.signal(Signal::TERM);
    timeout(LONG, first.program.child.wait()).await.expect("nothing holds it up").unwrap();
    until_called(&second, &mut client, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_the_server_does_not_know_is_not_called() {
    let server = Peer::go_server(&[]).await;
    let channel = builder(&[&server.address]).health_check("nothing").connect_lazy().unwrap();
    until(&channel, ConnectivityState::TransientFailure, 1).await;
    let status = Client::new(channel).empty_call(Empty {}).await.unwrap_err();
    assert!(status.message().ends_with(&format!("{} reports SERVICE_UNKNOWN", server.address)), "{status}");
}

/// grpc-go's own client waits for ever there: its watch has the only stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_one_stream_is_called() {
    let server = Peer::go_server(&["-streams", "1"]).await;
    let channel = builder(&[&server.address]).max_connections(1).health_check("").connect().await.unwrap();
    assert_eq!(calls_to(&server, &mut Client::new(channel)).await, 20);
}

/// A server that is stopped was reported as healthy (grpc/grpc-go#5214). Here it is found without a call, by keep-alive: the
/// watch is a stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_freezes_is_found_without_a_call() {
    let server = Peer::go_server(&[]).await;
    let channel = builder(&[&server.address])
        .keepalive_interval(Some(Duration::from_secs(1)))
        .keepalive_timeout(Duration::from_secs(1))
        .connect_timeout(Duration::from_secs(1))
        .health_check("")
        .connect()
        .await
        .unwrap();
    server.signal(Signal::STOP);
    until(&channel, ConnectivityState::TransientFailure, 1).await;
    server.signal(Signal::CONT);
    until(&channel, ConnectivityState::Ready, 1).await;
}
