//! MAX_CONCURRENT_STREAMS that changes on a living connection (RFC 9113, section 5.1.2).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};
use tonic::{Response, Status};

use super::raw::{Conn, MAX_CONCURRENT_STREAMS, Peer, SETTINGS, settings};
use super::support::{Client, until};
use super::{SECOND, channel, soon, within};

/// What the test tells the peer's one connection.
#[derive(Debug)]
enum Tell {
    Allow(u32),
    /// Answer the oldest call that is open.
    Answer,
}

/// A peer with one connection whose stream limit is told to it, and that answers when it is told to.
struct Limited {
    peer: Peer,
    tell: mpsc::UnboundedSender<Tell>,
}

impl Limited {
    async fn start(limit: u32) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let told = Arc::new(Mutex::new(Some(told)));
        let peer = Peer::start(move |mut conn: Conn| {
            let told = told.lock().unwrap().take();
            async move {
                let mut told = told.expect("a second connection");
                conn.greet(&[(MAX_CONCURRENT_STREAMS, limit)]).await?;
                let mut answered = 0;
                loop {
                    tokio::select! {
                        frame = conn.frame() => { frame?; }
                        Some(tell) = told.recv() => match tell {
                            Tell::Allow(limit) => {
                                conn.send(SETTINGS, 0, 0, settings(&[(MAX_CONCURRENT_STREAMS, limit)])).await?;
                            }
                            Tell::Answer => {
                                let stream = 1 + 2 * answered;
                                answered += 1;
                                while conn.next_request() != Some(stream) {
                                    conn.frame().await?;
                                }
                                conn.answer(stream, &stream.to_string()).await?;
                            }
                        },
                    }
                }
            }
        })
        .await;
        Self { peer, tell }
    }

    fn tell(&self, tell: Tell) {
        self.tell.send(tell).unwrap();
    }

    /// Waits until `count` requests have arrived in all, and no more.
    async fn arrived(&self, count: usize) {
        until("the calls arrive", || self.peer.seen.headers() >= count).await;
        // Long enough for others to come as well.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(self.peer.seen.headers(), count);
    }

    async fn client(&self) -> (super::Registry, Client) {
        let (registry, builder) = channel(&[&self.peer.address]).await;
        (registry, Client::new(&builder.max_connections(1).connect().await.unwrap()))
    }
}

type Call = JoinHandle<Result<Response<String>, Status>>;

/// Begins calls one after the other, so that their order is known.
async fn queue(client: &Client, count: usize) -> Vec<Call> {
    let mut calls = Vec::new();
    for _ in 0..count {
        let client = client.clone();
        calls.push(tokio::spawn(async move { client.call("Name", within(8 * SECOND)).await }));
        yield_now().await;
        yield_now().await;
    }
    calls
}

/// The stream on which each call was sent, in the order of the calls.
async fn streams_of(calls: Vec<Call>) -> Vec<u32> {
    let mut streams = Vec::new();
    for call in calls {
        let answer = soon("the answer", call).await.unwrap().unwrap();
        streams.push(answer.into_inner().parse().unwrap());
    }
    streams
}

async fn raised(from: u32) {
    let peer = Limited::start(from).await;
    let (_registry, client) = peer.client().await;
    let calls = queue(&client, 50).await;
    peer.arrived(from as usize).await;
    peer.tell(Tell::Allow(100));
    // All go at once, though none was answered.
    peer.arrived(50).await;
    for _ in 0..50 {
        peer.tell(Tell::Answer);
    }
    let streams = streams_of(calls).await;
    assert!(streams.is_sorted(), "first come, first served: {streams:?}");
    assert_eq!(peer.peer.seen.accepted(), 1);
}

#[tokio::test]
async fn streams_raised_from_0_to_100_wake_all_calls_in_order() {
    raised(0).await;
}

#[tokio::test]
async fn streams_raised_from_1_to_100_wake_all_calls_in_order() {
    raised(1).await;
}

#[tokio::test]
async fn streams_raised_a_little_wake_the_first_calls() {
    let peer = Limited::start(0).await;
    let (_registry, client) = peer.client().await;
    let calls = queue(&client, 20).await;
    for limit in [1, 2, 5, 10] {
        peer.tell(Tell::Allow(limit));
        peer.arrived(limit as usize).await;
    }
    peer.tell(Tell::Allow(20));
    peer.arrived(20).await;
    for _ in 0..20 {
        peer.tell(Tell::Answer);
    }
    assert!(streams_of(calls).await.is_sorted());
}

/// As in grpc/grpc-go#262 and jetty/jetty.project#6670: those in flight stay, and count.
#[tokio::test]
async fn streams_lowered_below_the_calls_in_flight_fail_none() {
    let peer = Limited::start(100).await;
    let (_registry, client) = peer.client().await;
    let mut calls = queue(&client, 30).await;
    peer.arrived(30).await;
    peer.tell(Tell::Allow(1));
    peer.tell(Tell::Answer);
    // The client has read the limit before the answer.
    assert_eq!(streams_of(vec![calls.remove(0)]).await, [1]);
    calls.extend(queue(&client, 20).await);
    // Until all but one of the first thirty are done none of the others may go.
    for _ in 0..28 {
        peer.tell(Tell::Answer);
    }
    until("29 are answered", || peer.peer.seen.answered() == 29).await;
    peer.arrived(30).await;
    peer.tell(Tell::Answer);
    peer.arrived(31).await;
    peer.tell(Tell::Allow(100));
    peer.arrived(50).await;
    for _ in 0..20 {
        peer.tell(Tell::Answer);
    }
    assert!(streams_of(calls).await.is_sorted());
}

#[tokio::test]
async fn a_later_call_does_not_overtake_those_that_wait() {
    let peer = Limited::start(1).await;
    let (_registry, client) = peer.client().await;
    let mut calls = queue(&client, 10).await;
    for _ in 0..10 {
        // The next call comes at the very moment when a stream is free.
        let answered = peer.peer.seen.answered();
        peer.tell(Tell::Answer);
        until("one is answered", || peer.peer.seen.answered() > answered).await;
        calls.extend(queue(&client, 1).await);
    }
    for _ in 0..10 {
        peer.tell(Tell::Answer);
    }
    let streams = streams_of(calls).await;
    assert!(streams.is_sorted(), "{streams:?}");
}

#[tokio::test]
async fn a_call_that_stops_waiting_leaves_its_place_to_the_next() {
    let peer = Limited::start(0).await;
    let (_registry, client) = peer.client().await;
    let mut calls = queue(&client, 30).await;
    for index in [29, 20, 11, 10, 9, 1, 0] {
        calls.remove(index).abort();
    }
    let mut late = within(Duration::from_millis(20));
    late.metadata_mut().insert("late", "1".parse().unwrap());
    client.call("Name", late).await.unwrap_err();
    peer.tell(Tell::Allow(100));
    peer.arrived(23).await;
    for _ in 0..23 {
        peer.tell(Tell::Answer);
    }
    let streams = streams_of(calls).await;
    assert_eq!(streams, (0..23).map(|index| 1 + 2 * index).collect::<Vec<_>>());
}

/// A limit of 0 is no reason for another connection to the same server, and no lost one.
#[tokio::test]
async fn calls_at_a_limit_of_0_wait_until_their_deadline() {
    let peer = Limited::start(0).await;
    let (_registry, client) = peer.client().await;
    let status = client.call("Name", within(Duration::from_millis(100))).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
    assert_eq!((peer.peer.seen.accepted(), peer.peer.seen.headers()), (1, 0));
}

/// The scheme that a server sees.
async fn schemes(connector: impl hither_tonic::Connector) -> Vec<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (seen, mut schemes) = mpsc::unbounded_channel();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            seen.send(request.uri().scheme_str().unwrap_or_default().to_owned()).unwrap();
            let response = http::Response::builder().header("content-type", "application/grpc").body(());
            let mut body = respond.send_response(response.unwrap(), false).unwrap();
            body.send_data(super::raw::message("a").into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            body.send_trailers(trailers).unwrap();
        }
    });
    let (_registry, builder) = channel(&[&address]).await;
    let client = Client::new(&builder.connector(connector).connect().await.unwrap());
    for _ in 0..3 {
        soon("the call", client.name()).await.unwrap();
    }
    server.abort();
    let mut all = Vec::new();
    while let Ok(scheme) = schemes.try_recv() {
        all.push(scheme);
    }
    all
}

#[tokio::test]
async fn the_scheme_is_http_without_tls() {
    assert_eq!(schemes(hither_tonic::TcpConnector::default()).await, ["http"; 3]);
}

/// Plain TCP that claims to be encrypted.
#[derive(Debug, Default)]
struct Claimed(hither_tonic::TcpConnector);

#[async_trait::async_trait]
impl hither_tonic::Connector for Claimed {
    async fn connect(
        &self,
        destination: hither_tonic::Destination<'_>,
    ) -> std::io::Result<hither_tonic::Connected> {
        Ok(self.0.connect(destination).await?.with_scheme(http::uri::Scheme::HTTPS))
    }
}

/// As in dotnet/aspnetcore#30532 and grpc/grpc-node#2895: strict servers reset calls whose scheme is not the
/// connection's.
#[tokio::test]
async fn the_scheme_is_https_where_the_connector_says_so() {
    assert_eq!(schemes(Claimed::default()).await, ["https"; 3]);
}
