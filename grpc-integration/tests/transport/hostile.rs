//! Peers that send anything, in any order and cut anywhere: each call ends by its deadline, nothing panics, nothing is
//! left, and other instances go on.

use std::cell::Cell;
use std::io;
use std::sync::Once;
use std::time::Duration;

use fastrand::Rng;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use hither_tonic::{DiscoveryChannel, RoundRobin};
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tonic::{Request, Status};

use super::raw::{Conn, Frame, HEADERS, INITIAL_WINDOW_SIZE, Peer, SETTINGS, block, message, settings};
use super::support::{Client, Net, Registry, SERVICE, until};
use super::{SECOND, within};

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;

/// Frames as a peer might send them that is mistaken, broken or malicious.
struct Generator {
    random: Rng,
    /// Whether frames are sent that end the connection sooner or later.
    fierce: bool,
    open: Vec<u32>,
}

impl Generator {
    fn next(&mut self) -> Vec<u8> {
        if !self.fierce {
            return if self.random.bool() { self.answer() } else { self.lawful() };
        }
        match self.random.u8(..20) {
            0..6 => self.answer(),
            6..13 => self.frame(),
            13 | 14 => self.nearly(),
            15 => self.settings(),
            16 => Frame::new(self.random.u8(9..), self.random.u8(..), self.stream(), self.bytes(50)).encode(),
            17 => self.block(),
            18 => self.answer().repeat(2),
            _ => self.bytes(60),
        }
    }

    /// What may be right: the answer to a call.
    fn answer(&mut self) -> Vec<u8> {
        let stream = self.stream();
        let head = block(&[(":status", "200"), ("content-type", "application/grpc")]);
        let frames = [
            Frame::new(HEADERS, 4, stream, head),
            Frame::new(0, 0, stream, message("hostile")),
            Frame::new(HEADERS, 5, stream, block(&[("grpc-status", "0")])),
        ];
        let count = self.random.usize(1..=3);
        frames[..count].iter().flat_map(Frame::encode).collect()
    }

    /// What a peer may send at any time.
    fn lawful(&mut self) -> Vec<u8> {
        let stream = self.random.choice(&self.open).copied();
        match (self.random.u8(..7), stream) {
            (0, _) => Frame::new(
                SETTINGS,
                0,
                0,
                settings(&[(3, self.random.u32(..5)), (4, self.random.u32(..70_000))]),
            ),
            (1, _) => Frame::new(6, 0, 0, self.random.u64(..).to_be_bytes()),
            (2, _) => Frame::new(8, 0, 0, self.random.u32(1..1000).to_be_bytes()),
            (3, Some(stream)) => Frame::new(8, 0, stream, self.random.u32(1..1000).to_be_bytes()),
            (4, Some(stream)) => Frame::new(3, 0, stream, self.random.u32(..15).to_be_bytes()),
            (5, Some(stream)) => Frame::new(HEADERS, 4, stream, block(&[(":status", "103")])),
            (6, _) if self.random.u8(..8) == 0 => Frame::new(
                7,
                0,
                0,
                [self.random.u32(..20).to_be_bytes(), self.random.u32(..14).to_be_bytes()].concat(),
            ),
            _ => Frame::new(0x42, self.random.u8(..), self.random.u32(..9), self.bytes(50)),
        }
        .encode()
    }

    /// A frame whose type, flags, stream and payload need not go together.
    fn frame(&mut self) -> Vec<u8> {
        let kind = self.random.u8(..10);
        let flags = if self.random.bool() {
            self.random.u8(..)
        } else {
            self.random.choice([0, 1, 4, 5, 8]).unwrap()
        };
        let number = self.number().to_be_bytes();
        let payload = match kind {
            PRIORITY => [&number[..], &[7]].concat(),
            3 | 8 => number.to_vec(),
            PUSH_PROMISE => [&number[..], &block(&[(":status", "200")])].concat(),
            6 => self.random.u64(..).to_be_bytes().to_vec(),
            7 => [&number[..], &self.random.u32(..16).to_be_bytes(), b"because"].concat(),
            _ => self.bytes(300),
        };
        Frame::new(kind, flags, self.stream(), payload).encode()
    }

    /// A frame of an answer with one byte changed: in its length, its stream, or its payload.
    fn nearly(&mut self) -> Vec<u8> {
        let mut bytes = self.answer();
        let at = self.random.usize(..bytes.len());
        bytes[at] = self.random.u8(..);
        bytes
    }

    fn settings(&mut self) -> Vec<u8> {
        let entries: Vec<_> =
            (0..self.random.usize(..4)).map(|_| (self.random.u16(..10), self.number())).collect();
        Frame::new(SETTINGS, self.random.choice([0, 0, 0, 1]).unwrap(), 0, settings(&entries)).encode()
    }

    /// A header block that HPACK may not be able to follow.
    fn block(&mut self) -> Vec<u8> {
        let head = block(&[(":status", self.random.choice(["200", "99", "1000", ""]).unwrap())]);
        let block = [head, self.bytes(40)].concat();
        Frame::new(HEADERS, self.random.choice([0, 4, 5]).unwrap(), self.stream(), block).encode()
    }

    fn stream(&mut self) -> u32 {
        match self.random.u8(..10) {
            0 => 0,
            1 => self.random.u32(..50),
            2 => self.number(),
            _ => self.random.choice(&self.open).copied().unwrap_or(1),
        }
    }

    fn number(&mut self) -> u32 {
        let any = self.random.u32(..);
        self.random.choice([0, 1, 2, 16_384, 65_535, 0x7fff_ffff, 0x8000_0000, u32::MAX, any]).unwrap()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.random.usize(..most)).map(|_| self.random.u8(..)).collect()
    }
}

async fn hostile(mut conn: Conn, seed: u64) -> io::Result<()> {
    let mut random = Rng::with_seed(seed ^ (conn.number as u64) << 32);
    if random.u8(..8) > 0 {
        let limit = random.choice([0, 1, 100, 100, 100]).unwrap();
        conn.greet(&[(3, limit)]).await?;
    }
    let mut generator = Generator { random: random.fork(), fierce: seed.is_multiple_of(2), open: Vec::new() };
    for _ in 0..random.usize(1..40) {
        // Answers to calls that are there are more interesting than those to none.
        while let Ok(frame) = timeout(Duration::from_millis(1), conn.frame()).await {
            frame?;
        }
        generator.open = conn.open.iter().copied().collect();
        let mut bytes = generator.next();
        let piece = random.usize(1..40);
        if generator.fierce && random.u8(..10) == 0 {
            bytes.truncate(piece);
        }
        for piece in bytes.chunks(piece) {
            conn.write(piece).await?;
            if random.bool() {
                yield_now().await;
            }
        }
    }
    match random.u8(..4) {
        0 => conn.close().await,
        1 => conn.drain().await,
        2 => conn.leave(random.u32(..40)).await,
        _ => Ok(()),
    }
}

thread_local! {
    /// Panics on this thread, on which a test with one thread runs everything.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            before(panic);
        }));
    });
}

/// Sends a message several times, with pauses; half of the calls are dropped at any moment.
async fn upload(client: &Client, request: Request<String>, mut random: Rng) -> Result<(), Status> {
    let (count, pause) = (random.usize(..5), random.u64(..10));
    let request = request.map(|message| {
        stream::iter(vec![message; count]).then(move |message| async move {
            sleep(Duration::from_millis(pause)).await;
            message
        })
    });
    let call = client.upload("Name", request);
    if random.bool() {
        return call.await.map(drop);
    }
    // A call that is dropped has not failed.
    timeout(Duration::from_millis(random.u64(..60)), call).await.map_or(Ok(()), |answer| answer.map(drop))
}

async fn one(seed: u64) {
    let (mut registry, net) = (Registry::new(), Net::new());
    let hostile = Peer::within(&net, "hostile:1", move |conn: Conn| hostile(conn, seed));
    let fine = Peer::within(&net, "fine:1", |mut conn: Conn| async move {
        conn.greet(&[(INITIAL_WINDOW_SIZE, 1 << 20)]).await?;
        conn.window(0, 1 << 30).await?;
        conn.serve("fine").await
    });
    registry.up("hostile:1").await;
    registry.up("fine:1").await;
    let builder = DiscoveryChannel::builder(registry.discovery(), SERVICE)
        .connector(net.clone())
        .policy(RoundRobin::default());
    let client = Client::new(&builder.connect().await.unwrap());
    let mut random = Rng::with_seed(seed);
    for _ in 0..3 {
        let calls = (0..12).map(|number| {
            let client = client.clone();
            let random = random.fork();
            async move {
                let mut request = within(2 * SECOND);
                *request.get_mut() = "x".repeat([0, 100, 70_000][number % 3]);
                if number >= 8 {
                    return upload(&client, request, random).await;
                }
                if number % 4 > 0 {
                    return client.call("Name", request).await.map(drop);
                }
                let mut stream = client.stream("Stream", request).await?;
                while stream.message().await?.is_some() {}
                Ok::<_, Status>(())
            }
        });
        let calls = timeout(3 * SECOND, join_all(calls)).await;
        for call in calls.unwrap_or_else(|_| panic!("seed {seed}: a call did not end at its deadline")) {
            if let Err(status) = call {
                assert!(!status.message().contains("fine:1"), "seed {seed}: {status:?}");
            }
        }
    }
    registry.leave("hostile:1").await;
    sleep(SECOND / 10).await;
    for _ in 0..3 {
        let answer = client.call("Name", within(SECOND)).await;
        assert_eq!(answer.unwrap_or_else(|status| panic!("seed {seed}: {status:?}")).into_inner(), "fine");
    }
    assert_eq!(fine.seen.accepted(), 1, "seed {seed}");
    drop((client, hostile, fine));
}

async fn seeds(seeds: std::ops::Range<u64>) {
    count_panics();
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for seed in seeds {
        one(seed).await;
        until(&format!("the tasks of seed {seed} have ended"), || tasks() == before).await;
        assert_eq!(PANICS.get(), 0, "a panic at seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn hostile_peers_harm_no_other_1() {
    seeds(0..100).await;
}

#[tokio::test(start_paused = true)]
async fn hostile_peers_harm_no_other_2() {
    seeds(1000..1100).await;
}
