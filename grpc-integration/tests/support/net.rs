//! A network without sockets, so that time can be paused in tests.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hither_core::Address;
use hither_tonic::{Connected, Connector, Destination};
use tokio::io::DuplexStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

/// Addresses and their listeners. A clone is the same network.
#[derive(Debug, Clone, Default)]
pub(crate) struct Net(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    listening: BTreeMap<Address, UnboundedSender<DuplexStream>>,
    dials: Vec<(Address, Instant)>,
}

impl Net {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Listens on an address, until what it returns is dropped.
    pub(crate) fn listen(&self, address: &str) -> UnboundedReceiver<DuplexStream> {
        let (accept, incoming) = unbounded_channel();
        self.0.lock().unwrap().listening.insert(address.parse().unwrap(), accept);
        incoming
    }

    /// Listens on many addresses at once.
    pub(crate) fn listen_on_all(
        &self,
        addresses: impl IntoIterator<Item = Address>,
    ) -> UnboundedReceiver<DuplexStream> {
        let (accept, incoming) = unbounded_channel();
        let listening = addresses.into_iter().map(|address| (address, accept.clone()));
        self.0.lock().unwrap().listening.extend(listening);
        incoming
    }

    /// The addresses in the order in which they were dialled, each as often as it was.
    pub(crate) fn dialled(&self) -> Vec<String> {
        self.0.lock().unwrap().dials.iter().map(|(address, _)| address.to_string()).collect()
    }

    /// When the address was dialled.
    pub(crate) fn dials(&self, address: &str) -> Vec<Instant> {
        let address: Address = address.parse().unwrap();
        self.0
            .lock()
            .unwrap()
            .dials
            .iter()
            .filter(|(dialled, _)| *dialled == address)
            .map(|(_, at)| *at)
            .collect()
    }
}

#[async_trait]
impl Connector for Net {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        let address = destination.address();
        let mut net = self.0.lock().unwrap();
        net.dials.push((address.clone(), Instant::now()));
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        match net.listening.get(address).map(|accept| accept.send(theirs)) {
            Some(Ok(())) => Ok(ours.into()),
            _ => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused")),
        }
    }
}
