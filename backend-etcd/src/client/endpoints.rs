//! Which endpoint is talked to: one at a time, the next one when it fails.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use hither_core::{Error, ErrorKind};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::connection::Connection;
use super::error::{Failure, Recovery};
use crate::EtcdConfig;

/// A call that is given up after this long was not given up for reasons of its own. Less than a third of the
/// smallest TTL, by which a renewal must be done.
const SUSPICIOUS: Duration = Duration::from_millis(500);

/// For so long a refusal counts for all callers, each of whom retries in its own time: checking a password costs etcd a
/// tenth of a second of a processor.
const REFUSED_FOR: Duration = Duration::from_secs(2);

/// An etcd that takes longer to be connected to was not ready, and everybody waits for it.
const CROWD_AFTER: Duration = Duration::from_millis(200);

/// Over so much time they then spread.
const CROWD_SPREAD: Duration = Duration::from_millis(500);

/// So much later than all deadlines of connecting together, somebody would have said how it went.
const GRACE: Duration = Duration::from_secs(1);

/// The endpoints, of which one is pinned.
///
/// A connection on which a call failed is dropped, and the next endpoint pinned. Choosing a connection is no
/// retry: the call that failed has failed.
pub(crate) struct Endpoints {
    config: Arc<EtcdConfig>,
    endpoints: Arc<[Arc<str>]>,
    pinned: Mutex<Arc<ConnectAttempt>>,
}

/// One attempt at being connected, shared by all who wait for it.
struct ConnectAttempt {
    connection: Shared<BoxFuture<'static, Result<Connected, ConnectFailure>>>,
    /// The endpoint that was to be tried first.
    first: usize,
}

#[derive(Clone)]
struct Connected {
    at: usize,
    connection: Arc<Connection>,
}

/// Why there is no connection, and since when that is known.
#[derive(Clone)]
struct ConnectFailure {
    failure: Failure,
    since: Instant,
}

impl Endpoints {
    /// # Errors
    /// `InvalidArgument` when there is no endpoint, or one that is none.
    pub(crate) fn new(config: Arc<EtcdConfig>) -> Result<Self, Error> {
        let endpoints: Arc<[Arc<str>]> = config.checked_endpoints()?.into_iter().map(Arc::from).collect();
        // Not everybody at the first one.
        let first = fastrand::usize(..endpoints.len());
        let pinned = Mutex::new(ConnectAttempt::new(&endpoints, &config, first));
        Ok(Self { config, endpoints, pinned })
    }

    /// The pinned connection, which is opened first if it is not open.
    pub(crate) async fn connection(self: &Arc<Self>) -> Result<Checkout, Error> {
        let begun = Instant::now();
        let mut attempt = self.pinned();
        let mut outcome = self.outcome(&attempt).await;
        if outcome.as_ref().is_err_and(|refused| refused.since.elapsed() >= REFUSED_FOR) {
            // No news: nobody may have heard it, if those who waited had given up.
            self.replace(&attempt, attempt.first + 1);
            attempt = self.pinned();
            outcome = self.outcome(&attempt).await;
        }
        match outcome {
            Ok(Connected { at, connection }) => {
                let waited = begun.elapsed();
                if waited >= CROWD_AFTER {
                    // Else all who have come meanwhile, in all processes, come in the moment in which etcd is ready.
                    sleep(waited.min(CROWD_SPREAD).mul_f64(fastrand::f64())).await;
                }
                Ok(Checkout { endpoints: Arc::clone(self), attempt, at, connection })
            }
            Err(ConnectFailure { failure, .. }) => {
                if failure.recovery == Recovery::Rotate {
                    // Every endpoint has been tried; the next caller begins with the one after.
                    self.replace(&attempt, attempt.first + 1);
                }
                Err(failure.error)
            }
        }
    }

    /// How the attempt at being connected ends. That is in time, unless the runtime stands still to which its first caller
    /// has left it.
    async fn outcome(&self, attempt: &ConnectAttempt) -> Result<Connected, ConnectFailure> {
        let endpoints = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        let within = self.config.connect_timeout().saturating_mul(endpoints).saturating_add(GRACE);
        timeout(within, attempt.connection.clone()).await.unwrap_or_else(|_| {
            let error = Error::new(ErrorKind::Timeout, format!("no etcd was connected to within {within:?}"));
            Err(ConnectFailure { failure: Failure::new(error, Recovery::Rotate), since: Instant::now() })
        })
    }

    fn pinned(&self) -> Arc<ConnectAttempt> {
        Arc::clone(&self.pinned.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes `failed` out, unless somebody has already.
    fn replace(&self, failed: &Arc<ConnectAttempt>, first: usize) {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&pinned, failed) {
            *pinned = ConnectAttempt::new(&self.endpoints, &self.config, first % self.endpoints.len());
        }
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
        let connection = async move {
            // A task of its own, because who waits for it may give up, and the next one must not find it where it was
            // left, with its deadlines long past. It ends with the attempt.
            let mut attempt = JoinSet::new();
            let refused = |failure| ConnectFailure { failure, since: Instant::now() };
            let connecting =
                async move { first_that_answers(&endpoints, &config, first).await.map_err(refused) };
            attempt.spawn(connecting.instrument(tracing::debug_span!("connect to etcd")));
            match attempt.join_next().await {
                Some(Ok(found)) => found,
                _ => Err(refused(Failure::gone("the runtime that was connecting to etcd is gone"))),
            }
        };
        Arc::new(Self { connection: connection.boxed().shared(), first })
    }
}

/// Goes through the endpoints in turn, beginning at `first`.
async fn first_that_answers(
    endpoints: &[Arc<str>],
    config: &EtcdConfig,
    first: usize,
) -> Result<Connected, Failure> {
    let mut failed = None;
    for at in (first..endpoints.len()).chain(0..first) {
        let Some(endpoint) = endpoints.get(at) else { continue };
        match Connection::open(endpoint, config).await {
            Ok(connection) => {
                tracing::debug!(%endpoint, "connected to etcd");
                return Ok(Connected { at, connection: Arc::new(connection) });
            }
            // A wrong password is one everywhere.
            Err(failure) if failure.is_refusal() => return Err(failure),
            Err(failure) => {
                tracing::debug!(%endpoint, error = %failure.error.report(), "etcd endpoint does not serve");
                failed = Some(failure);
            }
        }
    }
    Err(failed.unwrap_or_else(|| Failure::gone("there is no endpoint of etcd")))
}

/// A connection in use, which tells the endpoints when it fails.
pub(crate) struct Checkout {
    endpoints: Arc<Endpoints>,
    attempt: Arc<ConnectAttempt>,
    at: usize,
    connection: Arc<Connection>,
}

impl Checkout {
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Awaits `answer` for at most the request timeout, or `within` if that is shorter.
    pub(crate) async fn call_within<T>(
        &self,
        within: Duration,
        answer: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        let within = within.min(self.endpoints.config.request_timeout());
        let mut patience = AbandonGuard { checkout: self, since: Instant::now(), ended: false };
        let answer = self.connection.call(within, answer).await;
        patience.ended = true;
        answer.map_err(|failure| self.failed(failure))
    }

    /// Awaits `answer` for at most the request timeout.
    pub(crate) async fn call<T>(
        &self,
        answer: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        self.call_within(Duration::MAX, answer).await
    }

    /// Does to the connection what the failure advises, and hands the failure back.
    pub(crate) fn failed(&self, mut failure: Failure) -> Failure {
        if self.connection.mends(&failure) {
            failure.error = failure.error.with_retryable(true);
        }
        match failure.recovery.at(self.connection.age()) {
            Recovery::Keep | Recovery::ReauthenticateOld => {}
            Recovery::Rotate => self.endpoints.replace(&self.attempt, self.at + 1),
            Recovery::Reauthenticate => self.endpoints.replace(&self.attempt, self.at),
        }
        failure
    }
}

/// One call under way.
///
/// Whoever gives it up, because a deadline above ours was shorter, has learnt the same as from our deadline: the
/// next call had better go elsewhere.
struct AbandonGuard<'a> {
    checkout: &'a Checkout,
    since: Instant,
    ended: bool,
}

impl Drop for AbandonGuard<'_> {
    fn drop(&mut self) {
        if !self.ended && self.since.elapsed() >= SUSPICIOUS {
            self.checkout.endpoints.replace(&self.checkout.attempt, self.checkout.at + 1);
        }
    }
}
