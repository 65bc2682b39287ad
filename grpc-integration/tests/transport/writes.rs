//! What leaves in one write, and when.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::join_all;
use hither_tonic::{Connected, Connector, Destination};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::raw::{Conn, DATA, END_STREAM, Frame, HEADERS, Peer, SETTINGS};
use super::support::{Client, Server, until};
use super::{SECOND, channel, soon, within};

/// Connects over TCP, and records what is written. A clone has the same record.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    /// The present turn, as the test counts it.
    turn: usize,
    /// What has been written in each turn since the test looked last.
    writes: Vec<(usize, Vec<u8>)>,
}

impl Recorder {
    /// The frames of each write since the last time. None is cut, or this panics.
    fn frames(&self) -> Vec<Vec<Frame>> {
        let writes = std::mem::take(&mut self.0.lock().unwrap().writes);
        let frames = |mut bytes: Vec<u8>| {
            if bytes.starts_with(b"PRI ") {
                bytes.drain(..24);
            }
            let frames: Vec<_> = std::iter::from_fn(|| Frame::take(&mut bytes)).collect();
            assert!(bytes.is_empty(), "a frame was cut");
            frames
        };
        writes.into_iter().map(|(_, bytes)| frames(bytes)).collect()
    }

    /// How many requests were in each write since the last time, of those that had any.
    fn requests(&self) -> Vec<usize> {
        let frames = self.frames();
        let requests = frames.iter().map(|frames| frames.iter().filter(|frame| frame.is(HEADERS)).count());
        requests.filter(|requests| *requests > 0).collect()
    }
}

#[async_trait]
impl Connector for Recorder {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        let io = TcpStream::connect(destination.address().to_string()).await?;
        io.set_nodelay(true)?;
        Ok(Recorded { io, record: self.clone() }.into())
    }
}

struct Recorded {
    io: TcpStream,
    record: Recorder,
}

impl Recorded {
    fn record<'a>(&self, written: &Poll<io::Result<usize>>, parts: impl Iterator<Item = &'a [u8]>) {
        if let Poll::Ready(Ok(count)) = written {
            let mut record = self.record.0.lock().unwrap();
            let turn = record.turn;
            record.writes.push((turn, parts.flatten().copied().take(*count).collect()));
        }
    }
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.record(&written, std::iter::once(buf));
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.record(&written, bufs.iter().map(|buf| &**buf));
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Lets each task that is ready run once: Tokio's own `yield_now` lets them run many times.
async fn others_run() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn recorded(address: &str) -> (super::Registry, Client, Recorder) {
    let (registry, builder) = channel(&[address]).await;
    let recorder = Recorder::default();
    let builder = builder.connector(recorder.clone()).max_connections(1).stream_window(64 * 1024);
    let client = Client::new(&builder.connect().await.unwrap());
    (registry, client, recorder)
}

/// Serves calls, but leaves `open` without an answer, as streams are that have nothing to report.
async fn serving(open: usize) -> Peer {
    Peer::start(move |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.requests(open).await?;
        conn.serve("a").await
    })
    .await
}

#[tokio::test]
async fn headers_and_body_of_a_unary_call_leave_in_one_write() {
    let server = Server::start().await;
    let (_registry, client, recorder) = recorded(&server.address).await;
    // SETTINGS and what answers those of the server have left before.
    soon("a call", client.name()).await.unwrap();
    let mut settings = 0;
    until("the server's window is known", || {
        settings += recorder.frames().concat().iter().filter(|frame| frame.is(SETTINGS)).count();
        settings >= 2
    })
    .await;
    for size in [0, 1, 100, 255, 256, 1000, 1024, 8000] {
        soon("a call", client.call("Name", "x".repeat(size))).await.unwrap();
        let write = recorder.frames().swap_remove(0);
        let kinds: Vec<_> = write.iter().map(|frame| (frame.kind, frame.has(END_STREAM))).collect();
        assert_eq!(kinds, [(HEADERS, false), (DATA, true)], "{size} bytes");
        assert!(write[1].payload.len() >= 5 + size);
    }
}

/// A stream that is open, and even one whose headers have not come, is no caller who may send now: the request is written when
/// the connection's task runs for the first time after it was queued.
#[tokio::test]
async fn a_call_beside_idle_streams_is_not_held_back() {
    let peer = serving(2).await;
    let (_registry, client, recorder) = recorded(&peer.address).await;
    let mut idle: Vec<_> = (0..2).map(|_| Box::pin(client.stream("Stream", String::new()))).collect();
    for idle in &mut idle {
        assert!(idle.as_mut().now_or_never().is_none());
    }
    until("they are open", || peer.seen.headers() == 2).await;
    let calls = 200;
    // Among the other tasks, so that these run once while it yields.
    let caller = client.clone();
    let calling = tokio::spawn(async move {
        let mut late = Vec::new();
        for number in 0..calls {
            recorder.requests();
            let mut call = Box::pin(caller.name());
            assert!(call.as_mut().now_or_never().is_none());
            others_run().await;
            if recorder.requests() != [1] {
                late.push(number);
            }
            soon("the call", call).await.unwrap();
        }
        late
    });
    let late = calling.await.unwrap();
    // It is tried now and then whether others come.
    assert!(late.len() <= calls / 16, "{late:?}");
    assert!(late.first().is_none_or(|first| *first > 10), "{late:?}");
}

/// Another call whose task runs after the connection's.
#[tokio::test]
async fn calls_that_come_one_after_the_other_leave_in_one_write() {
    let peer = serving(1).await;
    let (_registry, client, recorder) = recorded(&peer.address).await;
    let mut idle = Box::pin(client.stream("Stream", String::new()));
    assert!(idle.as_mut().now_or_never().is_none());
    until("it is open", || peer.seen.headers() == 1).await;
    let mut together = 0;
    for round in 0..100 {
        recorder.requests();
        let mut call = Box::pin(client.name());
        assert!(call.as_mut().now_or_never().is_none());
        // These are run after the connection's task.
        let others = (0..3).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.name().await.unwrap() })
        });
        let others: Vec<_> = others.collect();
        soon("the call", call).await.unwrap();
        for other in others {
            soon("another call", other).await.unwrap();
        }
        if round >= 50 {
            together += usize::from(recorder.requests() == [4]);
        }
    }
    assert!(together >= 45, "{together} of 50");
}

/// Thousands of requests that are there at once go in order, and none of the task's turns sends more than some: other tasks run
/// in between.
#[tokio::test]
async fn a_large_queue_is_sent_in_many_turns() {
    const CALLS: usize = 3000;
    let peer = Peer::start(move |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        conn.window(0, 1 << 30).await?;
        while let Ok(stream) = conn.request().await {
            conn.answer(stream, &stream.to_string()).await?;
        }
        Ok(())
    })
    .await;
    let (_registry, client, recorder) = recorded(&peer.address).await;
    client.name().await.unwrap();
    recorder.frames();
    let turns = tokio::spawn({
        let recorder = recorder.clone();
        async move {
            loop {
                recorder.0.lock().unwrap().turn += 1;
                others_run().await;
            }
        }
    });
    // All of them are queued before the connection's task runs.
    let calls = (0..CALLS).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.call("Name", within(60 * SECOND)).await })
    });
    let mut streams = Vec::new();
    for call in join_all(calls).await {
        streams.push(call.unwrap().unwrap().into_inner().parse::<u32>().unwrap());
    }
    turns.abort();
    assert!(streams.is_sorted());

    let record = std::mem::take(&mut *recorder.0.lock().unwrap());
    let (mut bytes, mut per_turn) = (Vec::new(), BTreeMap::<usize, usize>::new());
    for (turn, write) in record.writes {
        bytes.extend(write);
        let frames = std::iter::from_fn(|| Frame::take(&mut bytes));
        *per_turn.entry(turn).or_default() += frames.filter(|frame| frame.is(HEADERS)).count();
    }
    assert_eq!(per_turn.values().sum::<usize>(), CALLS);
    assert!(per_turn.values().all(|requests| *requests <= 128), "{per_turn:?}");
}
