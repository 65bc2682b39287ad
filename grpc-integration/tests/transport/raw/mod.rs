//! Peers made by hand, frame by frame: they do what no server does on demand.

mod conn;
mod windows;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::panicking;

use hither_tonic::BoxedIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::support::Net;

pub(crate) use conn::{Conn, Script};
pub(crate) use wire::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    block, message, settings,
};

/// Error codes (RFC 9113, section 7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
/// The last stream id of the first GOAWAY of a graceful shutdown.
pub(crate) const MAX_STREAM: u32 = 0x7fff_ffff;
/// SETTINGS.
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;

/// A listener whose connections follow a script, each in a task. Dropping it ends them all, and panics if a script has
/// panicked.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: String,
    pub(crate) seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

/// What a peer has seen, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    accepted: AtomicUsize,
    open: AtomicUsize,
    headers: AtomicUsize,
    resets: AtomicUsize,
    pings: AtomicUsize,
    answered: AtomicUsize,
    data: AtomicUsize,
    panicked: AtomicBool,
}

impl Seen {
    /// Connections that there ever were.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Connections whose script has not ended.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Requests whose HEADERS have arrived.
    pub(crate) fn headers(&self) -> usize {
        self.headers.load(Ordering::SeqCst)
    }

    /// RST_STREAM frames.
    pub(crate) fn resets(&self) -> usize {
        self.resets.load(Ordering::SeqCst)
    }

    /// PING frames that are no acknowledgements.
    pub(crate) fn pings(&self) -> usize {
        self.pings.load(Ordering::SeqCst)
    }

    /// Calls that were answered.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    /// Bytes of DATA, without padding.
    pub(crate) fn data(&self) -> usize {
        self.data.load(Ordering::SeqCst)
    }
}

impl Peer {
    /// A peer on a free port of this machine.
    pub(crate) async fn start<S: Script>(script: S) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    /// A peer on a free port of this machine, whose connections end with RST where they are dropped.
    pub(crate) async fn abrupt<S: Script>(script: S) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Connections that are accepted inherit it.
        socket2::SockRef::from(&listener).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        Self::on(listener, script)
    }

    /// A peer that listens already.
    pub(crate) fn on<S: Script>(listener: TcpListener, script: S) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::<Seen>::default();
        let counts = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                run(&mut running, &script, Box::new(stream), &counts);
            }
        });
        Self { address, seen, accepting }
    }

    /// A peer at an address of `net`, for tests with paused time.
    pub(crate) fn within<S: Script>(net: &Net, address: &str, script: S) -> Self {
        let mut incoming = net.listen(address);
        let seen = Arc::<Seen>::default();
        let counts = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            while let Some(io) = incoming.recv().await {
                run(&mut running, &script, Box::new(io), &counts);
            }
        });
        Self { address: address.to_owned(), seen, accepting }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
        let panicked = self.seen.panicked.load(Ordering::SeqCst);
        assert!(!panicked || panicking(), "a script of {} panicked", self.address);
    }
}

/// A script that runs.
struct Running(Arc<Seen>);

impl Running {
    fn begin(seen: &Arc<Seen>) -> Self {
        seen.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if panicking() {
            self.0.panicked.store(true, Ordering::SeqCst);
        }
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn run<S: Script>(running: &mut tokio::task::JoinSet<()>, script: &S, io: BoxedIo, seen: &Arc<Seen>) {
    let number = seen.accepted.fetch_add(1, Ordering::SeqCst);
    let guard = Running::begin(seen);
    let script = script.run(Conn::new(io, number, Arc::clone(seen)));
    running.spawn(async move {
        let _guard = guard;
        // The script ends with an error when the client closes the connection: most do not mind.
        let _ = script.await;
    });
    while running.try_join_next().is_some() {}
}
