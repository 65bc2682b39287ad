//! What a peer says reaches the caller: in the status of calls, and in the reason why no instance is ready.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::Code;

use super::raw::{CANCEL, Conn, ENHANCE_YOUR_CALM, NO_ERROR, Peer, REFUSED_STREAM, message};
use super::support::Client;
use super::{SECOND, channel, client, soon};

/// A server of something else, which greets and answers with these bytes and then waits or closes.
async fn speaking(greeting: &'static [u8], answer: &'static [u8], closes: bool) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.write_all(greeting).await?;
                if !answer.is_empty() {
                    stream.read_exact(&mut [0; 24]).await?;
                    stream.write_all(answer).await?;
                }
                if closes {
                    stream.shutdown().await?;
                }
                stream.read_to_end(&mut Vec::new()).await
            });
        }
    });
    (address, task)
}

/// Why no instance is ready: as the caller of `connect` sees it, and the caller of a method.
async fn reasons(address: &str, connect_timeout: Duration) -> [String; 2] {
    let (_registry, builder) = channel(&[address]).await;
    let channel = builder.connect_timeout(connect_timeout).connect_lazy().unwrap();
    // As soon as it is known.
    let status = soon("the call", Client::new(&channel).name()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let error = channel.wait_ready(SECOND / 100).await.unwrap_err();
    [status.message().to_owned(), error.report()]
}

async fn said(greeting: &'static [u8], answer: &'static [u8], expected: &str) {
    for closes in [true, false] {
        let (address, server) = speaking(greeting, answer, closes).await;
        for reason in reasons(&address, 60 * SECOND).await {
            assert!(reason.contains(expected), "closes: {closes}; {expected:?} is not in {reason:?}");
            assert!(!reason.contains("frame with invalid size"), "{reason:?}");
            assert!(!reason.contains(char::is_control), "{reason:?}");
        }
        server.abort();
    }
}

#[tokio::test]
async fn an_http_1_server_is_named() {
    let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    said(b"", answer, "HTTP/1.1").await;
    said(b"", b"HTTP/1.0 505 HTTP Version Not Supported\r\n\r\n", "HTTP/1.").await;
}

/// With fewer bytes than a frame's header, or more than one packet.
#[tokio::test]
async fn an_http_1_server_with_a_page_is_named() {
    const PAGE: &[u8] =
        b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Type: text/html\r\n\r\n<html>\r\n\
        <head><title>400 Bad Request</title></head>\r\n<body><h1>400 Bad Request</h1></body>\r\n</html>\r\n";
    said(b"", PAGE, "HTTP/1.1").await;
}

/// A TLS server answers plain text with an alert: record type 21.
#[tokio::test]
async fn a_tls_server_is_named() {
    // unexpected_message, record_overflow, protocol_version, and with the version of old servers.
    said(b"", &[21, 3, 3, 0, 2, 2, 10], "TLS").await;
    said(b"", &[21, 3, 1, 0, 2, 2, 22], "TLS").await;
    said(b"", &[21, 3, 0, 0, 2, 2, 70], "TLS").await;
}

/// Go's servers answer plain text on a TLS port in HTTP/1.0.
#[tokio::test]
async fn a_go_server_with_tls_is_named() {
    said(
        b"",
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
        "HTTP/1.0",
    )
    .await;
}

#[tokio::test]
async fn an_ssh_server_is_named() {
    said(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", b"", "SSH").await;
}

/// Others are quoted.
#[tokio::test]
async fn servers_of_other_protocols_are_quoted() {
    said(b"220 mail.test ESMTP Postfix\r\n", b"", "220 mail.test ESMTP").await;
    said(b"", b"-ERR unknown command 'PRI'\r\n", "-ERR unknown command").await;
    // MySQL: a length, a sequence number, and a version.
    said(b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0\xff\xf7", b"", "8.0.36").await;
    said(b"* OK IMAP4rev1 ready\r\n", b"", "IMAP4rev1").await;
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_said_to() {
    let (address, server) = speaking(b"", b"", true).await;
    for reason in reasons(&address, 60 * SECOND).await {
        assert!(reason.contains("closed"), "{reason:?}");
    }
    server.abort();
}

#[tokio::test]
async fn a_silent_server_is_said_to_be() {
    let (address, server) = speaking(b"", b"", false).await;
    for reason in reasons(&address, SECOND / 2).await {
        assert!(reason.contains("500ms"), "{reason:?}");
    }
    server.abort();
}

/// As in grpc/grpc-go#4266 and grpc/grpc#31619: the code and the text of GOAWAY are in the status of the calls that it
/// ends.
#[tokio::test]
async fn goaways_code_and_text_are_in_the_status_of_calls() {
    for (code, name, text) in [
        (ENHANCE_YOUR_CALM, "ENHANCE_YOUR_CALM", "too_many_pings"),
        (1, "PROTOCOL_ERROR", "bad frame 77"),
        (NO_ERROR, "NO_ERROR", "max_age"),
        (12, "INADEQUATE_SECURITY", ""),
    ] {
        let peer = Peer::start(move |mut conn: Conn| async move {
            conn.greet(&[]).await?;
            let stream = conn.request().await?;
            conn.goaway(stream, code, text).await?;
            conn.close().await
        })
        .await;
        let (_registry, client) = client(&[&peer.address]).await;
        let status = soon("the call", client.name()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains(name) && status.message().contains(text), "{status:?}");
        assert!(status.message().contains(&peer.address), "{status:?}");
    }
}

/// ... of streams that have begun, too.
#[tokio::test]
async fn goaways_code_and_text_are_in_the_status_of_streams() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        conn.accept(stream).await?;
        conn.data(stream, &message("first")).await?;
        conn.goaway(stream, ENHANCE_YOUR_CALM, "too_many_pings").await?;
        conn.close().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let mut stream = soon("the stream", client.stream("Stream", String::new())).await.unwrap();
    assert_eq!(soon("a message", stream.message()).await.unwrap().unwrap(), "first");
    let status = soon("the end", stream.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("ENHANCE_YOUR_CALM: too_many_pings"), "{status:?}");
}

/// ... and in the reason why none is ready, where each connection ends like that.
#[tokio::test]
async fn goaways_text_is_in_the_reason_why_none_is_ready() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.goaway(0, ENHANCE_YOUR_CALM, "come back tomorrow").await?;
        conn.close().await
    })
    .await;
    let (_registry, builder) = channel(&[&peer.address]).await;
    let channel = builder.connect_lazy().unwrap();
    let status = soon("the call", Client::new(&channel).name()).await.unwrap_err();
    assert!(status.message().contains("ENHANCE_YOUR_CALM: come back tomorrow"), "{status:?}");
}

/// A text of 16 kB with control characters is cut and cleaned.
#[tokio::test]
async fn goaways_text_is_bounded_and_cleaned() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        let text = format!("one\r\ntwo\u{1b}[31m{}", "x".repeat(16_000));
        conn.goaway(stream, ENHANCE_YOUR_CALM, &text).await?;
        conn.close().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let status = soon("the call", client.name()).await.unwrap_err();
    assert!(status.message().len() < 2000, "{} bytes", status.message().len());
    assert!(!status.message().contains(char::is_control), "{status:?}");
    assert!(status.message().contains("two"), "{status:?}");
}

#[tokio::test]
async fn a_reset_is_named_in_the_status() {
    for (code, name) in [(2, "INTERNAL_ERROR"), (CANCEL, "CANCEL"), (REFUSED_STREAM + 4, "ENHANCE_YOUR_CALM")]
    {
        let peer = Peer::start(move |mut conn: Conn| async move {
            conn.greet(&[]).await?;
            let stream = conn.request().await?;
            conn.reset(stream, code).await?;
            conn.drain().await
        })
        .await;
        let (_registry, client) = client(&[&peer.address]).await;
        let status = soon("the call", client.name()).await.unwrap_err();
        assert!(status.message().contains(name), "{status:?}");
    }
}

/// Also of one that has begun, and that then has no status of its own.
#[tokio::test]
async fn a_reset_of_a_response_is_the_status_of_its_call() {
    for (reset, name, expected) in [
        (2, "INTERNAL_ERROR", Code::Internal),
        (CANCEL, "CANCEL", Code::Cancelled),
        (ENHANCE_YOUR_CALM, "ENHANCE_YOUR_CALM", Code::ResourceExhausted),
        (12, "INADEQUATE_SECURITY", Code::PermissionDenied),
    ] {
        for messages in 0..3 {
            let peer = Peer::start(move |mut conn: Conn| async move {
                conn.greet(&[]).await?;
                let stream = conn.request().await?;
                conn.accept(stream).await?;
                for _ in 0..messages {
                    conn.data(stream, &message("a")).await?;
                }
                // What was sent before has been read.
                conn.ping_pong().await?;
                conn.reset(stream, reset).await?;
                conn.serve("neighbour").await
            })
            .await;
            let (_registry, client) = client(&[&peer.address]).await;
            let mut stream = soon("the response", client.stream("Stream", String::new())).await.unwrap();
            for _ in 0..messages {
                assert_eq!(soon("a message", stream.message()).await.unwrap().as_deref(), Some("a"));
            }
            let status = soon("the end", stream.message()).await.unwrap_err();
            assert_eq!(status.code(), expected, "{status:?}");
            let text = format!("the server reset the stream with {name} at {}", peer.address);
            assert_eq!(status.message(), text);
            assert_eq!(soon("the next call", client.name()).await.unwrap(), "neighbour");
            assert_eq!(peer.seen.accepted(), 1);
        }
    }
}

/// The end of the connection that follows is only its consequence.
#[tokio::test]
async fn calls_that_a_connection_in_goaway_loses_name_the_reason_of_goaway() {
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        conn.goaway(stream, NO_ERROR, "enough for today").await?;
        // So that GOAWAY is taken in first.
        conn.ping_pong().await?;
        conn.close().await
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let status = soon("the call", client.name()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("enough for today"), "{status:?}");
}
