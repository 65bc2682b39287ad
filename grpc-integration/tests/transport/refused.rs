//! Calls that a server has refused before it processed them: they are made again.

use std::io;

use hither_tonic::{MethodConfig, RetryPolicy};
use tonic::Code;
use tonic_prost::ProstCodec;

use super::attempts::Attempts;
use super::keepalive::channel_within;
use super::raw::{Conn, DATA, MAX_CONCURRENT_STREAMS, NO_ERROR, Peer, REFUSED_STREAM, SETTINGS, settings};
use super::support::{Client, Net, path, ready};
use super::{SECOND, channel, client, soon, storm, within};

async fn refuses(times: usize, callers: usize) {
    let peer = Peer::start(move |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        // Not the headers that were read: more than one may be read at a time.
        for request in 1.. {
            let stream = conn.request().await?;
            if request <= times {
                conn.reset(stream, REFUSED_STREAM).await?;
            } else {
                conn.answer(stream, "a").await?;
            }
        }
        Ok(())
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let failed = storm(&client, callers, callers).await;
    assert!(failed.is_empty(), "{} failed, as with {:?}", failed.len(), failed[0]);
    assert_eq!(peer.seen.headers(), times + callers);
}

/// gRFC A6 allows one transparent retry of a refused stream where there is no other instance; proxies that restart
/// refuse more often (grpc/grpc-node#1969, grpc/grpc-java#10533).
#[tokio::test]
async fn a_call_that_is_refused_a_few_times_goes_through() {
    refuses(1, 1).await;
    refuses(5, 1).await;
}

#[tokio::test]
async fn many_calls_that_are_refused_a_few_times_go_through() {
    refuses(40, 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_always_refused_ends_at_its_deadline_and_does_not_flood_the_server() {
    let net = Net::new();
    let peer = Peer::within(&net, "a:1", refuse);
    let (_registry, builder) = channel_within(&net, &["a:1"]).await;
    let client = Client::new(&builder.connect().await.unwrap());
    let status = client.call("Name", within(SECOND / 2)).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable), "{status:?}");
    assert!(status.message().contains("refused"), "{status:?}");
    assert!(peer.seen.headers() < 200, "{} attempts in half a second", peer.seen.headers());
}

/// Refuses all requests.
async fn refuse(mut conn: Conn) -> io::Result<()> {
    conn.greet(&[]).await?;
    loop {
        let stream = conn.request().await?;
        conn.reset(stream, REFUSED_STREAM).await?;
    }
}

/// It is sent to each of them, though the policy picks the same one each time.
#[tokio::test]
async fn a_call_without_a_deadline_that_is_always_refused_fails_at_the_tenth_time() {
    let peers = [Peer::start(refuse).await, Peer::start(refuse).await];
    let (_registry, builder) = channel(&[&peers[0].address, &peers[1].address]).await;
    let channel = builder.policy(Attempts::default()).connect().await.unwrap();
    ready(&channel, 2).await;
    let client = Client::new(&channel);
    let status = soon("the call", client.name()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("REFUSED_STREAM"), "{status:?}");
    let mut headers = peers.each_ref().map(|peer| peer.seen.headers());
    headers.sort_unstable();
    assert_eq!(headers, [1, 9]);
}

/// gRFC A6: once it is sent again transparently, and then by the policy.
#[tokio::test]
async fn with_a_policy_each_refusal_but_the_first_is_an_attempt() {
    for (codes, headers) in [(Code::Unavailable, 1 + 3), (Code::Aborted, 10)] {
        let peer = Peer::start(refuse).await;
        let (_registry, builder) = channel(&[&peer.address]).await;
        let retries = RetryPolicy::default().with_max_attempts(3).with_codes([codes]);
        let builder = builder.method("", MethodConfig::default().with_retry(retries));
        let client = Client::new(&builder.connect().await.unwrap());
        let status = soon("the call", client.name()).await.unwrap_err();
        assert_eq!((status.code(), peer.seen.headers()), (Code::Unavailable, headers));
    }
}

/// That it was refused is known, whatever it waits for in the end: an answer, or a stream.
#[tokio::test(start_paused = true)]
async fn the_status_of_a_deadline_has_the_last_refusal() {
    for (limit, expected) in [(100, "no answer from"), (0, "no connection has room")] {
        let net = Net::new();
        let _peer = Peer::within(&net, "a:1", move |mut conn: Conn| async move {
            conn.greet(&[]).await?;
            let stream = conn.request().await?;
            conn.send(SETTINGS, 0, 0, settings(&[(MAX_CONCURRENT_STREAMS, limit)])).await?;
            conn.reset(stream, REFUSED_STREAM).await?;
            conn.drain().await
        });
        let (_registry, builder) = channel_within(&net, &["a:1"]).await;
        let client = Client::new(&builder.max_connections(1).connect().await.unwrap());
        let status = client.call("Name", within(SECOND / 5)).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        let known = [expected, "refused before: the server reset the stream with REFUSED_STREAM at a:1"];
        assert!(known.iter().all(|text| status.message().contains(text)), "{status:?}");
    }
}

/// One instance refuses (it is full or shuts down): the calls go to the other.
#[tokio::test]
async fn a_refused_call_goes_to_another_instance() {
    let full = Peer::start(refuse).await;
    let fine = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.serve("fine").await
    })
    .await;
    let (_registry, client) = client(&[&full.address, &fine.address]).await;
    for _ in 0..20 {
        assert_eq!(soon("the call", client.name()).await.unwrap(), "fine");
    }
}

/// A request stream cannot be replayed beyond what is buffered: its call fails with the reason.
#[tokio::test]
async fn a_refused_upload_that_is_not_buffered_any_more_fails_with_the_reason() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.headers().await?;
        while conn.seen.data() < 200_000 {
            let frame = conn.frame().await?;
            let read = u32::try_from(frame.payload.len()).unwrap();
            if frame.is(DATA) && read > 0 {
                conn.window(0, read).await?;
                conn.window(stream, read).await?;
            }
        }
        conn.goaway(0, NO_ERROR, "restart").await?;
        conn.drain().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let mut grpc = client.grpc.clone();
    let messages = futures_util::stream::iter(vec!["x".repeat(50_000); 20]);
    grpc.ready().await.unwrap();
    let call = grpc.client_streaming::<_, String, String, _>(
        tonic::Request::new(messages),
        path("Length"),
        ProstCodec::default(),
    );
    let status = soon("the call", call).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("restart"), "{status:?}");
    assert_eq!(peer.seen.headers(), 1);
}

/// A whole message is there to be sent again.
#[tokio::test]
async fn a_refused_unary_call_is_made_again() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[(super::raw::INITIAL_WINDOW_SIZE, 1 << 20)]).await?;
        conn.window(0, 1 << 20).await?;
        let stream = conn.request().await?;
        if conn.number == 0 {
            return conn.leave(0).await;
        }
        conn.answer(stream, "whole").await?;
        conn.drain().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let mut request = within(5 * SECOND);
    *request.get_mut() = "x".repeat(60_000);
    assert_eq!(client.call("Length", request).await.unwrap().into_inner(), "whole");
    assert_eq!(peer.seen.headers(), 2);
}
