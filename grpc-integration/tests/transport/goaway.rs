//! Connections that a server ends with GOAWAY: no call may fail for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tonic::Code;

use super::keepalive::channel_within;
use super::raw::{
    ACK, Conn, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, MAX_STREAM, NO_ERROR, PING, Peer,
};
use super::support::{Client, Net, until};
use super::{SECOND, client, soon, storm, within};

/// As nginx does at `keepalive_requests`, 1000 by default: golang/go#18112, grpc/grpc-java#10533, curl/curl#11859.
async fn ends_after(requests: usize, calls: usize) {
    let peer = Peer::start(move |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        for _ in 1..requests {
            let stream = conn.request().await?;
            conn.answer(stream, "a").await?;
        }
        // Streams above this one are ignored.
        let last = conn.request().await?;
        conn.goaway(last, NO_ERROR, "").await?;
        conn.answer(last, "a").await?;
        conn.close().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let failed = storm(&client, 16, calls).await;
    assert!(failed.is_empty(), "{} of {calls} failed, as with {:?}", failed.len(), failed[0]);
    assert_eq!(peer.seen.answered(), calls / 16 * 16, "and no call was made twice");
}

#[tokio::test]
async fn goaway_after_each_call_fails_no_call() {
    ends_after(1, 160).await;
}

#[tokio::test]
async fn goaway_after_ten_calls_fails_no_call() {
    ends_after(10, 800).await;
}

#[tokio::test]
async fn goaway_after_a_hundred_calls_fails_no_call() {
    ends_after(100, 2000).await;
}

#[tokio::test]
async fn goaway_after_a_thousand_calls_fails_no_call() {
    ends_after(1000, 5000).await;
}

/// As grpc-go's servers do at `MaxConnectionAge`: grpc/grpc-go#2767, grpc/grpc-java#9566. The first GOAWAY names no
/// stream; the one that does follows after a round trip.
#[tokio::test]
async fn a_graceful_goaway_under_load_fails_no_call() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        for _ in 0..40 {
            let stream = conn.request().await?;
            conn.answer(stream, "a").await?;
        }
        conn.goaway(MAX_STREAM, NO_ERROR, "max_age").await?;
        conn.send(PING, 0, 0, *b"graceful").await?;
        // All that comes before the acknowledgement is served.
        let mut last = None;
        while last.is_none() || !conn.open.is_empty() {
            while let Some(stream) = conn.next_request() {
                conn.answer(stream, "a").await?;
            }
            let frame = conn.frame().await?;
            if frame.is(PING) && frame.has(ACK) {
                last = Some(conn.highest);
                conn.goaway(conn.highest, NO_ERROR, "max_age").await?;
            }
            assert!(last.is_none_or(|last| frame.stream <= last), "a request after GOAWAY");
        }
        conn.close().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let failed = storm(&client, 16, 1600).await;
    assert!(failed.is_empty(), "{} failed, as with {:?}", failed.len(), failed[0]);
    assert_eq!(peer.seen.answered(), 1600);
    assert!(peer.seen.accepted() > 10);
}

/// As in hyperium/hyper#2500.
#[tokio::test]
async fn goaway_with_last_stream_0_moves_all_calls_in_flight() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        if conn.number < 3 {
            conn.requests(20).await?;
            return conn.leave(0).await;
        }
        conn.serve("a").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let failed = storm(&client, 20, 20).await;
    assert!(failed.is_empty(), "{} failed, as with {:?}", failed.len(), failed[0]);
    assert_eq!((peer.seen.accepted(), peer.seen.headers(), peer.seen.answered()), (4, 80, 20));
}

/// As in socketry/async-http#245: those at or below the last stream are being processed, and must not be sent again;
/// those above are not, and must be.
#[tokio::test]
async fn goaway_divides_the_calls_in_flight() {
    let moved = watch::Sender::new(false);
    let script_moved = moved.clone();
    let peer = Peer::start(move |mut conn: Conn| {
        let mut moved = script_moved.subscribe();
        async move {
            conn.greet(&[]).await?;
            if conn.number > 0 {
                return conn.serve("new").await;
            }
            let streams = conn.requests(10).await?;
            conn.goaway(streams[3], NO_ERROR, "").await?;
            moved.wait_for(|moved| *moved).await.unwrap();
            for stream in &streams[..4] {
                conn.answer(*stream, "old").await?;
            }
            conn.close().await
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call("Name", within(10 * SECOND)).await })
        })
        .collect();
    until("the six that were not processed are answered", || peer.seen.answered() == 6).await;
    soon("the call", client.name()).await.unwrap();
    moved.send_replace(true);
    let mut answers = BTreeMap::<_, usize>::new();
    for call in calls {
        *answers.entry(call.await.unwrap().unwrap().into_inner()).or_default() += 1;
    }
    assert_eq!(answers, BTreeMap::from([("new".to_owned(), 6), ("old".to_owned(), 4)]));
}

/// As in anthropics/connect-rust#285.
#[tokio::test]
async fn after_goaway_the_next_call_does_not_wait_for_those_in_flight() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        if conn.number > 0 {
            return conn.serve("new").await;
        }
        let stream = conn.request().await?;
        conn.accept(stream).await?;
        conn.goaway(stream, NO_ERROR, "").await?;
        conn.drain().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let stream = soon("the stream's headers", client.stream("Stream", String::new())).await.unwrap();
    for _ in 0..10 {
        assert_eq!(soon("the next call", client.name()).await.unwrap(), "new");
    }
    assert_eq!((peer.seen.accepted(), peer.seen.open()), (2, 2));
    drop(stream);
}

#[tokio::test]
async fn an_idle_connection_is_replaced_on_goaway_without_any_call() {
    let leave = Arc::<Notify>::default();
    let script_leave = Arc::clone(&leave);
    let peer = Peer::start(move |mut conn: Conn| {
        let leave = Arc::clone(&script_leave);
        async move {
            conn.greet(&[]).await?;
            if conn.number < 5 {
                conn.answer_one().await?;
                tokio::select! {
                    () = leave.notified() => {}
                    closed = conn.frame() => { closed?; }
                }
                return conn.leave(MAX_STREAM).await;
            }
            conn.serve("a").await
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for times in 1..6 {
        soon("the call", client.name()).await.unwrap();
        leave.notify_one();
        until("there is a new connection", || peer.seen.accepted() == times + 1).await;
    }
    soon("the call", client.name()).await.unwrap();
}

/// As h2's servers do after too many resets (`too_many_internal_resets`), and take new connections at once.
#[tokio::test]
async fn a_connection_that_ends_in_defence_is_replaced() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        if conn.number < 3 {
            let stream = conn.request().await?;
            conn.answer(stream, "a").await?;
            conn.goaway(stream, ENHANCE_YOUR_CALM, "too_many_internal_resets").await?;
            return conn.close().await;
        }
        conn.serve("a").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let failed = storm(&client, 10, 100).await;
    assert!(failed.is_empty(), "{} failed, as with {:?}", failed.len(), failed[0]);
}

/// What a call in flight is told when the server ends the connection in anger: the call was possibly processed.
#[tokio::test]
async fn a_call_that_was_possibly_processed_is_not_made_again() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        match conn.number {
            0 => conn.goaway(stream, ENHANCE_YOUR_CALM, "enough").await?,
            1 => conn.goaway(stream, NO_ERROR, "bye").await?,
            _ => {}
        }
        conn.close().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for calls in 1..4 {
        let status = soon("the call", client.name()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(peer.seen.headers(), calls, "{status:?}");
    }
}

/// As in grpc/grpc-java#9566: a response that is on its way when GOAWAY arrives is complete.
#[tokio::test]
async fn a_large_response_survives_goaway() {
    const LENGTH: usize = 3_000_000;
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        conn.goaway(MAX_STREAM, NO_ERROR, "").await?;
        conn.goaway(stream, NO_ERROR, "").await?;
        conn.accept(stream).await?;
        conn.send_message(stream, &super::raw::message(&"x".repeat(LENGTH))).await?;
        conn.respond(stream, true, &[("grpc-status", "0")]).await?;
        conn.close().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for _ in 0..3 {
        let text = soon("the response", client.name()).await.unwrap();
        assert_eq!(text.len(), LENGTH);
    }
}

/// The answer, GOAWAY and FIN may arrive in one packet.
#[tokio::test]
async fn an_answer_right_before_goaway_and_fin_is_not_lost() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        conn.answer_and_leave(stream, "a").await?;
        conn.close().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for _ in 0..50 {
        assert_eq!(soon("the call", client.name()).await.unwrap(), "a");
    }
    assert_eq!(peer.seen.headers(), 50);
}

/// A server that ends each connection as soon as it is there is not hammered.
#[tokio::test(start_paused = true)]
async fn goaway_at_once_is_paced() {
    let net = Net::new();
    let peer = Peer::within(&net, "a:1", |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.leave(0).await
    });
    let (_registry, builder) = channel_within(&net, &["a:1"]).await;
    let client = Client::new(&builder.connect_lazy().unwrap());
    for _ in 0..600 {
        client.name().await.unwrap_err();
        sleep(SECOND / 10).await;
    }
    let connections = peer.seen.accepted();
    assert!((4..=16).contains(&connections), "{connections} connections in a minute");
}

/// Calls that begin at the moment of GOAWAY are in order: none is lost between the two connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_between_threads_at_goaway() {
    let log = Arc::<Mutex<Vec<usize>>>::default();
    let script_log = Arc::clone(&log);
    let peer = Peer::start(move |mut conn: Conn| {
        let log = Arc::clone(&script_log);
        async move {
            conn.greet(&[]).await?;
            let mut last = 0;
            for _ in 0..37 {
                last = conn.request().await?;
                conn.answer(last, "a").await?;
            }
            log.lock().unwrap().push(conn.number);
            conn.leave(last).await
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let failed = storm(&client, 32, 3200).await;
    assert!(failed.is_empty(), "{} failed, as with {:?}", failed.len(), failed[0]);
    assert_eq!(peer.seen.answered(), 3200);
    assert!(log.lock().unwrap().len() >= 80);
}

impl Conn {
    async fn answer_one(&mut self) -> std::io::Result<()> {
        let stream = self.request().await?;
        self.answer(stream, "a").await
    }

    /// Answers a call, and says goodbye in the same packet.
    async fn answer_and_leave(&mut self, stream: u32, text: &str) -> std::io::Result<()> {
        use super::raw::{DATA, END_HEADERS, Frame, block, message};
        let goaway = [&stream.to_be_bytes()[..], &NO_ERROR.to_be_bytes()].concat();
        let head = block(&[(":status", "200"), ("content-type", "application/grpc")]);
        let frames = [
            Frame::new(HEADERS, END_HEADERS, stream, head),
            Frame::new(DATA, 0, stream, message(text)),
            Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, block(&[("grpc-status", "0")])),
            Frame::new(GOAWAY, 0, 0, goaway),
        ];
        self.write(&frames.iter().flat_map(Frame::encode).collect::<Vec<_>>()).await
    }
}
