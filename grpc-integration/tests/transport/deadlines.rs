//! Calls that end before their answer: what is not sent need not be reset, and resets are rationed.

use std::io;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::raw::{Conn, ENHANCE_YOUR_CALM, MAX_CONCURRENT_STREAMS, Peer, RST_STREAM};
use super::support::{Client, Net, Registry, SERVICE, Server, ready, until};
use super::{SECOND, channel, client, soon, within};

/// A stream of two messages, the second of which is larger than a window, and of no end.
fn endless(message: String) -> impl Stream<Item = String> {
    stream::iter([message, "x".repeat(100_000)]).chain(stream::pending())
}

/// Short calls in a burst, beside innocent ones: the resets must not end the connection (hyperium/h2#856,
/// iotaledger/iota#12930), for the server is tonic's, with h2's defence against rapid resets.
async fn bursts(connections: usize) {
    let mut servers = Vec::new();
    for _ in 0..connections {
        servers.push(Server::start().await);
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.address.as_str()).collect();
    let (_registry, builder) = channel(&addresses).await;
    let channel = builder.connect().await.unwrap();
    ready(&channel, connections).await;
    let client = Client::new(&channel);
    let innocent: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call("Hold", within(300 * SECOND)).await })
        })
        .collect();
    until("the innocent are there", || servers.iter().map(Server::calls).sum::<usize>() == 100).await;
    for _ in 0..4 {
        let short = (0..500).map(|i| {
            let client = client.clone();
            let request = within(Duration::from_millis(1 + i % 5));
            tokio::spawn(async move {
                match i % 2 {
                    0 => client.call("Hold", request).await,
                    // Its messages do not end, either.
                    _ => client.upload("Hold", request.map(endless)).await,
                }
            })
        });
        for call in join_all(short.collect::<Vec<_>>()).await {
            let status = call.unwrap().unwrap_err();
            // tonic's server has a timer too, whose status may come first.
            assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
        }
    }
    for server in &servers {
        server.open_gate();
    }
    for call in innocent {
        soon("an innocent call", call).await.unwrap().unwrap();
    }
    soon("the next call", client.name()).await.unwrap();
    assert!(servers.iter().all(|server| server.accepted() == 1), "no connection was lost or added");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursts_of_short_deadlines_harm_no_other_over_one_connection() {
    bursts(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursts_of_short_deadlines_harm_no_other_over_ten_connections() {
    bursts(10).await;
}

/// Dropped streams in a burst, as hedging callers drop the slower of two.
#[tokio::test]
async fn bursts_of_dropped_streams_harm_no_other() {
    let server = Server::start().await;
    let (_registry, client) = client(&[&server.address]).await;
    let innocent = tokio::spawn({
        let client = client.clone();
        async move { client.call("Hold", within(300 * SECOND)).await }
    });
    for _ in 0..20 {
        let calls = (0..50).map(|_| client.stream("Stream", String::new()));
        let streams = soon("the streams", join_all(calls)).await;
        assert!(streams.iter().all(Result::is_ok));
    }
    server.open_gate();
    soon("the innocent call", innocent).await.unwrap().unwrap();
    assert_eq!(server.accepted(), 1);
}

/// Calls that are dropped before the connection's task has sent them send nothing.
#[tokio::test]
async fn calls_that_are_dropped_at_once_send_nothing() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.serve("a").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for _ in 0..200 {
        // Polled once, which is when a call is queued.
        let mut call = Box::pin(client.name());
        assert!(call.as_mut().now_or_never().is_none());
        drop(call);
    }
    soon("a call", client.name()).await.unwrap();
    assert_eq!((peer.seen.headers(), peer.seen.resets(), peer.seen.accepted()), (1, 0, 1));
}

/// So do those that wait for a stream, and they cause no further connection.
#[tokio::test]
async fn calls_that_expire_while_they_wait_for_a_stream_send_nothing() {
    let free = watch::Sender::new(false);
    let script_free = free.clone();
    let peer = Peer::start(move |mut conn: Conn| {
        let mut free = script_free.subscribe();
        async move {
            conn.greet(&[(MAX_CONCURRENT_STREAMS, 1)]).await?;
            let stream = conn.request().await?;
            free.wait_for(|free| *free).await.unwrap();
            conn.answer(stream, "first").await?;
            conn.serve("a").await
        }
    })
    .await;
    let (_registry, builder) = channel(&[&peer.address]).await;
    let client = Client::new(&builder.max_connections(1).connect().await.unwrap());
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.name().await }
    });
    until("it is there", || peer.seen.headers() == 1).await;
    let short = (0..200).map(|_| client.call("Name", within(Duration::from_millis(3))));
    for call in join_all(short).await {
        assert_eq!(call.unwrap_err().code(), Code::DeadlineExceeded);
    }
    free.send_replace(true);
    soon("the first", first).await.unwrap().unwrap();
    soon("the next", client.name()).await.unwrap();
    assert_eq!((peer.seen.headers(), peer.seen.resets(), peer.seen.accepted()), (2, 0, 1));
}

/// Calls whose deadline has passed when they are made.
#[tokio::test]
async fn calls_without_any_time_send_nothing() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.serve("a").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for call in join_all((0..100).map(|_| client.call("Name", within(Duration::ZERO)))).await {
        assert_eq!(call.unwrap_err().code(), Code::DeadlineExceeded);
    }
    soon("a call", client.name()).await.unwrap();
    assert_eq!((peer.seen.headers(), peer.seen.accepted()), (1, 1));
}

/// A server that defends itself against more than thirty resets in a second, and answers one call in ten.
async fn defensive(mut conn: Conn) -> io::Result<()> {
    conn.greet(&[]).await?;
    let (mut second, mut resets) = (Instant::now(), 0);
    loop {
        let frame = conn.frame().await?;
        if second.elapsed() > SECOND {
            (second, resets) = (Instant::now(), 0);
        }
        resets += usize::from(frame.is(RST_STREAM));
        if resets > 30 {
            conn.goaway(conn.highest, ENHANCE_YOUR_CALM, "too_many_resets").await?;
            return conn.close().await;
        }
        while let Some(stream) = conn.next_request() {
            if stream % 20 == 1 {
                conn.answer(stream, "a").await?;
            }
        }
    }
}

/// Resets wait for a sign of life of the server, which costs a round trip and no fixed time.
#[tokio::test(start_paused = true)]
async fn a_server_that_answers_nothing_else_learns_of_cancelled_calls_at_once() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let peer = Peer::within(&net, "a:1", |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.answer_settings().await
    });
    registry.up("a:1").await;
    let builder = hither_tonic::DiscoveryChannel::builder(registry.discovery(), SERVICE).connector(net);
    let client = Client::new(&builder.keepalive_interval(None).connect().await.unwrap());
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.name().await })
        })
        .collect();
    until("all are there", || peer.seen.headers() == 1000).await;
    let began = Instant::now();
    for call in calls {
        call.abort();
    }
    until("all were reset", || peer.seen.resets() == 1000).await;
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

/// After ENHANCE_YOUR_CALM the pace of resets falls, so that the next connections live longer.
#[tokio::test(start_paused = true)]
async fn after_enhance_your_calm_the_pace_of_resets_falls() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let peer = Peer::within(&net, "a:1", defensive);
    registry.up("a:1").await;
    let builder = hither_tonic::DiscoveryChannel::builder(registry.discovery(), SERVICE).connector(net);
    let client = Client::new(&builder.connect().await.unwrap());
    let mut connections = Vec::new();
    for _ in 0..20 {
        for _ in 0..10 {
            let short = (0..20).map(|_| client.call("Name", within(Duration::from_millis(5))));
            join_all(short).await;
            sleep(Duration::from_millis(95)).await;
        }
        connections.push(peer.seen.accepted());
    }
    let (early, late) = (connections[9], connections[19] - connections[9]);
    assert!(early > 1 && late <= 1, "connections after each second: {connections:?}");
}

/// And it rises again when the server has not complained for long, also on a connection that is open all the time.
#[tokio::test(start_paused = true)]
async fn the_pace_of_resets_recovers_slowly() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let peer = Peer::within(&net, "a:1", |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        if conn.number < 2 {
            conn.headers().await?;
            conn.goaway(0, ENHANCE_YOUR_CALM, "too_many_resets").await?;
            return conn.close().await;
        }
        conn.answer_settings().await
    });
    registry.up("a:1").await;
    let builder = hither_tonic::DiscoveryChannel::builder(registry.discovery(), SERVICE).connector(net);
    let client = Client::new(&builder.keepalive_interval(None).connect().await.unwrap());
    client.call("Name", within(SECOND)).await.unwrap_err();
    // How many tens of forty calls that end at once are reset within 0.35 s.
    let mut resets = Vec::new();
    for _ in 0..4 {
        let before = peer.seen.resets();
        join_all((0..40).map(|_| client.call("Name", within(SECOND)))).await;
        sleep(Duration::from_millis(350)).await;
        resets.push((peer.seen.resets() - before).div_ceil(10));
        sleep(600 * SECOND).await;
    }
    // One at once, and one after each pause of 0.4 s, 0.2 s, and 0.1 s.
    assert_eq!(resets, [1, 2, 4, 4]);
    assert_eq!(peer.seen.accepted(), 3);
}

/// A stream that was reset late still frees its place, at the latest when the server has answered.
#[tokio::test]
async fn expired_calls_leave_no_stream_behind() {
    let answers = watch::Sender::new(false);
    let script_answers = answers.clone();
    let peer = Peer::start(move |mut conn: Conn| {
        let answers = script_answers.subscribe();
        async move {
            conn.greet(&[(MAX_CONCURRENT_STREAMS, 10)]).await?;
            loop {
                let stream = conn.request().await?;
                if *answers.borrow() {
                    conn.answer(stream, "a").await?;
                }
            }
        }
    })
    .await;
    let (_registry, builder) = channel(&[&peer.address]).await;
    let client = Client::new(&builder.max_connections(1).connect().await.unwrap());
    let mut expired = 0;
    while peer.seen.headers() < 200 {
        let calls = (0..10).map(|_| client.call("Name", within(Duration::from_millis(5))));
        for call in soon("the calls", join_all(calls)).await {
            assert_eq!(call.unwrap_err().code(), Code::DeadlineExceeded);
            expired += 1;
        }
        assert!(expired < 20_000, "{} arrived", peer.seen.headers());
    }
    answers.send_replace(true);
    for _ in 0..20 {
        soon("a call", client.call("Name", within(9 * SECOND))).await.unwrap();
    }
    assert_eq!(peer.seen.accepted(), 1);
}

/// A stream that always has a message: the deadline is looked at all the same.
#[tokio::test(start_paused = true)]
async fn a_stream_whose_messages_are_all_there_ends_at_its_deadline() {
    let net = Net::new();
    let peer = Peer::within(&net, "a:1", |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        conn.accept(stream).await?;
        for _ in 0..1000 {
            conn.send(super::raw::DATA, 0, stream, super::raw::message("tick")).await?;
        }
        conn.drain().await
    });
    let (_registry, builder) = super::keepalive::channel_within(&net, &["a:1"]).await;
    let client = Client::new(&builder.connect().await.unwrap());
    let mut stream = client.stream("Ticks", within(SECOND)).await.unwrap();
    sleep(2 * SECOND).await;
    let mut messages = 0;
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
        messages += 1;
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(messages < 100, "{messages} after the deadline");
    drop(peer);
}

/// A server knows the deadline too, and may cancel before the channel's timer fires.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_cancelled_at_its_deadline_has_exceeded_it() {
    let net = Net::new();
    let peer = Peer::within(&net, "a:1", |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        conn.accept(stream).await?;
        sleep(SECOND).await;
        conn.reset(stream, super::raw::CANCEL).await?;
        conn.drain().await
    });
    let (_registry, builder) = super::keepalive::channel_within(&net, &["a:1"]).await;
    let client = Client::new(&builder.connect().await.unwrap());
    let mut stream = client.stream("Ticks", within(SECOND)).await.unwrap();
    sleep(2 * SECOND).await;
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    drop(peer);
}
