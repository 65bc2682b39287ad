//! A TCP proxy that injects faults.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::port::Port;
use super::streams::Streams;

/// Passes bytes in both directions, until a fault is injected. Dropping it closes all connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: Port,
    faults: watch::Sender<Faults>,
    taken: Arc<AtomicUsize>,
    open: Arc<()>,
    task: JoinHandle<()>,
}

/// The faults of the connections, which are numbered as they are accepted.
#[derive(Debug, Clone, Default)]
struct Faults {
    /// Those before this one are closed.
    cut: usize,
    /// Nothing passes on these, and they stay open.
    frozen: Frozen,
    /// Nor on those that began with this in their first bytes.
    frozen_with: Option<Vec<u8>>,
    /// No new connection is accepted.
    refuses: bool,
    /// How late everything comes.
    delay: Duration,
    /// The request that has these bytes still passes, and then the connection's answers do not.
    mute_after: Option<Vec<u8>>,
    /// The server's bytes on connections that began with the first are dropped, and the second is sent in their place every
    /// second.
    starved: Option<(Vec<u8>, Vec<u8>)>,
    /// The data of the server on the HTTP/2 streams that are open by now is dropped.
    drops_data: bool,
}

#[derive(Debug, Clone, Copy, Default)]
enum Frozen {
    #[default]
    None,
    Before(usize),
    From(usize),
    All,
}

/// The first bytes of a connection, once there are any.
type Began = OnceLock<Vec<u8>>;

impl Faults {
    /// The bytes in place of the server's.
    fn instead(&self, began: &Began) -> Option<&Vec<u8>> {
        self.starved.as_ref().filter(|(with, _)| contains(began, with)).map(|(_, instead)| instead)
    }

    fn freezes(&self, number: usize, began: &Began) -> bool {
        if self.frozen_with.as_ref().is_some_and(|with| contains(began, with)) {
            return true;
        }
        match self.frozen {
            Frozen::None => false,
            Frozen::Before(first) => number < first,
            Frozen::From(first) => number >= first,
            Frozen::All => true,
        }
    }
}

fn contains(began: &Began, with: &[u8]) -> bool {
    began.get().is_some_and(|began| began.windows(with.len()).any(|window| window == with))
}

impl Proxy {
    /// A proxy to `host:port`.
    pub(crate) async fn start(to: String) -> Self {
        let port = Port::new();
        let listener = TcpListener::bind(port.endpoint()).await.unwrap();
        let (faults, changes) = watch::channel(Faults::default());
        let taken = Arc::new(AtomicUsize::new(0));
        let open = Arc::new(());
        let task = tokio::spawn(accept(listener, to, changes, Arc::clone(&taken), Arc::clone(&open)));
        Self { port, faults, taken, open, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.port.endpoint()
    }

    /// How many connections it has taken so far.
    pub(crate) fn connections(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many connections neither side has closed.
    pub(crate) fn open_connections(&self) -> usize {
        // One is ours, and one the accepting task's.
        Arc::strong_count(&self.open).saturating_sub(2)
    }

    /// Closes all connections; new ones work.
    pub(crate) fn cut(&self) {
        let cut = self.connections();
        self.faults.send_modify(|faults| faults.cut = cut);
    }

    /// Lets nothing through any more, on connections old and new, and closes none.
    pub(crate) fn freeze(&self) {
        self.faults.send_modify(|faults| faults.frozen = Frozen::All);
    }

    /// Lets nothing through on the connections there are; new ones work. As a NAT that lost its state.
    pub(crate) fn freeze_old(&self) {
        let first = self.connections();
        self.faults.send_modify(|faults| faults.frozen = Frozen::Before(first));
    }

    /// Lets nothing through on new connections, which are taken; the old ones go on.
    pub(crate) fn freeze_new(&self) {
        let first = self.connections();
        self.faults.send_modify(|faults| faults.frozen = Frozen::From(first));
    }

    /// Lets nothing through on connections, old and new, that began with a request that has these bytes.
    pub(crate) fn freeze_with(&self, bytes: &[u8]) {
        self.faults.send_modify(|faults| faults.frozen_with = Some(bytes.to_vec()));
    }

    /// Sends `instead` in place of the server's bytes, every second, on connections, old and new, that began with a request that
    /// has these bytes.
    pub(crate) fn starve_with(&self, bytes: &[u8], instead: &[u8]) {
        self.faults.send_modify(|faults| faults.starved = Some((bytes.to_vec(), instead.to_vec())));
    }

    /// Takes no new connections; the old ones go on.
    pub(crate) fn refuse_new(&self) {
        self.faults.send_modify(|faults| faults.refuses = true);
    }

    /// Lets everything through, but so much later, each way.
    pub(crate) fn delay(&self, delay: Duration) {
        self.faults.send_modify(|faults| faults.delay = delay);
    }

    /// Lets the request with these bytes through, and from then on no response: it is applied, and its response is lost.
    pub(crate) fn mute_after(&self, bytes: &[u8]) {
        self.faults.send_modify(|faults| faults.mute_after = Some(bytes.to_vec()));
    }

    /// The same for the next request, whatever it is.
    pub(crate) fn mute_after_next(&self) {
        self.mute_after(&[]);
    }

    /// Drops the data of the server on the open HTTP/2 streams, while their connections work and take new streams: as a
    /// watch that a member has forgotten.
    pub(crate) fn drop_stream_data(&self) {
        self.faults.send_modify(|faults| faults.drops_data = true);
    }

    /// Lets everything pass again, also what had to wait.
    pub(crate) fn thaw(&self) {
        self.faults.send_modify(|faults| *faults = Faults { cut: faults.cut, ..Faults::default() });
    }

    /// Closes all connections, and ends the faults for new ones.
    pub(crate) fn heal(&self) {
        let cut = self.connections();
        self.faults.send_modify(|faults| *faults = Faults { cut, ..Faults::default() });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    to: String,
    mut changes: watch::Receiver<Faults>,
    taken: Arc<AtomicUsize>,
    open: Arc<()>,
) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        if changes.borrow_and_update().refuses {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
        }
        let client = tokio::select! {
            client = next(listener.as_ref()) => client,
            changed = changes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let number = taken.fetch_add(1, Ordering::Relaxed);
        let (to, changes, open) = (to.clone(), changes.clone(), Arc::clone(&open));
        connections.spawn(async move {
            connect(number, client, to, changes).await;
            drop(open);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn next(listener: Option<&TcpListener>) -> TcpStream {
    if let Some(listener) = listener
        && let Ok((client, _)) = listener.accept().await
    {
        return client;
    }
    std::future::pending().await
}

async fn connect(number: usize, client: TcpStream, to: String, mut changes: watch::Receiver<Faults>) {
    let began = Began::new();
    if changes.wait_for(|faults| !faults.freezes(number, &began)).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else { return };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (muted, is_muted) = watch::channel(false);
    let passing = async {
        // A peer that has closed its side is gone, and the other side is closed too.
        tokio::select! {
            () = requests((number, &began), from_client, to_server, changes.clone(), muted) => {}
            () = answers((number, &began), from_server, to_client, changes.clone(), is_muted) => {}
        }
    };
    let mut watching = changes.clone();
    tokio::select! {
        () = passing => {}
        _ = watching.wait_for(|faults| number < faults.cut) => {}
    }
}

async fn requests(
    (number, began): (usize, &Began),
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut changes: watch::Receiver<Faults>,
    muted: watch::Sender<bool>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let passed = &bytes[..count];
        began.get_or_init(|| passed.to_vec());
        let mute = |faults: &Faults| {
            faults.mute_after.as_ref().is_some_and(|after| {
                after.is_empty() || passed.windows(after.len()).any(|window| window == after)
            })
        };
        if mute(&changes.borrow()) {
            muted.send_replace(true);
        }
        if !passes((number, began), &mut changes).await || to.write_all(passed).await.is_err() {
            return;
        }
    }
}

async fn answers(
    (number, began): (usize, &Began),
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut changes: watch::Receiver<Faults>,
    mut muted: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 64 << 10];
    let mut streams = Streams::default();
    loop {
        let instead = changes.borrow_and_update().instead(began).cloned();
        let read = tokio::select! {
            read = from.read(&mut bytes), if instead.is_none() => read,
            () = sleep(Duration::from_secs(1)), if instead.is_some() => {
                if to.write_all(&instead.unwrap_or_default()).await.is_err() {
                    return;
                }
                continue;
            }
            changed = changes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Ok(count @ 1..) = read else { return };
        let goes_on =
            muted.wait_for(|muted| !muted).await.is_ok() && passes((number, began), &mut changes).await;
        let is_http2 = began.get().is_some_and(|began| began.starts_with(b"PRI * HTTP/2.0"));
        let passed = match is_http2 {
            true => &streams.pass(&bytes[..count], changes.borrow().drops_data),
            false => &bytes[..count],
        };
        if !goes_on || to.write_all(passed).await.is_err() {
            return;
        }
    }
}

/// Waits until bytes may pass; false when the proxy is gone.
async fn passes((number, began): (usize, &Began), changes: &mut watch::Receiver<Faults>) -> bool {
    let delay = changes.borrow().delay;
    sleep(delay).await;
    changes.wait_for(|faults| !faults.freezes(number, began)).await.is_ok()
}
