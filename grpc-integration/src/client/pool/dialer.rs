//! One attempt to connect to an instance, at the first of its addresses that answers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use hither_core::{Address, Instance};
use tokio::time::{sleep, timeout};
use tracing::Instrument;

use crate::client::connector::{Connector, Destination};
use crate::client::transport::Connection;

/// How long one address is tried before the next is tried in parallel: Happy Eyeballs, with the delay of RFC 8305
/// and gRPC.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to instances.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    pub(crate) connector: Arc<dyn Connector>,
    /// How long connecting to one address may take.
    pub(crate) timeout: Duration,
}

impl Dialer {
    /// Tries the addresses in order, each with a head start before the next.
    ///
    /// # Errors
    /// The last failure, such as `connection refused at 10.0.0.7:8001`, when all addresses have failed.
    ///
    /// # Cancellation
    /// Cancels all attempts.
    pub(super) async fn dial(&self, instance: &Instance) -> Result<Connection, String> {
        let mut rest = instance.addresses().iter();
        let mut attempts = FuturesUnordered::new();
        let mut failed = None;
        loop {
            attempts.extend(rest.next().map(|address| self.attempt(instance, address)));
            let more = rest.len() > 0;
            tokio::select! {
                biased;
                ended = attempts.next() => match ended {
                    Some(Ok(connection)) => return Ok(connection),
                    Some(Err(error)) => failed = Some(error),
                    None => return Err(failed.unwrap_or_else(|| "there is no address".to_owned())),
                },
                () = sleep(HEAD_START), if more => {}
            }
        }
    }

    async fn attempt(&self, instance: &Instance, address: &Address) -> Result<Connection, String> {
        let span = tracing::debug_span!("connection", %address);
        let open = Connection::open(&*self.connector, Destination::new(instance, address)).instrument(span);
        match timeout(self.timeout, open).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(format!("{} at {address}", hither_core::report(&error))),
            Err(_) => Err(format!("no HTTP/2 within {:?} at {address}", self.timeout)),
        }
    }
}
