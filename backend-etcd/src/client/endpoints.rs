//! The endpoints: one connection at a time, to the next endpoint when it fails.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hither_core::{Error, Result};
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::Checkout;
use super::connection::Connection;
use super::error::{Failure, Recovery};
use super::single_flight::{Flight, NoOutcome};
use crate::EtcdConfig;

/// For so long all callers share a failure to connect, although each retries at a time of its own: checking a password
/// costs etcd a tenth of a second of a processor.
const SHARED_FAILURE: Duration = Duration::from_secs(2);

/// If connecting took longer, etcd was not ready, and callers have queued up (thundering herd).
const HERD_AFTER: Duration = Duration::from_millis(200);

/// They are released over so much time (jitter).
const HERD_SPREAD: Duration = Duration::from_millis(500);

/// An attempt that has no outcome so long after the sum of its deadlines runs on a runtime that has stopped.
const GRACE: Duration = Duration::from_secs(1);

/// The endpoints, of which one is connected to at a time.
///
/// A connection on which a request failed is dropped, and the next endpoint is connected to. Choosing a connection is no
/// retry: the request that failed has failed.
pub(crate) struct Endpoints {
    config: Arc<EtcdConfig>,
    endpoints: Arc<[Arc<str>]>,
    current: Mutex<Arc<ConnectAttempt>>,
}

/// One attempt to connect, shared by all callers that wait for it (single flight).
pub(super) struct ConnectAttempt {
    connecting: Flight<Result<Connected, ConnectFailure>>,
    /// The endpoint that is tried first.
    first: usize,
}

#[derive(Clone)]
struct Connected {
    index: usize,
    connection: Arc<Connection>,
}

/// Why there is no connection, and since when that is known.
#[derive(Clone)]
struct ConnectFailure {
    failure: Failure,
    since: Instant,
}

impl From<Failure> for ConnectFailure {
    fn from(failure: Failure) -> Self {
        Self { failure, since: Instant::now() }
    }
}

impl Endpoints {
    /// # Errors
    /// `InvalidArgument` without any endpoint, or with an invalid one.
    pub(crate) fn new(config: Arc<EtcdConfig>) -> Result<Self, Error> {
        let endpoints: Arc<[Arc<str>]> = config.checked_endpoints()?.into_iter().map(Arc::from).collect();
        // Clients spread over the members.
        let first = fastrand::usize(..endpoints.len());
        let current = Mutex::new(ConnectAttempt::new(&endpoints, &config, first));
        Ok(Self { config, endpoints, current })
    }

    /// The current connection, which is opened first if it is not open.
    pub(crate) async fn checkout(self: &Arc<Self>) -> Result<Checkout> {
        let begun = Instant::now();
        let mut attempt = self.current();
        let mut outcome = self.outcome(&attempt).await;
        if outcome.as_ref().is_err_and(|failure| failure.since.elapsed() >= SHARED_FAILURE) {
            // An old failure, which no caller may have received: all that waited may have given up.
            self.replace(&attempt, attempt.first + 1);
            attempt = self.current();
            outcome = self.outcome(&attempt).await;
        }
        match outcome {
            Ok(Connected { index, connection }) => {
                let waited = begun.elapsed();
                if waited >= HERD_AFTER {
                    sleep(waited.min(HERD_SPREAD).mul_f64(fastrand::f64())).await;
                }
                Ok(Checkout { endpoints: Arc::clone(self), attempt, index, connection })
            }
            Err(ConnectFailure { failure, .. }) => {
                if failure.reason.recovery(Duration::ZERO) == Recovery::Rotate {
                    // Every endpoint has been tried; the next caller begins with the one after.
                    self.replace(&attempt, attempt.first + 1);
                }
                Err(failure.into())
            }
        }
    }

    async fn outcome(&self, attempt: &ConnectAttempt) -> Result<Connected, ConnectFailure> {
        let endpoints = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        let within = self.config.connect_timeout().saturating_mul(endpoints).saturating_add(GRACE);
        match attempt.connecting.join(within).await {
            Ok(outcome) => outcome,
            Err(NoOutcome::Timeout) => Err(Failure::connect_timeout(within).into()),
            Err(NoOutcome::Aborted) => {
                Err(Failure::no_endpoint("the runtime that was connecting to etcd has stopped").into())
            }
        }
    }

    fn current(&self) -> Arc<ConnectAttempt> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces `failed` by an attempt that begins at `first`, unless another caller has replaced it already.
    pub(super) fn replace(&self, failed: &Arc<ConnectAttempt>, first: usize) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, failed) {
            *current = ConnectAttempt::new(&self.endpoints, &self.config, first % self.endpoints.len());
        }
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.config.request_timeout()
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl ConnectAttempt {
    fn new(endpoints: &Arc<[Arc<str>]>, config: &Arc<EtcdConfig>, first: usize) -> Arc<Self> {
        let (endpoints, config) = (Arc::clone(endpoints), Arc::clone(config));
        let connecting = async move {
            let connecting = first_that_answers(&endpoints, &config, first);
            connecting.instrument(tracing::debug_span!("connect")).await.map_err(ConnectFailure::from)
        };
        Arc::new(Self { connecting: Flight::new(connecting), first })
    }
}

/// Tries the endpoints in turn, beginning at `first`.
async fn first_that_answers(
    endpoints: &[Arc<str>],
    config: &EtcdConfig,
    first: usize,
) -> Result<Connected, Failure> {
    let mut failed = None;
    for index in (first..endpoints.len()).chain(0..first) {
        let Some(endpoint) = endpoints.get(index) else { continue };
        match Connection::open(endpoint, config).await {
            Ok(connection) => {
                tracing::debug!(%endpoint, "connected to etcd");
                return Ok(Connected { index, connection: Arc::new(connection) });
            }
            // A wrong password is wrong at every endpoint.
            Err(failure) if failure.reason.is_refusal() => return Err(failure),
            Err(failure) => {
                tracing::debug!(%endpoint, cause = failure.error.report(), "etcd endpoint cannot serve");
                failed = Some(failure);
            }
        }
    }
    Err(failed.unwrap_or_else(|| Failure::no_endpoint("etcd has no endpoint")))
}
