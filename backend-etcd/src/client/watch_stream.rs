//! A watch of a range on the wire.

use etcd_client::WatchOptions;
use etcd_client::proto::PbEvent;

use super::pages::{MOST_TIMEOUTS, prefix_end};
use super::responses::{Responses, WatchEnd};
use super::{Checkout, Failure, Position};

/// A watch that was created.
///
/// It has no resume: at its first error it is over.
pub(crate) struct WatchStream {
    checkout: Checkout,
    stream: etcd_client::WatchStream,
    responses: Responses,
}

impl Checkout {
    /// Watches all keys that begin with `prefix`, from the revision of `since` on, inclusive.
    pub(crate) async fn watch(&self, prefix: &str, since: Position) -> Result<WatchStream, Failure> {
        let options = WatchOptions::new()
            .with_range(prefix_end(prefix.as_bytes()))
            .with_start_revision(since.revision)
            .with_fragment();
        let mut client = self.connection.watch();
        let mut stream = self.call(client.watch(prefix, Some(options))).await?;
        let Some(created) = self.call(stream.message()).await? else { return Err(self.watch_ended()) };
        let within = self.endpoints.request_timeout().saturating_mul(MOST_TIMEOUTS);
        let responses =
            Responses::created(&created.0, since, within).map_err(|end| self.watch_failed(end))?;
        Ok(WatchStream { checkout: self.clone(), stream, responses })
    }

    fn watch_ended(&self) -> Failure {
        self.failed(Failure::unavailable(self.endpoint(), "the server ended the watch"))
    }

    fn watch_failed(&self, end: WatchEnd) -> Failure {
        match end {
            WatchEnd::Cancelled { reason, compact_revision } => {
                self.failed(Failure::of_cancelled_watch(&reason, compact_revision, self.endpoint()))
            }
            WatchEnd::AnotherHistory => self.another_history(),
            WatchEnd::ProtocolViolation(what) => self.protocol_violation(what),
        }
    }
}

impl WatchStream {
    /// Waits for the next response, and returns its events: none for a progress notification, or a part of a response.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Vec<PbEvent>, Failure> {
        match self.stream.message().await {
            Ok(Some(response)) => {
                self.responses.on_response(response.0).map_err(|end| self.checkout.watch_failed(end))
            }
            Ok(None) => Err(self.checkout.watch_ended()),
            Err(error) => {
                let failure = Failure::of(error, self.checkout.endpoint());
                Err(self.checkout.failed(failure))
            }
        }
    }

    /// Probes the watch (progress request). It is only queued: what counts is a response.
    pub(crate) async fn request_progress(&mut self) -> Result<(), Failure> {
        self.checkout.call(self.stream.request_progress()).await
    }

    /// The failure of a watch that has missed something, and does not answer probes.
    pub(crate) fn lost(&self) -> Failure {
        let within = self.checkout.endpoints.request_timeout();
        self.checkout.failed(Failure::timeout(self.checkout.endpoint(), within))
    }
}
