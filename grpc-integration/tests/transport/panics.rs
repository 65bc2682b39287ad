//! Panics in a caller's code: they end the caller's call, and nothing else notices.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::{FutureExt, Stream};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use super::support::{Client, Server, path, until};
use super::{SECOND, client, soon, within};

/// When a request stream panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    FirstPoll,
    SecondPoll,
    /// After the first message was sent.
    Later,
    Drop,
}

const MOMENTS: [At; 4] = [At::FirstPoll, At::SecondPoll, At::Later, At::Drop];

struct Panicking {
    at: At,
    polls: AtomicUsize,
}

impl Stream for Panicking {
    type Item = String;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<String>> {
        match (self.at, self.polls.fetch_add(1, Ordering::SeqCst)) {
            (At::FirstPoll, 0) | (At::SecondPoll, 1) => panic!("a bug of the caller's"),
            (At::Later, 1..3) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (At::Later, 3) => panic!("a bug of the caller's"),
            (At::Drop, 1) => Poll::Ready(None),
            _ => Poll::Ready(Some("message".to_owned())),
        }
    }
}

impl Drop for Panicking {
    fn drop(&mut self) {
        if self.at == At::Drop {
            panic!("a bug of the caller's, in drop");
        }
    }
}

/// Makes a call with a request stream that panics. The panic may reach the caller, whose it is, or end the call.
async fn panicking(client: &Client, at: At) -> Option<Status> {
    let mut grpc = client.grpc.clone();
    let call = async move {
        let messages = Request::new(Panicking { at, polls: AtomicUsize::new(0) });
        grpc.client_streaming::<_, String, String, _>(messages, path("Length"), ProstCodec::default()).await
    };
    match soon("the call", AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(_)) | Err(_) => None,
        Ok(Err(status)) => Some(status),
    }
}

/// As in grpc/grpc-rust's transport, whose connection task runs the callers' code; hyperium/hyper#3714.
#[tokio::test]
async fn a_panic_in_a_request_stream_ends_its_call_alone() {
    for at in MOMENTS {
        let server = Server::start().await;
        let (_registry, client) = client(&[&server.address]).await;
        let neighbours: Vec<_> = (0..5)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.call("Hold", within(5 * SECOND)).await })
            })
            .collect();
        until("the neighbours are there", || server.calls() == 5).await;
        if let Some(status) = panicking(&client, at).await {
            assert_eq!(status.code(), Code::Internal, "{at:?}: {status:?}");
        } else {
            assert!(at == At::Drop, "{at:?} is told to the caller");
        }
        for _ in 0..5 {
            soon("the next call", client.name()).await.unwrap_or_else(|status| panic!("{at:?}: {status:?}"));
        }
        server.open_gate();
        for neighbour in neighbours {
            neighbour.await.unwrap().unwrap_or_else(|status| panic!("{at:?}: {status:?}"));
        }
        assert_eq!((server.accepted(), server.open()), (1, 1), "{at:?}");
    }
}

/// The stream is reset, and not ended as if the request were complete.
#[tokio::test]
async fn the_server_sees_a_panic_as_a_reset() {
    use super::raw::{Conn, END_STREAM, Peer, RST_STREAM};
    let peer = Peer::start(|mut conn: Conn| async move {
        conn.greet(&[]).await?;
        loop {
            let frame = conn.frame().await?;
            assert!(!frame.has(END_STREAM) || frame.is(RST_STREAM), "{frame:?}");
        }
    })
    .await;
    let (_registry, client) = client(&[&peer.address]).await;
    let status = panicking(&client, At::Later).await.unwrap();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    until("the stream is reset", || peer.seen.resets() == 1).await;
    assert_eq!((peer.seen.headers(), peer.seen.open()), (1, 1));
}

#[tokio::test]
async fn after_a_panic_a_restarted_server_is_connected_to() {
    let mut server = Server::start().await;
    let address = server.address.clone();
    let (_registry, client) = client(&[&address]).await;
    for at in MOMENTS {
        panicking(&client, at).await;
    }
    server.stop();
    soon("its end", server.ended()).await;
    drop(server);
    let listener = soon("the port", async {
        loop {
            match tokio::net::TcpListener::bind(&address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    let _peer = super::raw::Peer::on(listener, |mut conn: super::raw::Conn| async move {
        conn.greet(&[]).await?;
        conn.serve("restarted").await
    });
    let mut request = within(8 * SECOND);
    request.extensions_mut().insert(hither_tonic::WaitForReady(true));
    assert_eq!(client.call("Name", request).await.unwrap().into_inner(), "restarted");
}

#[tokio::test]
async fn a_response_that_is_dropped_in_the_middle_ends_alone() {
    let server = Server::start().await;
    let (_registry, client) = client(&[&server.address]).await;
    let neighbour = client.stream("Stream", String::new()).await.unwrap();
    for read in 0..3 {
        let mut stream = client.stream("Ticks", String::new()).await.unwrap();
        for _ in 0..read {
            soon("a tick", stream.message()).await.unwrap().unwrap();
        }
        drop(stream);
        soon("the call", client.name()).await.unwrap();
    }
    server.open_gate();
    let mut neighbour = neighbour;
    while let Some(_text) = soon("the end", neighbour.message()).await.unwrap() {}
    assert_eq!((server.accepted(), server.open()), (1, 1));
}

/// A codec that panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Encoder,
    Decoder,
}

impl Codec for Broken {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Broken {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, item: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        assert!(*self != Self::Encoder, "a bug of the codec's");
        ProstCodec::<String, String>::default().encoder().encode(item, buffer)
    }
}

impl Decoder for Broken {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, _buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        panic!("a bug of the codec's");
    }
}

#[tokio::test]
async fn a_codec_that_panics_harms_its_own_call_alone() {
    let server = Server::start().await;
    let (_registry, client) = client(&[&server.address]).await;
    for codec in [Broken::Encoder, Broken::Decoder] {
        let neighbour = client.stream("Stream", String::new()).await.unwrap();
        let mut grpc = client.grpc.clone();
        let call = async move { grpc.unary(Request::new("request".to_owned()), path("Name"), codec).await };
        let outcome = soon("the call", AssertUnwindSafe(call).catch_unwind()).await;
        let failed = match &outcome {
            Err(_) => true,
            Ok(response) => response.as_ref().map(Response::get_ref).is_err(),
        };
        assert!(failed, "{codec:?}");
        soon("the call", client.name()).await.unwrap();
        drop(neighbour);
    }
    assert_eq!((server.accepted(), server.open()), (1, 1));
}

/// A caller that panics while it waits, or with a response in its hands.
#[tokio::test]
async fn a_caller_that_panics_takes_its_call_with_it() {
    let server = Server::start().await;
    let (_registry, client) = client(&[&server.address]).await;
    for _ in 0..10 {
        let client = client.clone();
        let caller = tokio::spawn(async move {
            let _stream = client.stream("Stream", String::new()).await.unwrap();
            panic!("a bug of the caller's");
        });
        caller.await.unwrap_err();
    }
    soon("the call", client.name()).await.unwrap();
    assert_eq!((server.accepted(), server.open()), (1, 1));
}
