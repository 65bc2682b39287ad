//! The client of etcd: one connection at a time, one method per request, and a deadline on each.

mod connection;
mod endpoints;
mod error;
mod pages;
mod position;
#[cfg(test)]
mod published_errors;
mod responses;
mod silence;
mod single_flight;
mod watch_stream;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbKeyValue;
use etcd_client::{GetOptions, LeaseGrantOptions, Txn, TxnResponse};
use hither_core::ErrorKind;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use connection::Connection;
use endpoints::ConnectAttempt;
use error::Recovery;
use silence::{PROBE_TIMEOUT, Suspicion};

pub(crate) use endpoints::Endpoints;
pub(crate) use error::{Failure, Reason};
pub(crate) use position::Position;
pub(crate) use watch_stream::WatchStream;

/// Any key does: a refusal is an answer too, and etcd gives it after the linearizable read.
const PROBED_KEY: &str = "/";

/// The longest time to live that is believed: sums with it do not overflow.
const LONGEST_TTL: i64 = 365 * 24 * 3600;

/// The current connection, in use by one operation: one method per request, of which each is one attempt.
///
/// A failure is reported to the [`Endpoints`] here and nowhere else.
#[derive(Clone)]
pub(crate) struct Checkout {
    endpoints: Arc<Endpoints>,
    attempt: Arc<ConnectAttempt>,
    index: usize,
    connection: Arc<Connection>,
}

impl Checkout {
    /// Grants the lease `id`, and returns the time to live that etcd gives it.
    ///
    /// # Errors
    /// [`Reason::LeaseExists`] where the id is taken.
    pub(crate) async fn grant(&self, id: i64, ttl: Duration) -> Result<Duration, Failure> {
        // Whole seconds, and no shorter than what was asked for.
        let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let options = LeaseGrantOptions::new().with_id(id);
        let granted = self.call(self.connection.lease().grant(seconds, Some(options))).await?;
        if !granted.error().is_empty() {
            return Err(self.failed(Failure::unavailable(self.endpoint(), granted.error())));
        }
        if granted.id() != id {
            return Err(
                self.protocol_violation(&format!("granted lease {:x} instead of {id:x}", granted.id()))
            );
        }
        match u64::try_from(granted.ttl().min(LONGEST_TTL)) {
            Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
            _ => Err(self.protocol_violation(&format!("granted a time to live of {} s", granted.ttl()))),
        }
    }

    /// Revokes the lease `id`. One that is gone counts as revoked (idempotent).
    pub(crate) async fn revoke(&self, id: i64) -> Result<(), Failure> {
        match self.call(self.connection.lease().revoke(id)).await {
            Err(failure) if failure.error.kind() == ErrorKind::LeaseExpired => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Renews the lease `id` once, within the request timeout or `within` if that is shorter.
    pub(crate) async fn keep_alive(&self, id: i64, within: Duration) -> Result<(), Failure> {
        // A stream for each renewal: nothing to keep, nothing that can be half open. The call returns with the first
        // response, and fails if that has no time to live.
        let mut client = self.connection.lease();
        let (keeper, stream) = self.call_within(within, client.keep_alive(id)).await?;
        drop(stream);
        match keeper.id() {
            renewed if renewed == id => Ok(()),
            renewed => Err(self.protocol_violation(&format!("renewed lease {renewed:x} instead of {id:x}"))),
        }
    }

    /// Runs a transaction.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnResponse, Failure> {
        self.call(self.connection.kv().txn(txn)).await
    }

    /// Reads one key (linearizable).
    pub(crate) async fn get(&self, key: &str) -> Result<Option<PbKeyValue>, Failure> {
        let read = self.call(self.connection.kv().get(key, None)).await?;
        Ok(read.0.kvs.into_iter().find(|kv| kv.key == key.as_bytes()))
    }

    /// Reads one page of a range (linearizable).
    ///
    /// # Errors
    /// Where the response is not of the history that `since` is a position of, or from before it.
    async fn range(
        &self,
        from: &[u8],
        options: GetOptions,
        since: Option<Position>,
    ) -> Result<Page, Failure> {
        let page = self.call(self.connection.kv().get(from, Some(options))).await?.0;
        let Some(header) = page.header.as_ref() else {
            return Err(self.protocol_violation("the range response has no header"));
        };
        let position = Position::of(header);
        if position.revision < 1 {
            return Err(self
                .protocol_violation(&format!("the range response has the revision {}", position.revision)));
        }
        if since.is_some_and(|since| !since.leads_to(position)) {
            return Err(self.another_history());
        }
        Ok(Page { position, kvs: page.kvs, more: page.more })
    }

    /// Proves that the member has caught up with the leader: see [`Connection::linearizable_read`].
    pub(crate) async fn linearizable_read(&self, key: &str, every: Duration) -> Result<(), Failure> {
        let read = self.connection.linearizable_read(key, every, self.endpoints.request_timeout()).await;
        read.map_err(|failure| self.failed(failure))
    }

    /// Leaves the connection if a linearizable read is not answered either, in a task that ends within [`PROBE_TIMEOUT`]. What the
    /// member answers from memory would prove less.
    fn probe(&self) {
        // Outside of a runtime nothing can be asked. The next request that is dropped will be within one.
        let Ok(runtime) = Handle::try_current() else { return };
        let checkout = self.clone();
        let probe = async move {
            let (begun, connection) = (Instant::now(), &checkout.connection);
            let within = checkout.endpoints.request_timeout().min(PROBE_TIMEOUT);
            // No older read is shared: it proves nothing of the present.
            if let Err(failure) = connection.linearizable_read(PROBED_KEY, Duration::ZERO, within).await
                && connection.silence().lasts_since(begun)
            {
                checkout.failed(failure);
            }
        };
        runtime.spawn(probe.instrument(tracing::debug_span!("probe")));
    }

    /// Awaits `response` for at most the request timeout.
    async fn call<T>(
        &self,
        response: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        self.call_within(Duration::MAX, response).await
    }

    /// Awaits `response` for at most the request timeout, or `within` if that is shorter. None of the client's own timeouts
    /// bounds every call.
    async fn call_within<T>(
        &self,
        within: Duration,
        response: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        let within = within.min(self.endpoints.request_timeout());
        let mut guard = AbandonGuard { checkout: self, since: Instant::now(), ended: false };
        let response = timeout(within, response).await;
        guard.ended = true;
        match response {
            Ok(response) => {
                self.connection.silence().ends();
                response.map_err(|error| self.failed(Failure::of(error, self.endpoint())))
            }
            Err(_) => Err(self.failed(Failure::timeout(self.endpoint(), within))),
        }
    }

    /// Recovers the connection as the failure demands, and returns the failure.
    fn failed(&self, mut failure: Failure) -> Failure {
        let recovery = failure.reason.recovery(self.connection.age());
        let is_of_credentials = matches!(failure.reason, Reason::Credentials | Reason::AuthDisabled);
        if is_of_credentials && self.connection.has_user() {
            // They were accepted once. A new connection reads the password anew, or learns that authentication was
            // switched on or off.
            failure.error = failure.error.with_retryable(true);
        }
        match recovery {
            Recovery::Keep => {}
            Recovery::Rotate => self.endpoints.replace(&self.attempt, self.index + 1),
            Recovery::Reconnect => self.endpoints.replace(&self.attempt, self.index),
        }
        failure
    }

    fn endpoint(&self) -> &str {
        self.connection.endpoint()
    }

    /// The failure of a response that violates etcd's protocol.
    fn protocol_violation(&self, what: &str) -> Failure {
        self.failed(Failure::protocol(self.endpoint(), what))
    }

    /// The server has other data than before: it was wiped, restored from a backup, or belongs to another cluster.
    fn another_history(&self) -> Failure {
        self.failed(Failure::unavailable(
            self.endpoint(),
            "its data is of another history than before (restored, wiped or another cluster)",
        ))
    }
}

/// A part of a range, as of one revision.
struct Page {
    position: Position,
    kvs: Vec<PbKeyValue>,
    more: bool,
}

/// Sees requests that are dropped before their answer: their callers have a shorter deadline than ours. If that was long enough it
/// means the same as ours, and the endpoints are rotated.
struct AbandonGuard<'a> {
    checkout: &'a Checkout,
    since: Instant,
    ended: bool,
}

impl Drop for AbandonGuard<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        match self.checkout.connection.silence().grows(self.since) {
            Suspicion::None => {}
            Suspicion::Probe => self.checkout.probe(),
            Suspicion::Leave => {
                self.checkout.endpoints.replace(&self.checkout.attempt, self.checkout.index + 1);
            }
        }
    }
}
