//! A TCP proxy that has bad days.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Passes bytes to and fro, until it is told to do something worse. Dropping it closes all connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    trouble: watch::Sender<Trouble>,
    taken: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// What befalls the connections.
#[derive(Debug, Clone, Default)]
struct Trouble {
    /// Connections of earlier generations are closed.
    generation: u64,
    /// Nothing passes on the connections there are now, and they stay open.
    frozen: bool,
    /// The request that has these bytes still passes, and then the connection's answers do not.
    mute_after: Option<Vec<u8>>,
}

impl Proxy {
    /// A proxy to `127.0.0.1:port`.
    pub(crate) async fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trouble, troubles) = watch::channel(Trouble::default());
        let taken = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, to, troubles, Arc::clone(&taken)));
        Self { address, trouble, taken, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// How many connections it has taken so far.
    pub(crate) fn connections(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Closes all connections; new ones are welcome.
    pub(crate) fn cut(&self) {
        self.trouble.send_modify(|trouble| trouble.generation += 1);
    }

    /// Lets nothing through any more, on connections old and new, and closes none.
    pub(crate) fn freeze(&self) {
        self.trouble.send_modify(|trouble| trouble.frozen = true);
    }

    /// Lets the request with these bytes through, and from then on no answer: it is applied, and nobody hears of it.
    pub(crate) fn mute_after(&self, bytes: &[u8]) {
        self.trouble.send_modify(|trouble| trouble.mute_after = Some(bytes.to_vec()));
    }

    /// The same for the next request, whatever it is.
    pub(crate) fn mute_after_next(&self) {
        self.mute_after(&[]);
    }

    /// Closes all connections, and is a good proxy for new ones.
    pub(crate) fn heal(&self) {
        self.trouble.send_modify(|trouble| {
            *trouble = Trouble { generation: trouble.generation + 1, ..Trouble::default() };
        });
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
    troubles: watch::Receiver<Trouble>,
    taken: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        taken.fetch_add(1, Ordering::Relaxed);
        connections.spawn(connect(client, to.clone(), troubles.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(client: TcpStream, to: String, troubles: watch::Receiver<Trouble>) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    let generation = troubles.borrow().generation;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (muted, hears) = watch::channel(false);
    let passing = async {
        tokio::join!(
            requests(from_client, to_server, troubles.clone(), muted),
            answers(from_server, to_client, troubles.clone(), hears)
        )
    };
    let mut watching = troubles.clone();
    tokio::select! {
        _ = passing => {}
        _ = watching.wait_for(|trouble| trouble.generation != generation) => {}
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut troubles: watch::Receiver<Trouble>,
    muted: watch::Sender<bool>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let passed = &bytes[..count];
        let mute = |trouble: &Trouble| {
            trouble.mute_after.as_ref().is_some_and(|after| {
                after.is_empty() || passed.windows(after.len()).any(|window| window == after)
            })
        };
        if mute(&troubles.borrow()) {
            muted.send_replace(true);
        }
        if troubles.wait_for(|trouble| !trouble.frozen).await.is_err() || to.write_all(passed).await.is_err()
        {
            return;
        }
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut troubles: watch::Receiver<Trouble>,
    mut muted: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let goes_on = muted.wait_for(|muted| !muted).await.is_ok()
            && troubles.wait_for(|trouble| !trouble.frozen).await.is_ok();
        if !goes_on || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
