//! When a connection that was lost is made again, at which pace, and what of that is logged.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use h2::server::{Connection, SendResponse};
use hither_core::Backoff;
use hither_tonic::{Connected, Connector, Destination};
use http::{HeaderMap, Response};
use tokio::io::DuplexStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request};

use crate::support::{Client, Log, Net, Registry, Server, peers, until};
use crate::{SECOND, channel};

const MILLISECOND: Duration = Duration::from_millis(1);

type Http2 = Connection<DuplexStream, Bytes>;

/// Runs `serve` for each connection to an address of `net`; returns how many connections there were.
fn listen<F>(net: &Net, address: &str, serve: fn(Http2) -> F) -> Arc<AtomicUsize>
where
    F: Future<Output = Result<(), h2::Error>> + Send + 'static,
{
    let (mut incoming, accepted) = (net.listen(address), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Some(io) = incoming.recv().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move { serve(h2::server::handshake(io).await?).await });
        }
    });
    accepted
}

/// Answers one call with the message `a`.
fn answer(mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let headers = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut body = respond.send_response(headers, false)?;
    // A message of three bytes: field 1 of `String` is "a".
    body.send_data(Bytes::from_static(&[0, 0, 0, 0, 3, 10, 1, b'a']), false)?;
    body.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]))
}

/// Answers so many calls, then sends GOAWAY, answers what crosses it, and closes.
async fn goaway_after(calls: usize, mut connection: Http2) -> Result<(), h2::Error> {
    let mut left = calls;
    while let Some((_, respond)) = connection.accept().await.transpose()? {
        answer(respond)?;
        left = left.saturating_sub(1);
        if left == 0 {
            connection.graceful_shutdown();
        }
    }
    Ok(())
}

/// grpc/grpc-rust#2185 and grpc/grpc-java#8310: after GOAWAY calls fail, or none is sent any more.
#[tokio::test(start_paused = true)]
async fn a_server_that_ends_connections_after_so_many_calls_answers_all_of_them_and_is_no_outage() {
    let log = Log::capture();
    let net = Net::new();
    let accepted = [
        listen(&net, "a:1", |connection| goaway_after(1, connection)),
        listen(&net, "a:10", |connection| goaway_after(10, connection)),
        listen(&net, "a:100", |connection| goaway_after(100, connection)),
    ];
    for (calls, accepted) in [1, 10, 100].into_iter().zip(accepted) {
        let mut registry = Registry::new();
        registry.up(&format!("a:{calls}")).await;
        let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
        let began = Instant::now();
        for _ in 0..200 {
            assert_eq!(timeout(SECOND, client.name()).await.unwrap().unwrap(), "a");
        }
        assert!(began.elapsed() < SECOND, "without a pause: {:?}", began.elapsed());
        let accepted = accepted.load(Ordering::SeqCst);
        assert!((200 / calls / 2..=200 / calls + 1).contains(&accepted), "{accepted} connections");
    }
    assert_eq!(log.take(), [""; 0]);
}

/// Ends each connection gracefully when it is 300 ms old.
async fn short_lived(mut connection: Http2) -> Result<(), h2::Error> {
    let age = sleep(300 * MILLISECOND);
    tokio::pin!(age);
    let mut ended = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted.transpose()? {
                Some((_, respond)) => answer(respond)?,
                None => return Ok(()),
            },
            () = &mut age, if !ended => {
                ended = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// grpc/grpc-go#2663: the next connection was only made after a backoff, and calls failed until then; and
/// grpc/grpc-go#2767, with MAX_CONNECTION_AGE.
#[tokio::test(start_paused = true)]
async fn a_connection_that_has_reached_its_age_is_made_again_at_once_without_a_call_and_no_call_fails() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    let accepted = listen(&net, "a:1", short_lived);
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    sleep(30 * SECOND).await;
    let idle = accepted.load(Ordering::SeqCst);
    assert!((95..=101).contains(&idle), "{idle}");
    let client = Client::new(&channel);
    for _ in 0..500 {
        client.name().await.unwrap();
        sleep(7 * MILLISECOND).await;
    }
    assert_eq!(log.take(), [""; 0]);
}

/// The same, and answers nothing.
async fn short_lived_and_slow(mut connection: Http2) -> Result<(), h2::Error> {
    let age = sleep(300 * MILLISECOND);
    tokio::pin!(age);
    let (mut ended, mut calls) = (false, Vec::new());
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted.transpose()? {
                Some((_, respond)) => calls.push(respond),
                None => return Ok(()),
            },
            () = &mut age, if !ended => {
                ended = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// Callers that give up sooner than the server answers, or hedges that are faster, made it unreachable.
#[tokio::test(start_paused = true)]
async fn calls_that_were_given_up_show_nothing_of_a_server_that_ends_its_connections() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    let accepted = listen(&net, "a:1", short_lived_and_slow);
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    let client = Client::new(&channel);
    for call in 0..100 {
        if call % 2 == 0 {
            timeout(100 * MILLISECOND, client.name()).await.unwrap_err();
        } else {
            let mut request = Request::new(String::new());
            request.set_timeout(100 * MILLISECOND);
            assert_eq!(client.call("Name", request).await.unwrap_err().code(), Code::DeadlineExceeded);
        }
        sleep(20 * MILLISECOND).await;
    }
    let count = accepted.load(Ordering::SeqCst);
    assert!((35..=42).contains(&count), "{count}");
    assert_eq!(log.take(), [""; 0]);
}

/// With a pause before the next call, which no longer crosses the end of the connection.
#[tokio::test(start_paused = true)]
async fn a_server_that_closes_after_each_answer_answers_all_calls() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    let accepted = listen(&net, "a:1", |mut connection| async move {
        if let Some((_, respond)) = connection.accept().await.transpose()? {
            answer(respond)?;
            // Without GOAWAY.
            let _ = timeout(5 * MILLISECOND, connection.accept()).await;
        }
        Ok(())
    });
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    for calls in 1..=100 {
        client.name().await.unwrap();
        sleep(20 * MILLISECOND).await;
        assert_eq!(accepted.load(Ordering::SeqCst), calls + 1);
    }
    assert_eq!(log.take(), [""; 0]);
}

/// HAProxy does that while it is reloaded.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_ended_with_its_settings_is_made_again_at_once() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = peers::replacing(&net, "a:1");
    registry.up("a:1").await;
    let began = Instant::now();
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    Client::new(&channel).name().await.unwrap();
    assert!(began.elapsed() < SECOND / 2, "{:?}", began.elapsed());
}

/// grpc/grpc-go#954: a server that accepts and ends all connections was flooded with attempts.
#[tokio::test(start_paused = true)]
async fn a_server_that_ends_all_connections_after_settings_is_paced_and_logged_once() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    let accepted = listen(&net, "a:1", |connection| async move {
        let mut connection = connection;
        // The SETTINGS leave.
        let _ = timeout(MILLISECOND, connection.accept()).await;
        Ok(())
    });
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    sleep(SECOND / 2).await;
    let first = accepted.load(Ordering::SeqCst);
    assert_eq!((first, log.take().len()), (7, 1));
    let status = Client::new(&channel).name().await.unwrap_err();
    assert!(
        status.message().contains("last error: no answer over 6 connections; the last one: "),
        "{status}"
    );
    sleep(600 * SECOND).await;
    let attempts = accepted.load(Ordering::SeqCst);
    assert!((first + 8..first + 16).contains(&attempts), "{attempts}");
    assert_eq!(log.take(), [""; 0], "however long it lasts");

    let server = Server::on(&net, "a:1");
    sleep(200 * SECOND).await;
    assert_eq!(server.open(), 1);
    Client::new(&channel).name().await.unwrap();
    let lines = log.take();
    assert!(lines.len() == 1 && lines[0].starts_with("INFO instance reachable again"), "{lines:?}");
    // The backoff has ended with it.
    server.break_connections();
    until("there is a new connection", || server.accepted() == 2).await;
}

/// Its connections are open until a call comes, which it refuses.
#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_every_call_by_goaway_is_logged_and_paced() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    let refused = peers::going_away(&net, "a:1");
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect_lazy().unwrap());
    for _ in 0..600 {
        let _ = client.name().await;
        sleep(SECOND / 10).await;
    }
    let dials = net.dials("a:1").len();
    assert!((10..=20).contains(&dials) && refused.load(Ordering::SeqCst) <= dials, "{dials}");
    let lines = log.take();
    assert!(lines.len() == 1 && lines[0].starts_with("WARN instance unreachable; retrying"), "{lines:?}");
    // However long a connection is open before a call comes.
    for _ in 0..200 {
        let _ = client.name().await;
        sleep(3 * SECOND).await;
    }
    assert_eq!(log.take(), [""; 0]);

    let server = Server::on(&net, "a:1");
    while client.name().await.is_err() {
        sleep(SECOND).await;
    }
    sleep(2 * SECOND).await;
    let lines = log.take();
    assert!(lines.len() == 1 && lines[0].starts_with("INFO instance reachable again"), "{lines:?}");
    assert_eq!(server.accepted(), 1);
}

/// Long calls that are answered after their connection takes no new ones are no failure.
#[tokio::test(start_paused = true)]
async fn a_server_that_answers_slowly_after_goaway_is_no_outage() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    listen(&net, "a:1", |mut connection| async move {
        let mut held = Vec::new();
        let slow = sleep(300 * MILLISECOND);
        tokio::pin!(slow);
        loop {
            tokio::select! {
                accepted = connection.accept() => match accepted.transpose()? {
                    Some((_, respond)) => {
                        held.push(respond);
                        connection.graceful_shutdown();
                    }
                    None => return Ok(()),
                },
                () = &mut slow, if !held.is_empty() => held.drain(..).try_for_each(answer)?,
            }
        }
    });
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let calls = (0..100).map(|index| {
        let client = client.clone();
        async move {
            sleep(index * MILLISECOND).await;
            client.name().await
        }
    });
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap(), "a");
    }
    assert_eq!(log.take(), [""; 0]);
}

/// Which only takes one connection: `accepted` counts the others too.
#[tokio::test(start_paused = true)]
async fn further_connections_that_are_ended_at_once_are_paced() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let (mut incoming, accepted) = (net.listen("a:1"), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Some(io) = incoming.recv().await {
            let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                let mut connection = builder.max_concurrent_streams(1).handshake::<_, Bytes>(io).await?;
                let mut held = Vec::new();
                if !is_first {
                    connection.graceful_shutdown();
                }
                while let Some(call) = connection.accept().await.transpose()? {
                    held.push(call);
                }
                Ok::<_, h2::Error>(())
            });
        }
    });
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let calls = tokio::spawn({
        let client = client.clone();
        async move { join_all((0..10).map(|_| client.name())).await }
    });
    sleep(60 * SECOND).await;
    let attempts = accepted.load(Ordering::SeqCst);
    assert!((8..=20).contains(&attempts), "{attempts}");
    calls.abort();
}

/// Its first connection is made; all further attempts take a second and fail.
#[derive(Debug)]
struct OnlyOne {
    net: Net,
    attempts: Arc<AtomicUsize>,
}

#[async_trait]
impl Connector for OnlyOne {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        if self.attempts.fetch_add(1, Ordering::SeqCst) == 0 {
            return self.net.connect(destination).await;
        }
        sleep(SECOND).await;
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

#[tokio::test(start_paused = true)]
async fn no_further_connection_is_made_for_calls_whose_deadline_has_passed() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::described(&net, "a:1", |server| server.max_concurrent_streams(1));
    registry.up("a:1").await;
    let attempts = Arc::<AtomicUsize>::default();
    let connector = OnlyOne { net: net.clone(), attempts: Arc::clone(&attempts) };
    let client = Client::new(&channel(&registry, &net).connector(connector).connect().await.unwrap());
    let _held = client.stream("Stream", String::new()).await.unwrap();
    let brief = (0..100).map(|_| {
        let mut request = Request::new(String::new());
        request.set_timeout(100 * MILLISECOND);
        client.call("Name", request)
    });
    for answer in join_all(brief).await {
        answer.unwrap_err();
    }
    sleep(10 * SECOND).await;
    assert_eq!((attempts.load(Ordering::SeqCst), server.calls()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn attempts_at_a_further_connection_that_fail_are_made_with_backoff() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::described(&net, "a:1", |server| server.max_concurrent_streams(1));
    registry.up("a:1").await;
    let attempts = Arc::<AtomicUsize>::default();
    let connector = OnlyOne { net: net.clone(), attempts: Arc::clone(&attempts) };
    let client = Client::new(&channel(&registry, &net).connector(connector).connect().await.unwrap());
    let _held = client.stream("Stream", String::new()).await.unwrap();
    let waiting = tokio::spawn(async move { client.name().await });
    sleep(60 * SECOND).await;
    // Each takes a second, and the pauses grow from one to ten.
    let further = attempts.load(Ordering::SeqCst) - 1;
    assert!((7..=10).contains(&further), "{further}");
    waiting.abort();
}

#[tokio::test(start_paused = true)]
async fn no_further_connection_is_made_when_a_stream_has_become_free() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::described(&net, "a:1", |server| server.max_concurrent_streams(1));
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    for _ in 0..20 {
        let held = client.stream("Stream", String::new()).await.unwrap();
        let mut next = Box::pin(client.name());
        // It asks for a connection, and before that can be made needs none.
        assert!(next.as_mut().now_or_never().is_none());
        drop(held);
        sleep(MILLISECOND).await;
        next.await.unwrap();
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_backoff_begins_anew_when_an_instance_is_to_be_connected_to_again() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _other = Server::on(&net, "b:1");
    registry.up("a:1").await;
    registry.up("b:1").await;
    let backoff = Backoff::proportional(SECOND, 2.0, 100 * SECOND, 0.0);
    let _channel = channel(&registry, &net).backoff(backoff).connect().await.unwrap();
    let delays = || {
        let dials = net.dials("a:1");
        dials.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect::<Vec<_>>()
    };
    sleep(40 * SECOND).await;
    assert_eq!(delays(), [1, 2, 4, 8, 16]);
    registry.draining("a:1").await;
    sleep(40 * SECOND).await;
    registry.up("a:1").await;
    sleep(10 * SECOND).await;
    assert_eq!(delays()[6..], [1, 2, 4]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_has_left_and_is_back_is_connected_to_at_once() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _other = Server::on(&net, "b:1");
    registry.up("a:1").await;
    registry.up("b:1").await;
    let _channel = channel(&registry, &net).connect().await.unwrap();
    sleep(100 * SECOND).await;
    registry.leave("a:1").await;
    sleep(SECOND / 10).await;
    let (dials, now) = (net.dials("a:1").len(), Instant::now());
    registry.up("a:1").await;
    sleep(SECOND / 10).await;
    assert!(net.dials("a:1")[dials] < now + SECOND / 10);
    assert_eq!(net.dials("a:1").len(), dials + 1);
}
