//! Calls near the peer's limit of streams, while others are cancelled.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::FutureExt;
use futures_util::future::join_all;
use hither_tonic::Sticky;
use tokio::task::yield_now;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status};

use super::attempts::Attempts;
use super::raw::{Conn, MAX_CONCURRENT_STREAMS, Peer, SETTINGS, settings};
use super::support::{Client, Net, until};
use super::{SECOND, channel, soon, within};

async fn one_connection(peer: &Peer) -> (super::Registry, Client, Attempts) {
    let (registry, builder) = channel(&[&peer.address]).await;
    let attempts = Attempts::default();
    let builder = builder.policy(attempts.clone()).max_connections(1);
    (registry, Client::new(&builder.connect().await.unwrap()), attempts)
}

/// Calls take the places of calls that are cancelled in the same turn of the connection's task, before their streams are
/// reset.
#[tokio::test]
async fn calls_in_the_places_of_cancelled_ones_pass_at_their_first_attempt() {
    for limit in 1..=3 {
        let peer = Peer::start(move |mut conn: Conn| async move {
            conn.greet(&[(MAX_CONCURRENT_STREAMS, limit)]).await?;
            loop {
                conn.requests(limit as usize).await?;
                for stream in conn.requests(limit as usize).await? {
                    conn.answer(stream, "a").await?;
                }
            }
        })
        .await;
        let (_registry, client, attempts) = one_connection(&peer).await;
        let (limit, rounds) = (limit as usize, 200);
        for round in 0..rounds {
            let mut cancelled: Vec<_> = (0..limit).map(|_| Box::pin(client.name())).collect();
            for call in &mut cancelled {
                assert!(call.as_mut().now_or_never().is_none());
            }
            until("they are open", || peer.seen.headers() == 2 * limit * round + limit).await;
            drop(cancelled);
            let calls = (0..limit).map(|_| client.call("Name", within(9 * SECOND)));
            for call in soon("the calls", join_all(calls)).await {
                call.unwrap();
            }
        }
        let ended = attempts.ended();
        let count = |code| ended.iter().filter(|ended| **ended == code).count();
        let expected = rounds * limit;
        assert_eq!((count(Code::Ok), count(Code::Cancelled)), (expected, expected), "of {}", ended.len());
        assert_eq!((ended.len(), peer.seen.accepted()), (2 * expected, 1));
    }
}

/// The same by chance, from several threads, with bodies that are streamed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_attempt_fails_while_others_are_cancelled_by_chance() {
    for limit in 1..=3 {
        let peer = Peer::start(move |mut conn: Conn| async move {
            conn.greet(&[(MAX_CONCURRENT_STREAMS, limit)]).await?;
            // Enough for all of them.
            conn.window(0, 1 << 30).await?;
            conn.serve("a").await
        })
        .await;
        let (_registry, client, attempts) = one_connection(&peer).await;
        let callers = (0..4).map(|seed| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut random = Rng::with_seed(seed);
                for _ in 0..200 {
                    let (streamed, turns) = (random.bool(), random.u8(..6));
                    let call = async {
                        if !streamed {
                            return client.call("Name", within(9 * SECOND)).await.map(drop);
                        }
                        let messages = tokio_stream::iter(vec!["x".repeat(300); 3]);
                        let mut request = Request::new(messages);
                        request.set_timeout(9 * SECOND);
                        client.upload("Name", request).await.map(drop)
                    };
                    if random.bool() {
                        let turns = async {
                            for _ in 0..turns {
                                yield_now().await;
                            }
                        };
                        tokio::select! {
                            answer = call => answer.unwrap(),
                            () = turns => {}
                        }
                    } else {
                        let answer = timeout(Duration::from_secs(8), call).await;
                        answer.unwrap_or_else(|_| panic!("a call hangs at a limit of {limit}")).unwrap();
                    }
                }
            })
        });
        for caller in join_all(callers).await {
            caller.unwrap();
        }
        let ended = attempts.ended();
        assert!(ended.iter().all(|code| matches!(code, Code::Ok | Code::Cancelled)), "{limit}: {ended:?}");
        assert_eq!(peer.seen.accepted(), 1);
    }
}

type Call = Pin<Box<dyn Future<Output = Result<Response<String>, Status>> + Send>>;

/// The limit falls while calls take the places of cancelled ones: what h2 has not taken finds a place elsewhere.
#[tokio::test(start_paused = true)]
async fn calls_for_which_there_is_no_place_any_more_go_to_another_instance() {
    const LIMIT: usize = 3;
    let net = Net::new();
    let (lower, lowered) = tokio::sync::mpsc::unbounded_channel::<Box<dyn FnOnce() + Send>>();
    let lowered = Arc::new(tokio::sync::Mutex::new(lowered));
    let falling = Peer::within(&net, "a:1", move |mut conn: Conn| {
        let lowered = Arc::clone(&lowered);
        async move {
            conn.greet(&[(MAX_CONCURRENT_STREAMS, LIMIT as u32)]).await?;
            conn.requests(LIMIT).await?;
            let then = lowered.lock().await.recv().await.unwrap();
            conn.send(SETTINGS, 0, 0, settings(&[(MAX_CONCURRENT_STREAMS, 0)])).await?;
            // Before the connection's task has read it.
            then();
            conn.answer_settings().await
        }
    });
    let _other = Peer::within(&net, "b:1", |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.serve("b").await
    });
    let (_registry, builder) = super::keepalive::channel_within(&net, &["a:1", "b:1"]).await;
    let builder = builder.policy(Sticky::default()).max_connections(1);
    let client = Client::new(&builder.connect().await.unwrap());
    let calls = move || -> Vec<Call> {
        let call = |_| -> Call {
            let client = client.clone();
            Box::pin(async move { client.call("Name", within(5 * SECOND)).await })
        };
        let mut calls: Vec<_> = (0..LIMIT).map(call).collect();
        for call in &mut calls {
            assert!(call.as_mut().now_or_never().is_none());
        }
        calls
    };
    let cancelled = calls();
    until("they are open", || falling.seen.headers() == LIMIT).await;
    let (begun, take) = tokio::sync::oneshot::channel();
    let then = move || {
        drop(cancelled);
        begun.send(calls()).ok().unwrap();
    };
    lower.send(Box::new(then)).ok().unwrap();
    let answers = join_all(take.await.unwrap()).await;
    let elsewhere = answers.iter().flatten().filter(|answer| answer.get_ref() == "b").count();
    assert_eq!(elsewhere, LIMIT - 1, "{answers:?}");
}
