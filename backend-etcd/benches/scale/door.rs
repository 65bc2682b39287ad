//! A door in front of an etcd, at which all requests are counted when they come.
//!
//! etcd's own count does not do for this: it is had by asking, and an etcd with more to do than it can answers that late,
//! after up to a second, just when a tenth of a second matters.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// It is open until it is dropped. While no server is behind it, connections are refused.
#[derive(Debug)]
pub(crate) struct Door {
    endpoint: String,
    came: Arc<Mutex<Vec<Instant>>>,
    _open: oneshot::Sender<()>,
}

impl Door {
    /// It has a thread of its own. If that gets no processor for a while, then what came meanwhile counts as if it had
    /// come at once: a peak is measured too high, and never too low.
    pub(crate) async fn open(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (endpoint, listener) = (listener.local_addr().unwrap().to_string(), listener.into_std().unwrap());
        let came = Arc::default();
        let coming = Arc::clone(&came);
        let (open, closed) = oneshot::channel::<()>();
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener, to, coming) => {}
                    _ = closed => {}
                }
            });
        });
        Self { endpoint, came, _open: open }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// When each request came since the last call.
    pub(crate) fn came(&self) -> Vec<Instant> {
        std::mem::take(&mut *self.came.lock().unwrap())
    }
}

async fn serve(listener: TcpListener, to: String, came: Arc<Mutex<Vec<Instant>>>) {
    let mut guests = JoinSet::new();
    loop {
        let (guest, _) = listener.accept().await.unwrap();
        guests.spawn(pass(guest, to.clone(), Arc::clone(&came)));
        while guests.try_join_next().is_some() {}
    }
}

async fn pass(guest: TcpStream, to: String, came: Arc<Mutex<Vec<Instant>>>) -> io::Result<()> {
    let host = TcpStream::connect(to).await?;
    guest.set_nodelay(true)?;
    host.set_nodelay(true)?;
    let (mut from_guest, mut to_guest) = guest.into_split();
    let (mut from_host, mut to_host) = host.into_split();
    let requests = async {
        let (mut frames, mut buffer) = (Frames::default(), vec![0; 16 * 1024]);
        loop {
            let length = from_guest.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            // Before etcd can have it, so that this is never behind etcd's own count.
            let (count, now) = (frames.messages(&buffer[..length]), Instant::now());
            came.lock().unwrap().extend(vec![now; count]);
            to_host.write_all(&buffer[..length]).await?;
        }
    };
    tokio::select! {
        done = requests => done,
        done = tokio::io::copy(&mut from_host, &mut to_guest) => done.map(drop),
    }
}

/// The bytes of a client in HTTP/2: frames, after a preface.
#[derive(Debug)]
struct Frames {
    /// So many bytes come before the next header.
    skip: usize,
    /// What is there of it.
    header: Vec<u8>,
}

impl Default for Frames {
    fn default() -> Self {
        Self { skip: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len(), header: Vec::new() }
    }
}

impl Frames {
    /// How many gRPC messages begin in what comes next. What is asked of etcd here fits into a frame each.
    fn messages(&mut self, mut bytes: &[u8]) -> usize {
        let mut messages = 0;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            let (header, rest) =
                bytes[skipped..].split_at((9 - self.header.len()).min(bytes.len() - skipped));
            self.header.extend(header);
            bytes = rest;
            if let &[high, middle, low, kind, ..] = self.header.as_slice()
                && self.header.len() == 9
            {
                self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
                // DATA, and not only the end of a stream.
                messages += usize::from(kind == 0 && self.skip > 0);
                self.header.clear();
            }
        }
        messages
    }
}

/// The most that came within any `window`.
pub(crate) fn peak(came: &[Instant], window: Duration) -> usize {
    let within = |(first, from): (usize, &Instant)| came[first..].partition_point(|at| *at - *from < window);
    came.iter().enumerate().map(within).max().unwrap_or(0)
}

/// The bench has no test harness: this replaces tests of the above, and runs before anything is measured.
pub(crate) fn check() {
    let begin = Instant::now();
    let peak_of = |came: &[u64]| {
        let came: Vec<_> = came.iter().map(|&at| begin + Duration::from_millis(at)).collect();
        peak(&came, Duration::from_millis(100))
    };
    assert_eq!(peak_of(&[]), 0);
    assert_eq!(peak_of(&[7, 7, 7]), 3, "at once");
    assert_eq!(peak_of(&[0, 100, 200]), 1);
    assert_eq!(peak_of(&[0, 50, 99, 149, 149, 300]), 4, "neither the first window nor the last");

    let frame = |kind: u8, length: u8| {
        [&[0, 0, length, kind, 0, 0, 0, 0, 1], vec![0; length.into()].as_slice()].concat()
    };
    let said = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 6),
        frame(1, 30),
        frame(0, 9),
        frame(0, 0),
        frame(0, 200),
    ];
    let said = said.concat();
    for pieces in 1..=said.len() {
        let mut frames = Frames::default();
        let messages: usize = said.chunks(pieces).map(|piece| frames.messages(piece)).sum();
        assert_eq!(messages, 2, "in pieces of {pieces}");
    }
}
