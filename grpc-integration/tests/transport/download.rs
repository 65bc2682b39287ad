//! Flow control of responses (RFC 9113, section 5.2): a reader that is slow slows its own stream and no other.

use std::collections::BTreeMap;
use std::io;

use tonic::{Code, Streaming};

use super::raw::{Conn, DATA, Frame, Peer, message};
use super::support::{Client, until};
use super::{SECOND, client, soon, within};

/// The size of one message on the wire.
const MESSAGE: usize = 8 * 1024;

/// A message with its number.
fn numbered(number: usize) -> Vec<u8> {
    let overhead = 5 + 3;
    message(&format!("{number:0width$}", width = MESSAGE - overhead))
}

async fn read_all(mut stream: Streaming<String>) -> usize {
    let mut count = 0;
    while let Some(text) = soon("a message", stream.message()).await.unwrap() {
        assert_eq!(text.parse::<usize>().unwrap(), count);
        count += 1;
    }
    count
}

impl Conn {
    /// Sends `messages` messages on each of these streams and ends them, as the windows allow; meanwhile requests that
    /// come are answered. Returns when `enough` returns true for the sent bytes.
    async fn pour(
        &mut self,
        streams: &[u32],
        messages: usize,
        mut enough: impl FnMut(&BTreeMap<u32, usize>) -> bool,
    ) -> io::Result<()> {
        let bytes: Vec<u8> = (0..messages).flat_map(numbered).collect();
        let mut sent: BTreeMap<u32, usize> = streams.iter().map(|stream| (*stream, 0)).collect();
        loop {
            let mut moved = false;
            for (stream, sent) in &mut sent {
                let room = self.windows.room(*stream).min(16_384).min(bytes.len() - *sent);
                if room > 0 {
                    self.data(*stream, &bytes[*sent..*sent + room]).await?;
                    *sent += room;
                    moved = true;
                    if *sent == bytes.len() {
                        self.respond(*stream, true, &[("grpc-status", "0")]).await?;
                    }
                }
            }
            if enough(&sent) || sent.values().all(|sent| *sent == bytes.len()) {
                return Ok(());
            }
            if !moved {
                self.frame().await?;
                while let Some(stream) = self.next_request() {
                    self.answer(stream, "neighbour").await?;
                }
            }
        }
    }
}

/// Answers the first `unread` calls with `messages` messages each, and all others with one.
async fn pouring(unread: usize, messages: usize) -> Peer {
    Peer::start(move |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let streams = conn.requests(unread).await?;
        for stream in &streams {
            conn.accept(*stream).await?;
        }
        conn.pour(&streams, messages, |_| false).await?;
        conn.serve("neighbour").await
    })
    .await
}

async fn open(client: &Client, streams: usize) -> Vec<Streaming<String>> {
    let calls = (0..streams).map(|_| client.stream("Stream", String::new()));
    let streams = soon("the streams' headers", futures_util::future::join_all(calls)).await;
    streams.into_iter().map(Result::unwrap).collect()
}

/// As in hyperium/hyper#4003 and curl/curl#16955, seen from the other side: bytes that wait for their reader must not
/// use up the connection's window.
async fn unread_streams_stop_no_neighbour(unread: usize, messages: usize) {
    let peer = pouring(unread, messages).await;
    let (_registry, client) = client(&[&peer.address]).await;
    let streams = open(&client, unread).await;
    for _ in 0..20 {
        let answer = soon("the neighbour", client.call("Name", within(5 * SECOND))).await.unwrap();
        assert_eq!(answer.into_inner(), "neighbour");
    }
    for stream in streams {
        assert_eq!(read_all(stream).await, messages);
    }
    assert_eq!(peer.seen.accepted(), 1);
}

#[tokio::test]
async fn three_unread_streams_stop_no_neighbour() {
    unread_streams_stop_no_neighbour(3, 400).await;
}

#[tokio::test]
async fn a_hundred_unread_streams_stop_no_neighbour() {
    unread_streams_stop_no_neighbour(100, 16).await;
}

/// Each of four streams has more to say than its window holds.
#[tokio::test]
async fn streams_can_be_read_in_any_order() {
    const MESSAGES: usize = 400;
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let peer = pouring(4, MESSAGES).await;
        let (_registry, client) = client(&[&peer.address]).await;
        let mut streams: Vec<_> = open(&client, 4).await.into_iter().map(Some).collect();
        for index in order {
            assert_eq!(read_all(streams[index].take().unwrap()).await, MESSAGES, "{index} in {order:?}");
        }
    }
}

/// A stream that is not read holds no more than its window, whatever the connection's window is.
#[tokio::test]
async fn memory_is_bounded_for_each_unread_stream() {
    let poured = tokio::sync::watch::Sender::new(0);
    let script_poured = poured.clone();
    let peer = Peer::start(move |mut conn: Conn| {
        let poured = script_poured.clone();
        async move {
            conn.greet(&[]).await?;
            let stream = conn.request().await?;
            conn.accept(stream).await?;
            let note = |sent: &BTreeMap<u32, usize>| {
                poured.send_replace(sent.values().sum());
                false
            };
            conn.pour(&[stream], 2_000, note).await
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let stream = open(&client, 1).await;
    // The neighbours' answers come when the peer can send nothing more on the stream.
    for _ in 0..20 {
        soon("the neighbour", client.name()).await.unwrap();
    }
    let poured = *poured.borrow();
    assert!((60_000..=8 << 20).contains(&poured), "{poured} bytes");
    drop(stream);
}

/// Tens of thousands of messages in a frame each, read late: h2 ends a connection for those unless its budget is
/// raised (hyperium/h2#935, hyperium/h2#939).
#[tokio::test]
async fn tiny_messages_that_are_read_late_harm_nothing() {
    const MESSAGES: usize = 40_000;
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        conn.accept(stream).await?;
        let tiny = message("x");
        let mut left = MESSAGES;
        while left > 0 {
            // Many in one write: the neighbours wait until the window is used up.
            let count = left.min(100).min(conn.windows.room(stream) / tiny.len());
            conn.windows.take(stream, count * tiny.len());
            conn.write(&Frame::new(DATA, 0, stream, tiny.clone()).encode().repeat(count)).await?;
            left -= count;
            if count == 0 {
                conn.frame().await?;
                while let Some(stream) = conn.next_request() {
                    conn.answer(stream, "neighbour").await?;
                }
            }
        }
        conn.respond(stream, true, &[("grpc-status", "0")]).await?;
        conn.serve("neighbour").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let mut stream = open(&client, 1).await.remove(0);
    for _ in 0..50 {
        client.call("Name", within(60 * SECOND)).await.unwrap();
    }
    let mut count = 0;
    while let Some(text) = soon("a message", stream.message()).await.unwrap() {
        assert_eq!(text, "x");
        count += 1;
        if count % 1000 == 0 {
            soon("the call", client.name()).await.unwrap();
        }
    }
    assert_eq!((count, peer.seen.accepted()), (MESSAGES, 1));
}

/// Tiny messages on many streams at once, none of which is read for a while: the workload of hyperium/h2#942.
#[tokio::test]
async fn tiny_messages_on_many_streams_harm_nothing() {
    const STREAMS: usize = 50;
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let streams = conn.requests(STREAMS).await?;
        for stream in &streams {
            conn.accept(*stream).await?;
        }
        for _ in 0..400 {
            for stream in &streams {
                conn.data(*stream, &message("x")).await?;
            }
        }
        for stream in &streams {
            conn.respond(*stream, true, &[("grpc-status", "0")]).await?;
        }
        conn.serve("neighbour").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let streams = open(&client, STREAMS).await;
    soon("the neighbour", client.name()).await.unwrap();
    for mut stream in streams {
        let mut count = 0;
        while soon("a message", stream.message()).await.unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 400);
    }
    assert_eq!(peer.seen.accepted(), 1);
}

/// Padding counts against the windows, and nothing of it is ever read.
#[tokio::test]
async fn the_window_of_padding_is_given_back() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        conn.accept(stream).await?;
        // As large as two windows: each byte of the body with 255 bytes of padding.
        let bytes = message(&"x".repeat(10_000));
        let mut sent = 0;
        while sent < 2 * conn.windows.initial {
            let piece = [bytes[usize::try_from(sent / 257).unwrap() % bytes.len()]];
            conn.padded(stream, &piece, 255).await?;
            sent += 257;
            if sent / 257 == i64::try_from(bytes.len()).unwrap() {
                break;
            }
        }
        let rest = bytes.get(usize::try_from(sent / 257).unwrap()..).unwrap_or_default();
        conn.send_message(stream, rest).await?;
        conn.respond(stream, true, &[("grpc-status", "0")]).await?;
        conn.serve("neighbour").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    assert_eq!(soon("the padded answer", client.name()).await.unwrap().len(), 10_000);
    assert_eq!(soon("the neighbour", client.name()).await.unwrap(), "neighbour");
    assert_eq!(peer.seen.accepted(), 1);
}

/// As in jetty/jetty.project#2454, oven-sh/bun#37712 and kazu-yamamoto/http2#140: these send an empty frame before the
/// trailers of each response. h2 ends a connection at the hundred and first (hyperium/h2#935).
#[tokio::test]
async fn empty_data_before_trailers_harms_nothing() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            let stream = conn.request().await?;
            conn.accept(stream).await?;
            conn.data(stream, &message("a")).await?;
            conn.data(stream, &[]).await?;
            conn.respond(stream, true, &[("grpc-status", "0")]).await?;
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for call in 0..500 {
        let answer = soon("the call", client.name()).await;
        assert_eq!(answer.unwrap_or_else(|status| panic!("call {call}: {status:?}")), "a");
    }
    assert_eq!(peer.seen.accepted(), 1);
}

/// A peer that sends more than it may: that call ends with words, and the others go on.
#[tokio::test]
async fn a_violation_of_flow_control_harms_its_own_call() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        conn.accept(stream).await?;
        // The client may be quick to read, and is not while it is given no time.
        let frame = Frame::new(DATA, 0, stream, numbered(0)).encode();
        conn.write(&frame.repeat(1000)).await?;
        conn.serve("neighbour").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let mut stream = open(&client, 1).await.remove(0);
    until("the stream is reset", || peer.seen.resets() == 1).await;
    let status = loop {
        match soon("a message", stream.message()).await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert!(matches!(status.code(), Code::Unavailable | Code::Internal), "{status:?}");
    assert!(status.message().to_lowercase().contains("flow"), "{status:?}");
    assert_eq!(soon("the next call", client.name()).await.unwrap(), "neighbour");
}

/// A response that is dropped half-way gives its window back.
#[tokio::test]
async fn dropped_responses_leave_no_hole_in_the_window() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            let stream = conn.request().await?;
            conn.accept(stream).await?;
            // Whether it is still wanted or not.
            let mut left = 40 * MESSAGE;
            while left > 0 {
                let room = conn.windows.room(stream).min(left).min(16_384);
                if room == 0 {
                    if conn.frame().await?.is(super::raw::RST_STREAM) {
                        break;
                    }
                    continue;
                }
                conn.data(stream, &vec![0; room]).await?;
                left -= room;
            }
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for call in 0..100 {
        let opened = tokio::time::timeout(5 * SECOND, client.stream("Stream", String::new())).await;
        drop(opened.unwrap_or_else(|_| panic!("stream {call} was not opened")).unwrap());
    }
    assert_eq!(peer.seen.accepted(), 1);
}

/// What is still under way on many streams that were dropped harms nothing, however many there are.
#[tokio::test]
async fn data_of_many_dropped_streams_harms_no_neighbour() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            let frame = conn.frame().await?;
            while let Some(stream) = conn.next_request() {
                conn.accept(stream).await?;
            }
            if frame.is(super::raw::RST_STREAM) {
                for _ in 0..2 {
                    conn.data(frame.stream, &message("late")).await?;
                }
            }
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for _ in 0..2000 {
        drop(soon("a stream", client.stream("Stream", String::new())).await.unwrap());
    }
    assert_eq!(peer.seen.accepted(), 1);
}

/// The window of a stream is a setting, and bounded.
#[tokio::test]
async fn the_window_of_a_stream_is_as_it_was_set() {
    for (set, announced) in [(1, 64 * 1024), (256 * 1024, 256 * 1024), (u32::MAX, 16 * 1024 * 1024)] {
        let (sender, mut windows) = tokio::sync::mpsc::unbounded_channel();
        let peer = Peer::start(move |mut conn: Conn| {
            let sender = sender.clone();
            async move {
                conn.greet(&[]).await?;
                let stream = conn.request().await?;
                sender.send(conn.windows.initial).unwrap();
                conn.answer(stream, "neighbour").await
            }
        })
        .await;
        let (_registry, builder) = super::channel(&[&peer.address]).await;
        let client = Client::new(&builder.stream_window(set).connect().await.unwrap());
        soon("the call", client.name()).await.unwrap();
        assert_eq!(windows.recv().await, Some(announced));
    }
}

/// A stream that is not read must not hold back another: the windows of all fit into the largest that a connection can
/// have, 2^31 - 1 bytes.
#[tokio::test]
async fn a_connection_has_as_many_streams_as_have_room_in_its_window() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            conn.frame().await?;
            // The client's streams are 1, 3, 5.
            assert!(conn.highest < 2 * 127, "stream {}", conn.highest);
        }
    })
    .await;
    let (_registry, builder) = super::channel(&[&peer.address]).await;
    let builder = builder.stream_window(16 * 1024 * 1024).max_connections(2);
    let client = Client::new(&builder.connect().await.unwrap());
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.name().await })
        })
        .collect();
    until("the others have a connection of their own", || peer.seen.headers() == 200).await;
    assert_eq!((peer.seen.accepted(), peer.seen.open()), (2, 2));
    for call in calls {
        call.abort();
    }
}
