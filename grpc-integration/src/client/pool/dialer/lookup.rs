//! Resolves host names.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// The maximum number of lookups at a time in one channel. Each occupies a thread until the system's resolver has
/// given up, which takes half a minute where no name server answers, and a runtime has 512 threads for all blocking
/// work (hyperium/hyper#3838).
const LOOKUPS: usize = 64;

/// Resolves host names. Replaced in tests.
#[async_trait]
pub(super) trait NameLookup: fmt::Debug + Send + Sync + 'static {
    /// Returns the addresses of a host, the preferred first.
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// Asks the system's resolver each time: what is cached, and for how long, is configured there.
#[derive(Debug)]
pub(super) struct SystemLookup {
    lookups: Arc<Semaphore>,
}

impl Default for SystemLookup {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS)) }
    }
}

#[async_trait]
impl NameLookup for SystemLookup {
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let host = host.to_owned();
        // Not `tokio::net::lookup_host`: the permit has to be held for as long as the thread is, which a caller that
        // has given up cannot do.
        let lookup = spawn_blocking(move || {
            let addresses = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            drop(permit);
            addresses
        });
        lookup.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;

    use super::*;

    /// Names that resolve as a test says. All others are unknown.
    #[derive(Debug, Default)]
    pub(in super::super) struct Names {
        /// `None`: the lookup never ends.
        known: BTreeMap<String, Option<Vec<SocketAddr>>>,
        lookups: AtomicUsize,
    }

    impl Names {
        pub(in super::super) fn with(mut self, host: &str, addresses: &[&str]) -> Self {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            self.known.insert(host.to_owned(), Some(addresses));
            self
        }

        pub(in super::super) fn hanging(mut self, host: &str) -> Self {
            self.known.insert(host.to_owned(), None);
            self
        }

        /// How many lookups there were.
        pub(in super::super) fn count(&self) -> usize {
            self.lookups.load(Ordering::SeqCst)
        }
    }

    #[async_trait]
    impl NameLookup for Names {
        async fn lookup(&self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
            self.lookups.fetch_add(1, Ordering::SeqCst);
            match self.known.get(host) {
                Some(Some(addresses)) => Ok(addresses.clone()),
                Some(None) => pending().await,
                None => Err(io::Error::new(io::ErrorKind::NotFound, "no such host")),
            }
        }
    }

    #[tokio::test]
    async fn the_name_of_this_machine_resolves_and_an_invalid_one_is_an_error() {
        let lookup = SystemLookup::default();
        let addresses = lookup.lookup("localhost", 80).await.unwrap();
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
        assert!(!addresses.is_empty());
        lookup.lookup("no-such-host.invalid", 80).await.unwrap_err();
        assert_eq!(lookup.lookups.available_permits(), LOOKUPS);
    }

    #[tokio::test]
    async fn lookups_that_hang_leave_threads_to_others() {
        let lookup = SystemLookup::default();
        let hanging = lookup.lookups.acquire_many(u32::try_from(LOOKUPS).unwrap()).await.unwrap();
        let mut waiting = Box::pin(lookup.lookup("localhost", 80));
        assert!((&mut waiting).now_or_never().is_none());
        drop(hanging);
        waiting.await.unwrap();
    }
}
