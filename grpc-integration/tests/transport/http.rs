//! Responses that are not gRPC's: of proxies, gateways and servers of other things. Statuses are mapped as gRPC's
//! http-grpc-status-mapping says.

use futures_util::future::join_all;
use tonic::{Code, Status};

use super::attempts::Attempts;
use super::raw::{Conn, DATA, END_STREAM, Peer};
use super::support::Client;
use super::{SECOND, channel, client, soon, within};

type Fields = &'static [(&'static str, &'static str)];

/// Answers each call with these headers and this body, or with headers alone.
async fn answering(status: &str, fields: Fields, body: Option<&'static str>) -> Peer {
    let status = status.to_owned();
    Peer::start(move |mut conn: Conn| {
        let status = status.clone();
        async move {
            conn.greet(&[]).await?;
            loop {
                let stream = conn.request().await?;
                let headers = [&[(":status", status.as_str())], fields].concat();
                conn.respond(stream, body.is_none(), &headers).await?;
                if let Some(body) = body {
                    conn.windows.take(stream, body.len());
                    conn.send(DATA, END_STREAM, stream, body).await?;
                }
            }
        }
    })
    .await
}

/// What the caller gets; and the next one too, over the same connection.
async fn status(status: &str, fields: Fields, body: Option<&'static str>) -> Status {
    let peer = answering(status, fields, body).await;
    let (_registry, client) = client(&[&peer.address]).await;
    let first = soon("the call", client.call("Name", within(5 * SECOND))).await.unwrap_err();
    let second = soon("the call", client.call("Name", within(5 * SECOND))).await.unwrap_err();
    assert_eq!((first.code(), first.message()), (second.code(), second.message()));
    assert_eq!(peer.seen.accepted(), 1);
    first
}

const HTML: Fields = &[("content-type", "text/html"), ("server", "nginx")];
const BAD_GATEWAY: &str =
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body></body>\r\n</html>\r\n";

/// The table of http-grpc-status-mapping, and UNKNOWN for the rest.
fn expected(status: u16) -> Code {
    match status {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// As in grpc/grpc-rust#1029, linera-io/linera-protocol#5489 and rpcpool/yellowstone-grpc#423: not INTERNAL "invalid
/// compression flag: 60".
#[tokio::test]
async fn every_http_status_has_its_code_and_is_named() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        for status in (400..600).chain(300..309) {
            let stream = conn.request().await?;
            let status = status.to_string();
            let headers = [(":status", status.as_str()), HTML[0], ("location", "https://elsewhere.test/")];
            conn.respond(stream, false, &headers).await?;
            conn.windows.take(stream, BAD_GATEWAY.len());
            conn.send(DATA, END_STREAM, stream, BAD_GATEWAY).await?;
        }
        conn.drain().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for http in (400..600).chain(300..309) {
        let status = soon("the call", client.name()).await.unwrap_err();
        assert_eq!(status.code(), expected(http), "{http}: {status:?}");
        assert!(status.message().contains(&http.to_string()), "{http}: {status:?}");
        assert!(status.message().contains("text/html"), "{http}: {status:?}");
    }
    assert_eq!(peer.seen.accepted(), 1);
}

#[tokio::test]
async fn a_proxys_page_is_quoted() {
    let status = status("502", HTML, Some(BAD_GATEWAY)).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("502 Bad Gateway"), "{status:?}");
    assert!(!status.message().contains(['\r', '\n']), "{status:?}");
}

#[tokio::test]
async fn an_http_status_without_a_body_is_mapped_too() {
    for (http, code) in
        [("503", Code::Unavailable), ("401", Code::Unauthenticated), ("404", Code::Unimplemented)]
    {
        let status = status(http, &[], None).await;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(http), "{status:?}");
    }
}

/// A body without an end, or with control characters, does neither flood nor forge the message.
#[tokio::test]
async fn a_page_is_quoted_up_to_a_bound_and_cleaned() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            let stream = conn.request().await?;
            conn.respond(stream, false, &[(":status", "503"), HTML[0]]).await?;
            let page = "\u{1b}[31m\0red\r\nX\u{7f}".as_bytes().to_vec();
            let page = [page, vec![0xff, 0xfe], b"y".repeat(60_000)].concat();
            conn.windows.take(stream, page.len());
            for piece in page.chunks(16_000) {
                conn.send(DATA, 0, stream, piece).await?;
            }
            // It never ends.
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for _ in 0..3 {
        let status = soon("the call", client.call("Name", within(5 * SECOND))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().len() < 2000 && status.message().contains("red"), "{status:?}");
        assert!(!status.message().contains(char::is_control), "{status:?}");
    }
    super::until("the rest is not wanted", || peer.seen.resets() == 3).await;
}

#[tokio::test]
async fn a_page_with_status_200_is_no_answer() {
    let status = status("200", HTML, Some("<html>Welcome to nginx!</html>")).await;
    assert!(matches!(status.code(), Code::Unknown | Code::Internal), "{status:?}");
    assert!(status.message().contains("text/html") && status.message().contains("Welcome"), "{status:?}");
}

#[tokio::test]
async fn a_response_without_a_content_type_is_no_answer() {
    let status = status("200", &[], Some("hello")).await;
    assert!(matches!(status.code(), Code::Unknown | Code::Internal), "{status:?}");
    assert!(
        status.message().contains("content-type") || status.message().contains("content type"),
        "{status:?}"
    );
}

/// As in grpc/grpc-rust#100.
#[tokio::test]
async fn all_content_types_of_grpc_are_taken() {
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
        let peer = Peer::start(move |mut conn: Conn| async move {
            conn.greet(&[]).await?;
            let stream = conn.request().await?;
            conn.respond(stream, false, &[(":status", "200"), ("content-type", content_type)]).await?;
            conn.data(stream, &super::raw::message("a")).await?;
            conn.respond(stream, true, &[("grpc-status", "0")]).await?;
            conn.drain().await
        })
        .await;
        let (_registry, client) = client(&[&peer.address]).await;
        assert_eq!(soon("the call", client.name()).await.unwrap(), "a", "{content_type}");
    }
}

/// The mapping is only for responses without `grpc-status` (envoyproxy/envoy#3619).
#[tokio::test]
async fn a_grpc_status_beside_an_http_status_counts() {
    const FIELDS: Fields =
        &[("content-type", "application/grpc"), ("grpc-status", "8"), ("grpc-message", "too%20much")];
    for http in ["200", "429", "503"] {
        let status = status(http, FIELDS, None).await;
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too much"), "{http}");
    }
}

#[tokio::test]
async fn informational_responses_come_before_the_answer() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            let stream = conn.request().await?;
            for status in ["100", "103", "103"] {
                conn.respond(stream, false, &[(":status", status), ("link", "</style.css>")]).await?;
            }
            conn.answer(stream, "a").await?;
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    for _ in 0..3 {
        assert_eq!(soon("the call", client.name()).await.unwrap(), "a");
    }
}

#[tokio::test]
async fn a_grpc_status_out_of_range_is_unknown() {
    for code in ["17", "99", "-1", "4294967296", "", "abc", "0x0"] {
        let peer = Peer::start(move |mut conn: Conn| async move {
            conn.greet(&[]).await?;
            loop {
                let stream = conn.request().await?;
                let fields =
                    [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", code)];
                conn.respond(stream, true, &[&fields[..], &[("grpc-message", "odd")]].concat()).await?;
            }
        })
        .await;
        let (_registry, client) = client(&[&peer.address]).await;
        let status = soon("the call", client.name()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unknown, "odd"), "{code:?}");
    }
}

#[tokio::test]
async fn a_grpc_message_with_broken_escapes_does_not_change_the_code() {
    let cases = [("a%20b", "a b"), ("%E2%82%AC", "€"), ("100%", ""), ("%zz", ""), ("%ff%fe", ""), ("%", "")];
    for (sent, message) in cases {
        let peer = Peer::start(move |mut conn: Conn| async move {
            conn.greet(&[]).await?;
            let stream = conn.request().await?;
            let fields = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "9")];
            conn.respond(stream, true, &[&fields[..], &[("grpc-message", sent)]].concat()).await?;
            conn.drain().await
        })
        .await;
        let (_registry, client) = client(&[&peer.address]).await;
        let status = soon("the call", client.name()).await.unwrap_err();
        // tonic, which decodes the message, has UNKNOWN for one that is no UTF-8.
        assert!(matches!(status.code(), Code::FailedPrecondition | Code::Unknown), "{sent}: {status:?}");
        assert!(message.is_empty() || status.message() == message, "{sent}: {status:?}");
    }
}

/// A response that ends without trailers: whatever the message was, the call has failed.
#[tokio::test]
async fn a_response_without_trailers_is_no_success() {
    for empty in [true, false] {
        let peer = Peer::start(move |mut conn: Conn| async move {
            conn.greet(&[]).await?;
            loop {
                let stream = conn.request().await?;
                conn.accept(stream).await?;
                let body = if empty { Vec::new() } else { super::raw::message("a") };
                conn.send(DATA, END_STREAM, stream, body).await?;
            }
        })
        .await;
        let (_registry, client) = client(&[&peer.address]).await;
        let status = soon("the call", client.name()).await.unwrap_err();
        assert!(matches!(status.code(), Code::Unknown | Code::Internal), "{status:?}");
    }
}

/// A message cut short by the end of the stream, and by a reset.
#[tokio::test]
async fn half_a_message_is_an_error() {
    for reset in [true, false] {
        let peer = Peer::start(move |mut conn: Conn| async move {
            conn.greet(&[]).await?;
            loop {
                let stream = conn.request().await?;
                conn.accept(stream).await?;
                conn.data(stream, &super::raw::message("a long message")[..9]).await?;
                if reset {
                    conn.reset(stream, 2).await?;
                } else {
                    conn.respond(stream, true, &[("grpc-status", "0")]).await?;
                }
            }
        })
        .await;
        let (_registry, client) = client(&[&peer.address]).await;
        let status = soon("the call", client.name()).await.unwrap_err();
        assert!(matches!(status.code(), Code::Unknown | Code::Internal), "{status:?}");
    }
}

/// A malformed response (RFC 9113, section 8.1.1) is an error of its stream. (Names in upper case and unknown
/// pseudo-headers are errors of the connection to h2, which finds them while it decompresses.)
#[tokio::test]
async fn a_malformed_response_harms_its_own_call_alone() {
    const NO_STATUS: Fields = &[("content-type", "application/grpc")];
    const LATE: Fields = &[("content-type", "application/grpc"), (":status", "200")];
    const TWICE: Fields = &[(":status", "200"), (":status", "200")];
    const CONNECTION: Fields = &[(":status", "200"), ("connection", "keep-alive")];
    for fields in [NO_STATUS, LATE, TWICE, CONNECTION] {
        let peer = Peer::start(move |mut conn: Conn| async move {
            conn.greet(&[]).await?;
            let streams = conn.requests(3).await?;
            conn.respond(streams[1], true, fields).await?;
            conn.answer(streams[0], "a").await?;
            conn.answer(streams[2], "a").await?;
            conn.serve("a").await
        })
        .await;
        let (_registry, client) = client(&[&peer.address]).await;
        let calls = join_all((0..3).map(|_| client.call("Name", within(5 * SECOND)))).await;
        let failed: Vec<_> = calls.into_iter().filter_map(Result::err).collect();
        assert_eq!(failed.len(), 1, "{fields:?}: {failed:?}");
        assert_ne!(failed[0].code(), Code::DeadlineExceeded, "{fields:?}: {failed:?}");
        assert_eq!(soon("the next call", Client::name(&client)).await.unwrap(), "a");
        assert_eq!(peer.seen.accepted(), 1, "{fields:?}");
    }
}

/// Its decoder fails, and drops the body as a caller does that has lost interest.
#[tokio::test]
async fn a_response_that_is_no_message_of_grpcs_is_a_failure_of_the_server() {
    const GRPC: Fields = &[("content-type", "application/grpc")];
    for (body, expected) in
        [("<html>", Code::Internal), ("\u{2}\0\0\0\0", Code::Internal), ("\0\0", Code::Unknown)]
    {
        let peer = answering("200", GRPC, Some(body)).await;
        let (_registry, builder) = channel(&[&peer.address]).await;
        let attempts = Attempts::default();
        let client = Client::new(&builder.policy(attempts.clone()).connect().await.unwrap());
        soon("the call", client.call("Name", within(5 * SECOND))).await.unwrap_err();
        assert_eq!(attempts.ended(), [expected], "{body:?}");
    }
}
