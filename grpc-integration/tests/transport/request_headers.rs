//! The headers of requests: what a server accepts of them, and what is left out.

use std::sync::Arc;

use tokio::sync::{Notify, oneshot};
use tonic::{Code, Request, Response, Status};

use super::attempts::Attempts;
use super::raw::{
    Conn, DATA, END_HEADERS, ENHANCE_YOUR_CALM, Frame, HEADERS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE,
    Peer, SETTINGS, block, message, settings,
};
use super::support::{Client, Server};
use super::{channel, client, soon};

/// Makes a call with a header of this length in all, as HTTP/2 counts it.
async fn call_with(client: &Client, size: usize) -> Result<Response<String>, Status> {
    let mut request = Request::new(String::new());
    request.metadata_mut().insert("large", "~".repeat(size - "large".len() - 32).parse().unwrap());
    soon("the call", client.call("Name", request)).await
}

/// The size of the headers of a call without any of its own, as a server sees and counts them (RFC 9113, section 6.5.2).
async fn size_of_a_call() -> usize {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (seen, size) = oneshot::channel();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, _respond) = connection.accept().await.unwrap().unwrap();
        let uri = request.uri();
        let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.len()));
        let pseudo = [
            (":method", request.method().as_str().len()),
            (":scheme", uri.scheme_str().unwrap().len()),
            (":authority", uri.authority().unwrap().as_str().len()),
            (":path", uri.path().len()),
        ];
        seen.send(headers.chain(pseudo).map(|(name, value)| name.len() + value + 32).sum()).unwrap();
        while connection.accept().await.is_some() {}
    });
    let (_registry, client) = client(&[&address]).await;
    let calling = tokio::spawn(async move { client.name().await });
    let size = soon("the request", size).await.unwrap();
    calling.abort();
    server.abort();
    size
}

fn assert_over(answer: Result<Response<String>, Status>, size: usize, limit: u32) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let expected = format!("request headers of {size} bytes exceed the {limit} that 127.0.0.1:");
    assert!(status.message().starts_with(&expected), "{status:?}");
}

/// As in grpc/grpc-java#4284 and grpc/grpc-java#2601: such a call is not sent, and no other is harmed.
#[tokio::test]
async fn request_headers_over_what_the_server_accepts_are_not_sent() {
    let size = size_of_a_call().await;
    let limit = u32::try_from(size).unwrap() + 1000;
    let peer = Peer::start(move |mut conn: Conn| async move {
        conn.greet(&[(MAX_HEADER_LIST_SIZE, limit), (INITIAL_WINDOW_SIZE, 65_535)]).await?;
        conn.serve("a").await
    })
    .await;
    let (_registry, builder) = channel(&[&peer.address]).await;
    let attempts = Attempts::default();
    let client = Client::new(&builder.policy(attempts.clone()).connect().await.unwrap());
    for over in [1, 100_000] {
        let (large, neighbour) = tokio::join!(call_with(&client, 1000 + over), client.name());
        assert_over(large, size + 1000 + over, limit);
        neighbour.unwrap();
    }
    call_with(&client, 1000).await.unwrap();
    assert_eq!((attempts.unsent(), attempts.ended().len()), (vec![Code::ResourceExhausted; 2], 5));
    assert_eq!((peer.seen.headers(), peer.seen.resets(), peer.seen.accepted()), (3, 0, 1));
}

/// It is the last that was announced that counts; a server that has announced nothing accepts everything.
#[tokio::test]
async fn a_limit_that_changes_counts_from_the_next_call_on() {
    let changes: [&[(u16, u32)]; 7] = [
        &[(MAX_HEADER_LIST_SIZE, 4000)],
        &[(INITIAL_WINDOW_SIZE, 65_535), (MAX_HEADER_LIST_SIZE, 4000), (MAX_HEADER_LIST_SIZE, 200_000)],
        &[(MAX_HEADER_LIST_SIZE, 3999)],
        // Nothing about headers.
        &[(INITIAL_WINDOW_SIZE, 65_535)],
        &[(MAX_HEADER_LIST_SIZE, u32::MAX)],
        &[(MAX_HEADER_LIST_SIZE, 4001)],
        &[],
    ];
    let peer = Peer::start(move |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        for change in changes {
            let stream = conn.request().await?;
            conn.send(SETTINGS, 0, 0, settings(change)).await?;
            conn.answer(stream, "a").await?;
        }
        conn.serve("a").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    call_with(&client, 100_000).await.unwrap();
    let mut limits = Vec::new();
    for _ in 1..changes.len() {
        let limit = match call_with(&client, 100_000).await {
            Ok(_) => None,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                // The peer goes on with a call that it gets.
                client.name().await.unwrap();
                let (_, limit) = status.message().split_once("exceed the ").unwrap();
                Some(limit.split(' ').next().unwrap().to_owned())
            }
        };
        limits.push(limit);
    }
    let expected = [Some("4000"), None, Some("3999"), Some("3999"), None, Some("4001")];
    assert_eq!(limits, expected.map(|limit| limit.map(str::to_owned)));
    assert_eq!(peer.seen.accepted(), 1);
}

/// A limit of 0 forbids every call, and the connection stays.
#[tokio::test]
async fn a_limit_of_0_fails_all_calls_and_no_connection() {
    let peer = Peer::start(move |mut conn: Conn| async move {
        conn.greet(&[(MAX_HEADER_LIST_SIZE, 0)]).await?;
        conn.serve("a").await
    })
    .await;
    let size = size_of_a_call().await;
    let (_registry, client) = client(&[&peer.address]).await;
    for _ in 0..10 {
        assert_over(client.call("Name", String::new()).await, size, 0);
    }
    assert_eq!((peer.seen.headers(), peer.seen.accepted()), (0, 1));
}

/// SETTINGS that arrive byte by byte.
#[tokio::test]
async fn a_limit_is_read_from_settings_in_pieces() {
    let peer = Peer::start(move |mut conn: Conn| async move {
        let entries = [(INITIAL_WINDOW_SIZE, 65_535), (MAX_HEADER_LIST_SIZE, 4000), (0x1234, 7)];
        for byte in Frame::new(SETTINGS, 0, 0, settings(&entries)).encode() {
            conn.write(&[byte]).await?;
            tokio::task::yield_now().await;
        }
        conn.preface().await?;
        conn.serve("a").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let status = call_with(&client, 4000).await.unwrap_err();
    assert!(status.message().contains("exceed the 4000 that"), "{status:?}");
    client.name().await.unwrap();
    assert_eq!((peer.seen.headers(), peer.seen.accepted()), (1, 1));
}

/// Servers that adapt their windows send SETTINGS in mid-connection. What a later response carries is none of them, also
/// where a read ends within it.
#[tokio::test]
async fn a_response_that_looks_like_settings_is_no_limit() {
    // MAX_HEADER_LIST_SIZE of 0, again and again.
    let text = "\0\x06\0\0\0\0".repeat(10);
    let begun = Arc::<Notify>::default();
    let read = Arc::clone(&begun);
    let peer = Peer::start(move |mut conn: Conn| {
        let (text, read) = (text.clone(), Arc::clone(&read));
        async move {
            conn.greet(&[(MAX_HEADER_LIST_SIZE, 16_384)]).await?;
            let stream = conn.request().await?;
            conn.send(SETTINGS, 0, 0, settings(&[(INITIAL_WINDOW_SIZE, 65_535)])).await?;
            // Its acknowledgement: a read has ended with it.
            while !conn.raw_frame().await?.is(SETTINGS) {}
            let head = block(&[(":status", "200"), ("content-type", "application/grpc")]);
            let head = Frame::new(HEADERS, END_HEADERS, stream, head).encode();
            let data = Frame::new(DATA, 0, stream, message(&text)).encode();
            let (first, rest) = data.split_at(data.len() - text.len());
            conn.write(&[&head, first].concat()).await?;
            read.notified().await;
            conn.write(rest).await?;
            conn.respond(stream, true, &[("grpc-status", "0")]).await?;
            conn.serve("a").await
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let mut stream = soon("the headers", client.stream("Name", String::new())).await.unwrap();
    begun.notify_one();
    assert_eq!(soon("the message", stream.message()).await.unwrap().map(|text| text.len()), Some(60));
    soon("the next call", client.name()).await.unwrap();
    assert_eq!(peer.seen.accepted(), 1);
}

/// The call fails at the instance that was picked for it, as in grpc-go: whether it passes must not be a matter of luck.
#[tokio::test]
async fn a_request_over_the_limit_is_not_tried_at_another_instance() {
    let strict = Peer::start(move |mut conn: Conn| async move {
        conn.greet(&[(MAX_HEADER_LIST_SIZE, 4000)]).await?;
        conn.serve("strict").await
    })
    .await;
    let lax = Peer::start(move |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.serve("lax").await
    })
    .await;
    let (_registry, client) = client(&[&strict.address, &lax.address]).await;
    let mut failed = 0;
    for _ in 0..10 {
        failed += usize::from(call_with(&client, 4000).await.is_err());
    }
    assert_eq!((failed, lax.seen.headers(), strict.seen.headers()), (5, 5, 0));
}

/// tonic's server announces 16 KiB by default.
#[tokio::test]
async fn request_headers_over_tonics_limit_are_not_sent() {
    let server = Server::start().await;
    let (_registry, client) = client(&[&server.address]).await;
    let size = size_of_a_call().await;
    for over in [1, 1000, 300_000] {
        let large = 16_384 - size + over;
        assert_over(call_with(&client, large).await, 16_384 + over, 16_384);
    }
    assert_eq!(server.calls(), 0);
    // h2's server counts what is as large as its limit as larger.
    call_with(&client, 16_384 - size - 1).await.unwrap();
    assert_eq!((server.calls(), server.accepted()), (1, 1));
}

/// A server that has announced no limit may refuse a request all the same.
#[tokio::test]
async fn request_headers_that_a_server_refuses_harm_their_own_call_alone() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            let frame = conn.frame().await?;
            if frame.is(HEADERS) && frame.payload.len() > 8192 {
                conn.reset(frame.stream, ENHANCE_YOUR_CALM).await?;
            }
            while let Some(stream) = conn.next_request() {
                conn.answer(stream, "neighbour").await?;
            }
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for size in [9000, 100_000] {
        let (large, neighbour) = tokio::join!(call_with(&client, size), client.name());
        let status = large.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        neighbour.unwrap();
    }
    soon("the call", client.name()).await.unwrap();
    assert_eq!(peer.seen.accepted(), 1);
}

/// Where the server has no limit, large headers arrive in HEADERS and CONTINUATION.
#[tokio::test]
async fn large_request_headers_arrive() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.serve("a").await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    call_with(&client, 200_000).await.unwrap();
}

/// A call that may be why its server closes one connection after the other ends a few of them, and not all.
#[tokio::test]
async fn request_headers_that_a_server_closes_connections_for_end_few_of_them() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            let frame = conn.frame().await?;
            if frame.is(HEADERS) && frame.payload.len() > 8192 {
                conn.goaway(frame.stream.saturating_sub(2), ENHANCE_YOUR_CALM, "too large").await?;
                return conn.close().await;
            }
            while let Some(stream) = conn.next_request() {
                conn.answer(stream, "a").await?;
            }
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let status = call_with(&client, 300_000).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("the server closed the connection with"), "{status:?}");
    assert!(peer.seen.accepted() <= 6, "{} connections", peer.seen.accepted());
    soon("the next call", client.name()).await.unwrap();
}

/// What a gateway forwards of an HTTP/1 request is left out at the first attempt: h2 refuses such a request.
#[tokio::test]
async fn headers_of_an_http_1_connection_are_left_out() {
    let server = Server::start().await;
    let (_registry, builder) = channel(&[&server.address]).await;
    let attempts = Attempts::default();
    let client = Client::new(&builder.policy(attempts.clone()).connect().await.unwrap());
    let names = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
    for name in names {
        let mut request = Request::new(name.to_owned());
        request.metadata_mut().insert(name, "keep-alive".parse().unwrap());
        request.metadata_mut().insert("other", "1".parse().unwrap());
        let answer = soon("the call", client.call("Name", request)).await;
        assert!(answer.is_ok(), "{name}: {answer:?}");
    }
    assert_eq!((attempts.ended().len(), server.accepted()), (names.len(), 1));
}
