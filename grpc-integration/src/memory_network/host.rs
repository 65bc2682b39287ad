//! One address of the network.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hither_core::{Address, AddressKind};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::stream::{Faults, Link, MemoryStream};

/// The first of the ports that clients have, as on most systems.
const FIRST_CLIENT_PORT: u16 = 49152;

/// One address of a [`MemoryNetwork`](crate::MemoryNetwork), and its faults: from
/// [`MemoryNetwork::host`](crate::MemoryNetwork::host) or [`MemoryServer::host`](crate::MemoryServer::host).
///
/// Every method takes effect at once, and none waits. A clone is the same address. What a channel's calls do at each of
/// these faults:
///
/// | fault | calls in flight | new calls |
/// |---|---|---|
/// | [`freeze`](Self::freeze) | wait for their deadline, or until keep-alive closes the connection | the same; then to other instances |
/// | [`ignore_connects`](Self::ignore_connects) | go on | go on over open connections; a new one fails at the channel's `connect_timeout` |
/// | [`reset_connections`](Self::reset_connections) | fail with UNAVAILABLE | over a new connection |
/// | nothing listens | | fail with UNAVAILABLE (connection refused), or to other instances |
///
/// The first two together are what a network partition looks like.
#[derive(Debug, Clone)]
pub struct MemoryHost(Arc<Host>);

#[derive(Debug)]
struct Host {
    address: Address,
    faults: watch::Sender<Faults>,
    accept: Mutex<Accept>,
    /// Each open connection has a clone.
    open: Arc<()>,
    client_port: AtomicU16,
}

/// Where opened connections go.
#[derive(Debug, Default)]
struct Accept {
    /// The number of the latest listener. The first one is 1.
    listener: u64,
    /// `None`, or a closed one, where nothing listens.
    queue: Option<UnboundedSender<MemoryStream>>,
}

impl MemoryHost {
    pub(super) fn new(address: Address) -> Self {
        Self(Arc::new(Host {
            address,
            faults: watch::Sender::default(),
            accept: Mutex::default(),
            open: Arc::default(),
            client_port: AtomicU16::new(0),
        }))
    }

    /// Returns the address.
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// Stops the server as SIGSTOP does: connections can be opened, and nothing is read from any or written to it. Its
    /// handlers go on; what they answer is sent after [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.change(|faults| faults.frozen = true);
    }

    /// Ends what [`freeze`](Self::freeze) began. Nothing is lost that clients have not given up.
    pub fn thaw(&self) {
        self.change(|faults| faults.frozen = false);
    }

    /// Leaves attempts to connect without an answer, as a host without power or a firewall does.
    pub fn ignore_connects(&self) {
        self.change(|faults| faults.ignores_connects = true);
    }

    /// Ends what [`ignore_connects`](Self::ignore_connects) began. Attempts that are still waiting are answered.
    pub fn answer_connects(&self) {
        self.change(|faults| faults.ignores_connects = false);
    }

    /// Breaks all open connections, at both ends: handlers are dropped.
    pub fn reset_connections(&self) {
        self.change(|faults| faults.resets += 1);
    }

    /// Returns how many connections are open at the server's end.
    pub fn connections(&self) -> usize {
        Arc::strong_count(&self.0.open) - 1
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        self.0.faults.send_modify(change);
    }

    /// Returns the number of a new listener, and the connections that it is to accept.
    ///
    /// # Errors
    /// [`ErrorKind::AddrInUse`].
    pub(super) fn listen(&self) -> io::Result<(u64, UnboundedReceiver<MemoryStream>)> {
        let mut accept = self.accept();
        if accept.queue.as_ref().is_some_and(|queue| !queue.is_closed()) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let (queue, incoming) = unbounded_channel();
        *accept = Accept { listener: accept.listener + 1, queue: Some(queue) };
        Ok((accept.listener, incoming))
    }

    /// Closes the listener, and breaks the connections that it has accepted.
    pub(super) fn kill(&self, listener: u64) {
        let mut accept = self.accept();
        if accept.listener == listener {
            accept.queue = None;
        }
        drop(accept);
        self.change(|faults| faults.killed = faults.killed.max(listener));
    }

    /// Opens a connection, and returns the client's end.
    ///
    /// # Errors
    /// [`ErrorKind::ConnectionRefused`] where nothing listens.
    ///
    /// # Cancellation
    /// Safe.
    pub(super) async fn connect(&self) -> io::Result<MemoryStream> {
        let refused = || io::Error::new(ErrorKind::ConnectionRefused, "connection refused");
        let mut faults = self.0.faults.subscribe();
        faults.wait_for(|faults| !faults.ignores_connects).await.map_err(|_| refused())?;
        let accept = self.accept();
        let Some(queue) = &accept.queue else { return Err(refused()) };
        let link = Link { listener: accept.listener, faults };
        let (ours, theirs) = MemoryStream::pair(&link, self.socket_addr(), self.next_client(), &self.0.open);
        queue.send(theirs).map_err(|_| refused())?;
        Ok(ours)
    }

    fn accept(&self) -> MutexGuard<'_, Accept> {
        // Each change is one assignment, so whatever panicked beside it has left it consistent.
        self.0.accept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket_addr(&self) -> Option<SocketAddr> {
        match self.0.address.kind() {
            AddressKind::Socket(address) => Some(address),
            _ => None,
        }
    }

    fn next_client(&self) -> SocketAddr {
        let port = self.0.client_port.fetch_add(1, Ordering::Relaxed);
        ([127, 0, 0, 1], FIRST_CLIENT_PORT + port % (u16::MAX - FIRST_CLIENT_PORT)).into()
    }
}
