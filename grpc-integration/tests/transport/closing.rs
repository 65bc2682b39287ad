//! Connections that end without GOAWAY, and streams that are reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::raw::{Conn, ENHANCE_YOUR_CALM, HEADERS, MAX_CONCURRENT_STREAMS, NO_ERROR, Peer};
use super::support::{Client, until};
use super::{SECOND, channel, client, soon, storm, within};

/// A load balancer that closes connections after a short time without traffic, as AWS' and Azure's do after minutes.
async fn closes_when_idle(abruptly: bool) {
    let (tell, mut closed) = mpsc::unbounded_channel();
    let script = move |mut conn: Conn| {
        let tell = tell.clone();
        async move {
            conn.greet(&[]).await?;
            let stream = conn.request().await?;
            conn.answer(stream, "a").await?;
            // Until the client has nothing to send any more.
            let _ = tokio::time::timeout(Duration::from_millis(5), conn.request()).await;
            if abruptly {
                drop(conn);
                let _ = tell.send(());
                return Ok(());
            }
            let conn = conn.half_close().await?;
            let _ = tell.send(());
            conn.drain().await
        }
    };
    let peer = if abruptly { Peer::abrupt(script).await } else { Peer::start(script).await };
    let (_registry, client) = client(&[&peer.address]).await;
    for call in 0..50 {
        soon("the call", client.name()).await.unwrap_or_else(|status| panic!("call {call}: {status:?}"));
        closed.recv().await.unwrap();
        until("the channel has noticed it", || peer.seen.accepted() == call + 2).await;
    }
    assert_eq!(peer.seen.headers(), 50);
}

#[tokio::test]
async fn fin_between_calls_fails_no_call() {
    closes_when_idle(false).await;
}

#[tokio::test]
async fn rst_between_calls_fails_no_call() {
    closes_when_idle(true).await;
}

/// Five milliseconds after each answer, with callers that call when they like: only calls that were written after the
/// server's FIN may fail, for they look the same as calls that were processed.
#[tokio::test]
async fn fin_fails_no_call_but_those_that_crossed_it() {
    let late = Arc::<AtomicUsize>::default();
    let script_late = Arc::clone(&late);
    let peer = Peer::start(move |mut conn: Conn| {
        let late = Arc::clone(&script_late);
        async move {
            conn.greet(&[]).await?;
            let stream = conn.request().await?;
            conn.answer(stream, "a").await?;
            let closes = Instant::now() + Duration::from_millis(5);
            while let Ok(stream) = tokio::time::timeout_at(closes, conn.request()).await {
                conn.answer(stream?, "a").await?;
            }
            let mut conn = conn.half_close().await?;
            while let Ok(frame) = conn.raw_frame().await {
                late.fetch_add(usize::from(frame.is(HEADERS)), Ordering::SeqCst);
            }
            Ok(())
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let tasks = (0..4).map(|seed| {
        let client = client.clone();
        tokio::spawn(async move {
            let (mut random, mut failed) = (fastrand::Rng::with_seed(seed), Vec::new());
            for _ in 0..50 {
                sleep(Duration::from_millis(random.u64(..12))).await;
                failed.extend(client.call("Name", within(5 * SECOND)).await.err());
            }
            failed
        })
    });
    let mut failed = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        failed.extend(task.await.unwrap());
    }
    let late = late.load(Ordering::SeqCst);
    assert!(failed.len() <= late, "{} failed and {late} crossed FIN, as with {:?}", failed.len(), failed[0]);
    assert!(peer.seen.accepted() > 20);
}

/// A call that waits for a stream was not sent, so the end of the connection is nothing to it.
#[tokio::test]
async fn calls_that_wait_for_a_stream_survive_the_end_of_the_connection() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[(MAX_CONCURRENT_STREAMS, 1)]).await?;
        if conn.number < 3 {
            conn.request().await?;
            sleep(Duration::from_millis(20)).await;
            return conn.close().await;
        }
        conn.serve("a").await
    })
    .await;
    let (_registry, builder) = channel(&[&peer.address]).await;
    let client = Client::new(&builder.max_connections(1).connect().await.unwrap());
    let failed = storm(&client, 20, 20).await;
    assert_eq!(failed.len(), 3, "one for each connection that ended: {failed:?}");
    assert!(failed.iter().all(|status| status.code() == Code::Unavailable), "{failed:?}");
    assert_eq!((peer.seen.headers(), peer.seen.answered()), (20, 17));
}

/// A server that resets the first calls with ENHANCE_YOUR_CALM: those calls are told so, the connection stays.
#[tokio::test]
async fn a_stream_that_is_reset_harms_no_other() {
    for (code, expected) in [
        (NO_ERROR, Code::Internal),
        (1, Code::Internal),
        (2, Code::Internal),
        (3, Code::Internal),
        (8, Code::Cancelled),
        (ENHANCE_YOUR_CALM, Code::ResourceExhausted),
        (12, Code::PermissionDenied),
        (13, Code::Unknown),
        (77, Code::Unknown),
    ] {
        let peer = Peer::start(move |mut conn: Conn| async move {
            conn.greet(&[]).await?;
            let streams = conn.requests(3).await?;
            conn.reset(streams[1], code).await?;
            for stream in [streams[0], streams[2]] {
                conn.answer(stream, "a").await?;
            }
            conn.serve("a").await
        })
        .await;
        let (_registry, client) = client(&[&peer.address]).await;
        let failed = storm(&client, 3, 3).await;
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0].code(), expected, "for {code}: {failed:?}");
        assert!(failed[0].message().contains(&peer.address), "{failed:?}");
        soon("the call", client.name()).await.unwrap();
        assert_eq!(peer.seen.accepted(), 1);
    }
}

/// As in hyperium/hyper#2872: a server that has answered may stop reading the request (RFC 9113, section 8.1).
#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_not_lost() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            let stream = conn.headers().await?;
            conn.answer(stream, "early").await?;
            conn.reset(stream, NO_ERROR).await?;
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for length in [10, 100_000, 1_000_000] {
        let mut request = within(5 * SECOND);
        *request.get_mut() = "x".repeat(length);
        let answer = client.call("Length", request).await.unwrap();
        assert_eq!(answer.into_inner(), "early", "{length}");
    }
    assert_eq!(peer.seen.accepted(), 1);
}

/// The same for an error, which comes as trailers only.
#[tokio::test]
async fn an_error_before_the_end_of_the_request_is_not_lost() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            let stream = conn.headers().await?;
            let fields = [
                (":status", "200"),
                ("content-type", "application/grpc"),
                ("grpc-status", "8"),
                ("grpc-message", "too large"),
            ];
            conn.respond(stream, true, &fields).await?;
            conn.reset(stream, NO_ERROR).await?;
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for length in [10, 100_000, 1_000_000] {
        let mut request = within(5 * SECOND);
        *request.get_mut() = "x".repeat(length);
        let status = client.call("Length", request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too large"), "{length}");
    }
}
