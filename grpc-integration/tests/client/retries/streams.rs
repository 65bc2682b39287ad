//! Streams: what is replayed, and until when.

use futures_util::{StreamExt, stream};
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::{MILLI, client, constant, exchange, first, open, policy, retrying};
use crate::SECOND;
use crate::scripted::{Fleet, Reply, Script};
use crate::support::{Client, Net, Registry};

/// grpc-go's TestRetryStreaming.
#[tokio::test(start_paused = true)]
async fn a_stream_is_replayed_until_its_response_begins() {
    use Reply::{Fail, HeadersThenFail, MessageThenFail, Name, Pushback};
    let unavailable = Err(Code::Unavailable);
    let fail = |reads| Fail(Code::Unavailable).reading(reads);
    for (about, replies, expected) in [
        ("a code that is not retryable", vec![Fail(Code::Internal).reading(1)], Err(Code::Internal)),
        ("one retry", vec![fail(1), Name.reading(2)], Ok("a:1")),
        ("at most four attempts", vec![fail(1), fail(1), fail(1), fail(1)], unavailable),
        ("several requests", vec![fail(2), MessageThenFail(Code::Aborted).reading(2)], Ok("a:1")),
        (
            "more requests each time",
            vec![fail(0), fail(1), fail(2), MessageThenFail(Code::Aborted).reading(3)],
            Ok("a:1"),
        ),
        ("nothing after headers", vec![fail(1), HeadersThenFail(Code::Unavailable).reading(1)], unavailable),
        ("a negative pushback", vec![Pushback(Code::Unavailable, "-1").reading(1)], unavailable),
        ("a pushback that is no number", vec![Pushback(Code::Unavailable, "xxx").reading(1)], unavailable),
    ] {
        let attempts = replies.len();
        let fleet = Fleet::of(1, Script::of(replies)).await;
        let client = client(&fleet, policy()).await;
        let is_complete = about == "one retry";
        let response = if is_complete {
            exchange(&client, stream::iter(["1", "2"].map(str::to_owned))).await
        } else {
            exchange(&client, open(&["1", "2", "3"])).await
        };
        assert_eq!(first(response).await, expected.map(str::to_owned), "{about}");
        let seen = fleet.script.take();
        assert_eq!(seen.len(), attempts, "{about}");
        for (number, seen) in seen.iter().enumerate() {
            let previous = (number > 0).then(|| number.to_string());
            assert_eq!(seen.previous(), previous.as_deref(), "{about}");
            assert!(seen.messages.iter().eq(["1", "2", "3"].iter().take(seen.messages.len())), "{about}");
        }
        assert_eq!(fleet.recorder.codes().len(), attempts, "{about}");
    }
}

/// The second message of a response fails: its caller has seen the first.
#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_is_not_retried() {
    let fleet = Fleet::of(2, Script::of([Reply::MessageThenFail(Code::Unavailable)])).await;
    let client = client(&fleet, policy()).await;
    let mut response = client.stream("Name", String::new()).await.unwrap();
    response.message().await.unwrap().unwrap();
    assert_eq!(response.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fleet.script.take().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_more_than_64_kib_is_sent_once() {
    let failing = Reply::Fail(Code::Unavailable);
    let fleet = Fleet::of(2, Script::of([failing.clone().reading(3), failing.reading(2)])).await;
    let client = client(&fleet, policy()).await;
    // One after the other: what is there at once is kept, whatever its size.
    let messages = |count: usize| {
        let messages = stream::iter(0..count).then(|_| async {
            sleep(MILLI).await;
            "x".repeat(30 * 1024)
        });
        messages.chain(stream::pending())
    };
    let outcome = exchange(&client, messages(3)).await;
    assert_eq!(first(outcome).await, Err(Code::Unavailable));
    assert_eq!(fleet.script.take().len(), 1, "committed by 90 KiB");

    fleet.script.push([Reply::MessageThenFail(Code::Ok).reading(2)]);
    first(exchange(&client, messages(2)).await).await.unwrap();
    assert_eq!(fleet.script.take().len(), 2, "60 KiB are replayed");

    // A unary request is complete, and needs no buffer.
    fleet.script.push([Reply::Fail(Code::Unavailable)]);
    client.call("Name", "x".repeat(1024 * 1024)).await.unwrap();
    assert_eq!(fleet.script.take().len(), 2);
}

/// What goes on being sent to an attempt that has failed would use up the buffer while the next one waits. Tonic's servers
/// end it, with a reset after their response; this one does not.
#[tokio::test(start_paused = true)]
async fn sending_stops_while_the_backoff_runs() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut incoming = net.listen("a:1");
    registry.up("a:1").await;
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(incoming.recv().await.unwrap()).await.unwrap();
        let mut held = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let response = http::Response::builder().header("content-type", "application/grpc");
            if held.is_empty() {
                let response = response.header("grpc-status", "14").body(()).unwrap();
                respond.send_response(response, true).unwrap();
                held.push(request.into_body());
                continue;
            }
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                let response = response.header("grpc-status", "11").body(()).unwrap();
                respond.send_response(response, true).unwrap();
            });
        }
    });
    let method = retrying(policy().with_backoff(constant(5 * SECOND)));
    let client = Client::new(&crate::channel(&registry, &net).method("", method).connect().await.unwrap());
    let (sender, receiver) = tokio::sync::mpsc::channel::<String>(1);
    let requests =
        stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    let call = tokio::spawn(async move { first(exchange(&client, requests).await).await });
    sleep(SECOND).await;
    let sending = async {
        for _ in 0..3 {
            sender.send("x".repeat(50 * 1024)).await.unwrap();
        }
    };
    // The first fills the channel, from which nothing is read.
    timeout(SECOND, sending).await.unwrap_err();
    drop(sender);
    assert_eq!(call.await.unwrap(), Err(Code::OutOfRange), "the answer to the second attempt");
}
