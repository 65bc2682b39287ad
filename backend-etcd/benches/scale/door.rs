//! A proxy in front of an etcd that counts requests as they arrive.
//!
//! etcd's own metric does not do for this: it must be polled, and an overloaded etcd answers that up to a second late, just
//! when a tenth of a second matters.

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

use crate::support::frame::{Frames, Piece};

/// It accepts connections until it is dropped. While no server is behind it, it closes them.
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
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        connections.spawn(pass(client, to.clone(), Arc::clone(&came)));
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(client: TcpStream, to: String, came: Arc<Mutex<Vec<Instant>>>) -> io::Result<()> {
    let server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let (mut frames, mut buffer) = (Frames::of_client(), vec![0; 16 * 1024]);
        loop {
            let length = from_client.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            // Before etcd can have it, so that this is never behind etcd's own count.
            let (count, now) = (messages(&mut frames, &buffer[..length]), Instant::now());
            came.lock().unwrap().extend(vec![now; count]);
            to_server.write_all(&buffer[..length]).await?;
        }
    };
    tokio::select! {
        done = requests => done,
        done = tokio::io::copy(&mut from_server, &mut to_client) => done.map(drop),
    }
}

/// How many gRPC messages begin in the next bytes of a client. Each of the requests here fits into one frame.
fn messages(frames: &mut Frames, mut bytes: &[u8]) -> usize {
    let mut messages = 0;
    while let Some(piece) = frames.next(&mut bytes) {
        // DATA, and not only the end of a stream.
        messages +=
            usize::from(matches!(piece, Piece::Header(header) if header.is_data() && header.length() > 0));
    }
    messages
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
    let sent = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 6),
        frame(1, 30),
        frame(0, 9),
        frame(0, 0),
        frame(0, 200),
    ];
    let sent = sent.concat();
    for pieces in 1..=sent.len() {
        let mut frames = Frames::of_client();
        let messages: usize = sent.chunks(pieces).map(|piece| messages(&mut frames, piece)).sum();
        assert_eq!(messages, 2, "in pieces of {pieces}");
    }
}
