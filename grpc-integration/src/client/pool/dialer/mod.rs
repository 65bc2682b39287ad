//! One attempt to connect to an instance, over all of its addresses.

mod candidates;
mod failures;
mod lookup;
mod race;

use std::sync::Arc;
use std::time::Duration;

use hither_core::Instance;
use hither_core::contain::{Contained, contain};
use tokio::time::timeout;
use tracing::Instrument;

use crate::client::capacity::InstanceCapacity;
use crate::client::connector::{Connector, Destination};
use crate::client::transport::{Connection, TransportConfig};
use candidates::{Candidate, Candidates};
use lookup::{NameLookup, SystemLookup};
use race::race;

/// Connects to instances.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    connector: Arc<dyn Connector>,
    names: Arc<dyn NameLookup>,
    /// How long resolving one name may take, and connecting to one address.
    timeout: Duration,
    transport: TransportConfig,
}

impl Dialer {
    pub(crate) fn new(connector: Arc<dyn Connector>, timeout: Duration, transport: TransportConfig) -> Self {
        Self { connector, names: Arc::new(SystemLookup::default()), timeout, transport }
    }

    /// Returns the dialer for another instance.
    pub(super) fn fork(&self, capacity: &Arc<InstanceCapacity>) -> Self {
        Self { transport: self.transport.fork(capacity), ..self.clone() }
    }

    /// Connects to the first address that answers with HTTP/2 SETTINGS: Happy Eyeballs (RFC 8305, gRFC A61) over the
    /// addresses of the instance and those that its host names resolve to now.
    ///
    /// # Errors
    /// What failed at which address, such as `connection refused at 10.0.0.7:8001`, when all addresses have failed.
    ///
    /// # Cancellation
    /// Cancels all attempts.
    pub(super) async fn dial(&self, instance: &Instance) -> Result<Connection, String> {
        let wants_resolved = contain(|| self.connector.wants_resolved()).map_err(|panic| panicked(&panic))?;
        let names = wants_resolved.then_some(&*self.names);
        let candidates = Candidates::of(instance, names, self.timeout);
        let connected = race(candidates, |candidate| self.attempt(instance, candidate)).await;
        connected.map_err(|failures| failures.to_string())
    }

    async fn attempt(&self, instance: &Instance, candidate: Candidate) -> Result<Connection, String> {
        let span = tracing::debug_span!("connection", address = %candidate);
        let mut destination = Destination::new(instance, &candidate.address);
        if let Some(socket_addr) = candidate.socket_addr {
            destination = destination.with_socket_addr(socket_addr);
        }
        let open = Connection::open(&*self.connector, destination, &self.transport).instrument(span);
        // A connector is the program's own code: an attempt may panic, and the next one is made all the same.
        match timeout(self.timeout, Contained::new(open)).await {
            Ok(Ok(Ok(connection))) => Ok(connection),
            Ok(Err(panic)) => Err(format!("{} at {candidate}", panicked(&panic))),
            Ok(Ok(Err(error))) => Err(format!("{} at {candidate}", hither_core::report(&error))),
            Err(_) => Err(format!("no HTTP/2 within {:?} at {candidate}", self.timeout)),
        }
    }
}

fn panicked(panic: &str) -> String {
    format!("panic while connecting: {panic}")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tokio::io::DuplexStream;
    use tokio::time::Instant;

    use super::lookup::tests::Names;
    use super::*;
    use crate::client::connector::Connected;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Where servers are, on a network where nothing answers at any other address.
    #[derive(Debug, Default)]
    struct Network {
        servers: Vec<SocketAddr>,
        /// The destinations so far, and the other ends of streams that nothing answers.
        dialled: Mutex<Vec<String>>,
        silent: Mutex<Vec<DuplexStream>>,
    }

    #[async_trait]
    impl Connector for Arc<Network> {
        async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
            let socket_addr = destination.socket_addr().unwrap();
            self.dialled.lock().unwrap().push(format!("{} {socket_addr}", destination.address()));
            let (ours, theirs) = tokio::io::duplex(1000);
            if self.servers.contains(&socket_addr) {
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(theirs).await?;
                    while connection.accept().await.transpose()?.is_some() {}
                    Ok::<_, h2::Error>(())
                });
            } else {
                self.silent.lock().unwrap().push(theirs);
            }
            Ok(ours.into())
        }

        fn wants_resolved(&self) -> bool {
            true
        }
    }

    fn dialer(server: &str, names: Names) -> (Dialer, Arc<Network>) {
        let network = Arc::new(Network { servers: vec![server.parse().unwrap()], ..Network::default() });
        let connector = Arc::new(Arc::clone(&network));
        (
            Dialer {
                connector,
                names: Arc::new(names),
                timeout: TIMEOUT,
                transport: TransportConfig::default(),
            },
            network,
        )
    }

    /// The addresses of a name are no group that is tried in order within one limit of time, as in hyper's connector,
    /// whose head start is one of families and not of addresses (hyperium/hyper#1958).
    #[tokio::test(start_paused = true)]
    async fn a_name_whose_first_addresses_are_dead_is_reached_at_the_next() {
        let names = Names::default().with("b", &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"]);
        let (dialer, network) = dialer("10.0.0.3:80", names);
        let began = Instant::now();
        let connection = dialer.dial(&Instance::new("b:80".parse().unwrap())).await.unwrap();
        assert_eq!(began.elapsed().as_millis(), 500);
        assert_eq!(connection.address().to_string(), "b:80");
        assert_eq!(
            *network.dialled.lock().unwrap(),
            ["b:80 10.0.0.1:80", "b:80 10.0.0.2:80", "b:80 10.0.0.3:80"]
        );
        let silent = std::mem::take(&mut *network.silent.lock().unwrap());
        let mut sink = tokio::io::sink();
        for mut stream in silent {
            let end = tokio::io::copy(&mut stream, &mut sink);
            timeout(TIMEOUT, end).await.unwrap().unwrap();
        }
    }

    /// A server that has moved is reached at its new address, as it is not in clients that keep what they resolved
    /// first (qdrant/qdrant#832).
    #[tokio::test(start_paused = true)]
    async fn a_name_is_resolved_for_each_attempt() {
        let instance = Instance::new("b:80".parse().unwrap());
        let (dialer, _) = dialer("10.0.0.3:80", Names::default().with("b", &["10.0.0.1:80"]));
        let error = dialer.dial(&instance).await.unwrap_err();
        assert_eq!(error, "no HTTP/2 within 10s at b:80 (10.0.0.1:80)");
        let names = Names::default().with("b", &["10.0.0.3:80"]);
        let dialer = Dialer { names: Arc::new(names), ..dialer };
        dialer.dial(&instance).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_hangs_ends_at_the_connect_timeout() {
        let (dialer, _) = dialer("10.0.0.3:80", Names::default().hanging("b"));
        let began = Instant::now();
        let error = dialer.dial(&Instance::new("b:80".parse().unwrap())).await.unwrap_err();
        assert_eq!((error.as_str(), began.elapsed()), ("b not resolved within 10s", TIMEOUT));
    }
}
