//! Large headers and trailers of responses: up to a limit they arrive, beyond it they harm their own call alone.

use std::time::Duration;

use futures_util::future::join_all;
use tonic::{Code, Status};

use super::keepalive::channel_within;
use super::raw::{CONTINUATION, Conn, END_HEADERS, HEADERS, Peer, block};
use super::support::{Client, Net, ready};
use super::{SECOND, client, soon, within};

const GRPC: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];

/// Where the large text of an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The status message of a response of trailers only, as most errors are.
    TrailersOnly,
    /// Binary details, beside a short message.
    Details,
    /// Metadata before the message.
    Headers,
    /// Metadata after the message.
    Trailers,
    /// In many fields.
    Many,
}

const PLACES: [Place; 5] =
    [Place::TrailersOnly, Place::Details, Place::Headers, Place::Trailers, Place::Many];

impl Conn {
    async fn answer_large(&mut self, stream: u32, place: Place, length: usize) -> std::io::Result<()> {
        let large = "x".repeat(length);
        match place {
            Place::TrailersOnly => {
                let trailers = [("grpc-status", "9"), ("grpc-message", &large)];
                self.respond(stream, true, &[&GRPC[..], &trailers].concat()).await
            }
            Place::Details => {
                let details =
                    [("grpc-status", "9"), ("grpc-status-details-bin", &large), ("grpc-message", "m")];
                self.respond(stream, true, &[&GRPC[..], &details].concat()).await
            }
            Place::Headers => {
                self.respond(stream, false, &[&GRPC[..], &[("large", &large)]].concat()).await?;
                self.data(stream, &super::raw::message("a")).await?;
                self.respond(stream, true, &[("grpc-status", "0")]).await
            }
            Place::Trailers => {
                self.accept(stream).await?;
                self.data(stream, &super::raw::message("a")).await?;
                self.respond(stream, true, &[("grpc-status", "0"), ("large", &large)]).await
            }
            Place::Many => {
                let names: Vec<_> = (0..length / 1000).map(|i| format!("large-{i}")).collect();
                let fields: Vec<_> = names.iter().map(|name| (name.as_str(), &large[..960])).collect();
                self.respond(stream, false, &[&GRPC[..], &fields].concat()).await?;
                self.data(stream, &super::raw::message("a")).await?;
                self.respond(stream, true, &[("grpc-status", "0")]).await
            }
        }
    }
}

/// Serves calls, but answers the second with something large while ten others are open.
async fn answering_large(place: Place, length: usize) -> Peer {
    Peer::start(move |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        if conn.number > 0 {
            return conn.serve("new connection").await;
        }
        let mut streams = conn.requests(11).await?;
        let large = streams.remove(5);
        conn.answer_large(large, place, length).await?;
        // The client has to have read it all when it answers this.
        conn.ping_pong().await?;
        for stream in streams {
            conn.answer(stream, "neighbour").await?;
        }
        conn.serve("neighbour").await
    })
    .await
}

type Answer = Result<tonic::Response<String>, Status>;

/// Makes eleven calls at once; returns the answer that is not of a neighbour, and how many neighbours were answered.
async fn eleven(client: &Client, timeout: Duration) -> (Option<Answer>, usize) {
    let calls = (0..11).map(|_| client.call("Name", within(timeout)));
    let (neighbours, mut others): (Vec<_>, Vec<_>) = join_all(calls)
        .await
        .into_iter()
        .partition(|answer| answer.as_ref().is_ok_and(|answer| answer.get_ref() == "neighbour"));
    (others.pop(), neighbours.len())
}

/// As in grpc/grpc-go#443, grpc/grpc-dotnet#2455 and grpc/grpc-rust#2216.
async fn arrives(length: usize) {
    for place in PLACES {
        let peer = answering_large(place, length).await;
        let (_registry, client) = client(&[&peer.address]).await;
        let (answer, neighbours) = eleven(&client, 8 * SECOND).await;
        let answer = answer.unwrap();
        match (place, answer) {
            (Place::TrailersOnly, Err(status)) => {
                assert_eq!((status.code(), status.message().len()), (Code::FailedPrecondition, length));
            }
            (Place::Details, Err(status)) => {
                assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "m"));
                // Base64.
                assert_eq!(status.details().len(), length / 4 * 3);
            }
            (Place::Headers | Place::Trailers, Ok(answer)) => {
                assert_eq!(answer.metadata().get("large").unwrap().len(), length, "{place:?}");
            }
            (Place::Many, Ok(answer)) => {
                assert!(answer.metadata().len() >= length / 1000);
            }
            (_, answer) => panic!("{place:?}: {answer:?}"),
        }
        assert_eq!((neighbours, peer.seen.accepted()), (10, 1), "{place:?}");
        soon("the call", client.name()).await.unwrap();
    }
}

#[tokio::test]
async fn headers_of_20_kb_arrive() {
    arrives(20_000).await;
}

#[tokio::test]
async fn headers_of_60_kb_arrive() {
    arrives(60_000).await;
}

#[tokio::test]
async fn headers_of_1_mb_arrive() {
    arrives(1_000_000).await;
}

/// Headers beyond the limit (16 MiB by default, as grpc-go's) harm their own call, whose status names them; grpc/grpc-go#4265,
/// temporalio/temporal#3284.
#[tokio::test]
async fn headers_beyond_the_limit_harm_their_own_call_alone() {
    for place in [Place::TrailersOnly, Place::Headers, Place::Trailers, Place::Many] {
        let peer = answering_large(place, 17 << 20).await;
        let (_registry, client) = client(&[&peer.address]).await;
        // A debug build takes long for each of them.
        let (answer, neighbours) = eleven(&client, 60 * SECOND).await;
        let status = answer.unwrap().unwrap_err();
        assert!(matches!(status.code(), Code::ResourceExhausted | Code::Internal), "{place:?}: {status:?}");
        let message = status.message();
        assert!(message.contains("header") || message.contains("trailer"), "{place:?}: {status:?}");
        assert_eq!(neighbours, 10, "{place:?}: {status:?}");
        assert_eq!(soon("the next call", client.name()).await.unwrap(), "neighbour", "{place:?}");
        assert_eq!(peer.seen.accepted(), 1);
    }
}

/// The limit is a setting.
#[tokio::test]
async fn headers_beyond_a_lower_limit_harm_their_own_call_alone() {
    for length in [6_000, 20_000, 200_000, 1 << 20] {
        for place in [Place::TrailersOnly, Place::Headers, Place::Trailers] {
            let peer = answering_large(place, length).await;
            let (_registry, builder) = super::channel(&[&peer.address]).await;
            let client = Client::new(&builder.max_response_headers(8 * 1024).connect().await.unwrap());
            let (answer, neighbours) = eleven(&client, 8 * SECOND).await;
            let answer = answer.unwrap();
            match length {
                6_000 => assert!(!answer.is_err_and(|status| status.code() == Code::ResourceExhausted)),
                _ => {
                    let status = answer.unwrap_err();
                    assert_eq!(status.code(), Code::ResourceExhausted, "{place:?}: {status:?}");
                    assert!(status.message().contains("exceed the limit of 8192"), "{status:?}");
                }
            }
            assert_eq!((neighbours, peer.seen.accepted()), (10, 1), "{place:?}, {length}");
        }
    }
}

/// A block that never ends (CVE-2024-27316): the connection is ended with words, and its memory stays bounded.
#[tokio::test]
async fn a_flood_of_continuation_ends_its_connection() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        if conn.number > 0 {
            return conn.serve("new").await;
        }
        let stream = conn.request().await?;
        conn.send(HEADERS, 0, stream, block(&GRPC)).await?;
        let field = block(&[("x", &"x".repeat(1000))]);
        for _ in 0..1_000_000 {
            conn.send(CONTINUATION, 0, stream, field.clone()).await?;
        }
        conn.send(CONTINUATION, END_HEADERS, stream, field).await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let status = soon("the call", client.name()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("broke the HTTP/2 protocol: ENHANCE_YOUR_CALM"), "{status:?}");
    assert_eq!(soon("the next call", client.name()).await.unwrap(), "new");
}

/// Many small frames without an end, each empty.
#[tokio::test]
async fn a_flood_of_empty_continuation_ends_its_connection() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        if conn.number > 0 {
            return conn.serve("new").await;
        }
        let stream = conn.request().await?;
        conn.send(HEADERS, 0, stream, block(&GRPC)).await?;
        let empty = super::raw::Frame::new(CONTINUATION, 0, stream, []).encode().repeat(1000);
        loop {
            conn.write(&empty).await?;
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    soon("the call", client.call("Name", within(5 * SECOND))).await.unwrap_err();
    assert_eq!(soon("the next call", client.name()).await.unwrap(), "new");
}

/// A peer that lets the client wait in the middle of a block: the call ends at its deadline, and the connection's calls
/// with it, for nothing else can be read; keep-alive is for that. Calls elsewhere go on.
#[tokio::test(start_paused = true)]
async fn half_a_header_block_ends_calls_at_their_deadlines() {
    let net = Net::new();
    let _stuck = Peer::within(&net, "a:1", |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        conn.send(HEADERS, 0, stream, block(&GRPC)).await?;
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
    let calls = (0..4).map(|_| client.call("Name", within(Duration::from_millis(300))));
    let (ended, late): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!((ended.len(), late.len()), (2, 2));
    assert!(late.into_iter().all(|late| late.unwrap_err().code() == Code::DeadlineExceeded));
}
