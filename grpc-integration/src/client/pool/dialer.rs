//! One attempt to connect to an instance, at whichever of its addresses answers first.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use hither_core::Address;
use tokio::time::{sleep, timeout};

use crate::client::connector::Connector;
use crate::client::transport::Connection;

/// How long one address has before the next is tried beside it: Happy Eyeballs, with the delay of RFC 8305
/// and gRPC.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to instances.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    pub(crate) connector: Arc<dyn Connector>,
    /// How long one address has.
    pub(crate) timeout: Duration,
}

impl Dialer {
    /// Tries the addresses in order, each with a head start before the next.
    ///
    /// # Errors
    /// The last failure, such as `connection refused at 10.0.0.7:8001`, when none of them answered.
    ///
    /// # Cancellation
    /// Gives all attempts up.
    pub(crate) async fn dial(&self, addresses: &[Address]) -> Result<Connection, String> {
        let mut rest = addresses.iter();
        let mut attempts = FuturesUnordered::new();
        let mut failed = None;
        loop {
            attempts.extend(rest.next().map(|address| self.attempt(address)));
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

    async fn attempt(&self, address: &Address) -> Result<Connection, String> {
        match timeout(self.timeout, Connection::open(&*self.connector, address)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(format!("{error} at {address}")),
            Err(_) => Err(format!("no HTTP/2 within {:?} at {address}", self.timeout)),
        }
    }
}
