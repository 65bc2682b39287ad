//! Flow control of requests: a server that does not read stops the call it does not read, and no other.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;
use tonic_prost::ProstCodec;

use super::keepalive::channel_within;
use super::raw::{Conn, HEADERS, INITIAL_WINDOW_SIZE, Peer, RST_STREAM, SETTINGS, settings};
use super::support::{Client, Net, Registry, SERVICE, Server, path, ready, until};
use super::{SECOND, client, soon, within};

/// Serves all calls but those whose body is longer than a stream's window: their windows are never raised.
async fn reading_little(mut conn: Conn) -> std::io::Result<()> {
    conn.greet(&[]).await?;
    loop {
        let frame = conn.frame().await?;
        if frame.is(super::raw::DATA) && !frame.payload.is_empty() {
            conn.window(0, u32::try_from(frame.payload.len()).unwrap()).await?;
        }
        while let Some(stream) = conn.next_request() {
            conn.answer(stream, "neighbour").await?;
        }
    }
}

fn large() -> tonic::Request<String> {
    let mut request = within(SECOND / 2);
    *request.get_mut() = "x".repeat(300_000);
    request
}

#[tokio::test(start_paused = true)]
async fn an_upload_without_window_ends_at_its_deadline() {
    let net = Net::new();
    let peer = Peer::within(&net, "a:1", reading_little);
    let (_registry, builder) = channel_within(&net, &["a:1"]).await;
    let client = Client::new(&builder.connect().await.unwrap());
    let status = client.call("Length", large()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    until("the server is told", || peer.seen.resets() == 1).await;
    soon("the call", client.name()).await.unwrap();
    assert_eq!(peer.seen.accepted(), 1);
}

#[tokio::test]
async fn an_upload_without_window_can_be_cancelled_and_stops_no_neighbour() {
    let peer = Peer::start(reading_little).await;
    let (_registry, client) = client(&[&peer.address]).await;
    let uploads: Vec<_> = (0..10)
        .map(|_| {
            let client = client.clone();
            let mut request = large();
            request.set_timeout(60 * SECOND);
            tokio::spawn(async move { client.call("Length", request).await })
        })
        .collect();
    until("their windows are used up", || peer.seen.data() >= 10 * 65_535).await;
    for _ in 0..20 {
        assert_eq!(soon("the neighbour", client.name()).await.unwrap(), "neighbour");
    }
    for upload in uploads {
        upload.abort();
    }
    until("the server is told", || peer.seen.resets() == 10).await;
    assert_eq!(soon("the neighbour", client.name()).await.unwrap(), "neighbour");
    assert_eq!(peer.seen.accepted(), 1);
}

/// Where the whole connection has no window, its calls end at their deadlines, and those elsewhere go on.
#[tokio::test(start_paused = true)]
async fn a_connection_without_window_ends_calls_at_their_deadlines_only() {
    let net = Net::new();
    let _stuck = Peer::within(&net, "a:1", |mut conn: Conn| async move {
        conn.greet(&[(INITIAL_WINDOW_SIZE, 0)]).await?;
        conn.drain().await
    });
    let _fine = Peer::within(&net, "b:1", |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.serve("fine").await
    });
    let (_registry, builder) = channel_within(&net, &["a:1", "b:1"]).await;
    let channel = builder.connect().await.unwrap();
    ready(&channel, 2).await;
    let client = Client::new(&channel);
    let calls = join_all((0..20).map(|_| client.call("Name", within(SECOND / 2)))).await;
    let (fine_ones, late): (Vec<_>, Vec<_>) = calls.into_iter().partition(Result::is_ok);
    assert_eq!((fine_ones.len(), late.len()), (10, 10));
    assert!(late.into_iter().all(|late| late.unwrap_err().code() == Code::DeadlineExceeded));
}

/// As in hyperium/hyper#4003: a stream that waits for its caller must not keep a byte of the connection's window.
#[tokio::test]
async fn an_idle_upload_keeps_nothing_of_the_window() {
    const WINDOW: usize = 65_535;
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.send(SETTINGS, 0, 0, settings(&[(INITIAL_WINDOW_SIZE, 1 << 20)])).await?;
        // The connection's window is raised when it is used up to the last byte.
        let mut raised = 0;
        loop {
            conn.frame().await?;
            if conn.seen.data() - raised == WINDOW {
                raised += WINDOW;
                conn.window(0, 65_535).await?;
            }
            while let Some(stream) = conn.next_request() {
                conn.answer(stream, "neighbour").await?;
            }
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let (send, messages) = mpsc::unbounded_channel();
    // With its prefix, and the tag and the length of the string, one byte less than the window.
    send.send("x".repeat(WINDOW - 1 - 9)).unwrap();
    let mut grpc = client.grpc.clone();
    let upload = tokio::spawn(async move {
        let messages = tonic::Request::new(UnboundedReceiverStream::new(messages));
        grpc.ready().await.unwrap();
        grpc.client_streaming::<_, String, String, _>(messages, path("Length"), ProstCodec::default()).await
    });
    until("all but one byte is used", || peer.seen.data() == WINDOW - 1).await;
    assert_eq!(soon("the neighbour", client.name()).await.unwrap(), "neighbour");
    drop(send);
    soon("the upload", upload).await.unwrap().unwrap();
}

/// As in hyperium/h2#853: many uploads at once, more than the server takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_uploads_at_once_all_arrive() {
    for streams in [5, 100] {
        let (mut registry, net) = (Registry::new(), Net::new());
        let server = match streams {
            5 => Server::described(&net, "a:1", |server| server.max_concurrent_streams(5)),
            _ => Server::described(&net, "a:1", |server| server.max_concurrent_streams(100)),
        };
        registry.up("a:1").await;
        let builder = hither_tonic::DiscoveryChannel::builder(registry.discovery(), SERVICE).connector(net);
        let client = Client::new(&builder.max_connections(1).connect().await.unwrap());
        let calls = (0..300).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call("Length", "x".repeat(10_000)).await })
        });
        let calls = soon("the uploads", join_all(calls.collect::<Vec<_>>())).await;
        assert!(calls.into_iter().all(|call| call.unwrap().unwrap().into_inner() == "10000"));
        assert_eq!((server.calls(), server.accepted()), (300, 1));
    }
}

/// A window that is made smaller while a request is on its way may become negative (RFC 9113, section 6.9.2).
#[tokio::test]
async fn a_window_that_shrinks_delays_an_upload_and_does_not_break_it() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.headers().await?;
        while conn.seen.data() < 65_535 {
            conn.frame().await?;
        }
        // The stream's window is now -65,535.
        conn.send(SETTINGS, 0, 0, settings(&[(INITIAL_WINDOW_SIZE, 0)])).await?;
        conn.window(0, 1 << 20).await?;
        conn.window(stream, 65_535).await?;
        let _ = tokio::time::timeout(Duration::from_millis(50), conn.frame()).await;
        assert_eq!(conn.seen.data(), 65_535, "it is 0 now");
        conn.window(stream, 1 << 20).await?;
        let stream = conn.request().await?;
        conn.answer(stream, "whole").await?;
        conn.drain().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let mut request = large();
    request.set_timeout(5 * SECOND);
    assert_eq!(client.call("Length", request).await.unwrap().into_inner(), "whole");
}

/// A window beyond 2^31-1 is an error of the stream that it is about (RFC 9113, section 6.9.1).
#[tokio::test]
async fn a_window_that_overflows_harms_its_own_stream() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.headers().await?;
        while conn.seen.data() < 1000 {
            conn.frame().await?;
        }
        for _ in 0..2 {
            conn.window(stream, 0x7fff_ffff).await?;
        }
        loop {
            let frame = conn.frame().await?;
            if frame.is(RST_STREAM) {
                assert_eq!(frame.stream, stream);
                break;
            }
            assert!(!frame.is(HEADERS));
        }
        conn.window(0, 65_535).await?;
        conn.serve("neighbour").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let mut request = large();
    request.set_timeout(5 * SECOND);
    let status = client.call("Length", request).await.unwrap_err();
    assert_ne!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().to_lowercase().contains("flow"), "{status:?}");
    soon("the call", client.name()).await.unwrap();
    assert_eq!(peer.seen.accepted(), 1);
}

/// Sends messages that are all there at once: it is the server that is waited for, and not the caller's stream.
async fn streamed(client: &Client, timeout: Duration) -> Result<String, tonic::Status> {
    let messages = tokio_stream::iter((0..300).map(|_| "x".repeat(1000)));
    let mut request = tonic::Request::new(messages);
    request.set_timeout(timeout);
    let mut grpc = client.grpc.clone();
    grpc.ready().await?;
    let codec = ProstCodec::<String, String>::default();
    grpc.client_streaming(request, path("Length"), codec).await.map(tonic::Response::into_inner)
}

#[tokio::test(start_paused = true)]
async fn a_streamed_upload_without_window_ends_with_its_call() {
    let net = Net::new();
    let peer = Peer::within(&net, "a:1", reading_little);
    let (_registry, builder) = channel_within(&net, &["a:1"]).await;
    let client = Client::new(&builder.connect().await.unwrap());
    soon("a call", client.name()).await.unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let status = streamed(&client, SECOND / 2).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    until("the stream is reset", || peer.seen.resets() == 1).await;
    let upload = tokio::spawn({
        let client = client.clone();
        async move { streamed(&client, 60 * SECOND).await }
    });
    until("the window is used up", || peer.seen.data() >= 2 * 65_535).await;
    upload.abort();
    until("the stream is reset", || peer.seen.resets() == 2).await;
    until("the tasks have ended", || tasks() == before).await;
    assert_eq!(soon("the neighbour", client.name()).await.unwrap(), "neighbour");
    assert_eq!(peer.seen.accepted(), 1);
}
