//! The health of one instance, over its connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hither_core::Backoff;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

use super::message::{ServingStatus, request};
use super::stream::{End, HealthStream};
use crate::client::call_headers::CallAuthority;
use crate::client::ready_instance::ReadyInstance;
use crate::client::transport::Connection;

/// A stream that was open for as long and has had a report is opened again at once when it ends, because servers and
/// proxies end streams after a time. What ends sooner is paced.
const LASTING: Duration = Duration::from_secs(1);
/// How many reports a stream may have at once, and how many more in each second. A server that sends more gets none of them
/// read.
const BURST: u64 = 100;
const RATE: u64 = 10;

/// Whether an instance is to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    Serving,
    /// It is not, for this reason.
    NotServing(String),
}

/// Watches the health of an instance.
#[derive(Debug, Clone)]
pub(crate) struct HealthCheck {
    service: Arc<str>,
    authority: CallAuthority,
    /// How long the first report may take, over whatever connections and streams.
    timeout: Duration,
    backoff: Backoff,
    /// Since when there was no report, over whatever connections; `None` after one.
    silent_since: Option<Instant>,
    /// Whether the channel has logged that a server cannot be checked.
    is_logged: Arc<AtomicBool>,
}

/// How a stream has ended.
enum Ended {
    /// The server has no health service, or no stream for it: it counts as healthy.
    Unchecked(String),
    /// After a report, which still counts.
    AfterReport(Status),
    /// Calls have all streams, which shows nothing of the health: the last report still counts.
    Full,
    /// Without a report, or the server breaks the protocol.
    Failed(String),
}

impl HealthCheck {
    pub(crate) fn new(service: &str, authority: CallAuthority, timeout: Duration, backoff: Backoff) -> Self {
        let service = service.into();
        Self { service, authority, timeout, backoff, silent_since: None, is_logged: Arc::default() }
    }

    /// Returns the check of another instance, with jitter of its own.
    pub(crate) fn fork(&mut self) -> Self {
        Self { backoff: self.backoff.fork(), ..self.clone() }
    }

    /// Reports the health of the instance whenever it changes, for as long as it has a connection. Never completes.
    ///
    /// # Cancellation
    /// Ends the stream.
    pub(crate) async fn run(&mut self, instance: &ReadyInstance, mut report: impl FnMut(Health)) {
        self.backoff.reset();
        // Another connection is no reason to hope for one.
        if self.is_silent()
            && let Some(connection) = instance.oldest_connection()
        {
            report(Health::NotServing(failed(&connection, &self.silence())));
        }
        // The first one is watched, and when it is gone the next.
        while let Some(connection) = instance.oldest_connection() {
            tokio::select! {
                biased;
                _ = connection.gone() => {}
                () = self.check(&connection, &mut report) => {}
            }
        }
        std::future::pending::<()>().await;
    }

    /// Watches over one connection. Completes only if that takes no stream any more.
    async fn check(&mut self, connection: &Arc<Connection>, report: &mut impl FnMut(Health)) {
        loop {
            let began = Instant::now();
            let delay = match self.stream(connection, report).await {
                Ended::Unchecked(cause) => {
                    self.silent_since = None;
                    self.log(connection, &cause);
                    report(Health::Serving);
                    return std::future::pending().await;
                }
                Ended::AfterReport(status) if began.elapsed() >= LASTING => {
                    let cause = describe(&status);
                    tracing::debug!(cause, "health stream ended; opening another one");
                    self.backoff.reset();
                    // Without a pause, in which a call that waits for a stream would take its place.
                    continue;
                }
                // No longer than a report may take to come, because the last one may be outdated.
                Ended::AfterReport(status) => {
                    let cause = describe(&status);
                    tracing::debug!(cause, "health stream ended at once; retrying");
                    self.backoff.next_delay().min(self.timeout)
                }
                Ended::Full => self.backoff.next_delay().min(self.timeout),
                Ended::Failed(cause) => {
                    report(Health::NotServing(cause));
                    self.backoff.next_delay()
                }
            };
            sleep(delay).await;
        }
    }

    async fn stream(&mut self, connection: &Arc<Connection>, report: &mut impl FnMut(Health)) -> Ended {
        if connection.has_one_stream() {
            return Ended::Unchecked("the server allows one stream at a time, which calls need".to_owned());
        }
        let failed = |cause: String| Ended::Failed(failed(connection, &cause));
        let Some(slot) = connection.try_reserve_aside() else {
            return Ended::Full;
        };
        let began = Instant::now();
        let since = *self.silent_since.get_or_insert(began);
        let deadline = if self.is_silent() { began } else { since } + self.timeout;
        let first = async {
            let authority = self.authority.of(connection.address());
            let mut stream = HealthStream::open(slot, authority, request(&self.service)).await?;
            let status = stream.next().await?;
            Ok::<_, End>((stream, status))
        };
        let (mut stream, mut status) = match timeout_at(deadline, first).await {
            Ok(Ok(first)) => first,
            Ok(Err(End::Status(status))) if status.code() == Code::Unimplemented => {
                return Ended::Unchecked(describe(&status));
            }
            Ok(Err(End::Status(status))) => return failed(describe(&status)),
            Ok(Err(End::Broken(cause))) => return failed(cause),
            Err(_) => return failed(self.silence()),
        };
        self.silent_since = None;
        let (mut reports, mut last) = (0, None);
        loop {
            if last.replace(status) != Some(status) {
                report(match status {
                    ServingStatus::SERVING => Health::Serving,
                    other => Health::NotServing(format!("{} reports {other}", connection.address())),
                });
            }
            reports += 1;
            if reports > BURST + RATE * began.elapsed().as_secs() {
                return failed("a flood of reports".to_owned());
            }
            status = match stream.next().await {
                Ok(status) => status,
                Err(End::Status(status)) => return Ended::AfterReport(status),
                Err(End::Broken(cause)) => return failed(cause),
            };
        }
    }

    /// Whether a report is overdue.
    fn is_silent(&self) -> bool {
        self.silent_since.is_some_and(|since| since.elapsed() >= self.timeout)
    }

    fn silence(&self) -> String {
        format!("no report within {:?}", self.timeout)
    }

    fn log(&self, connection: &Connection, cause: &str) {
        let address = connection.address();
        if self.is_logged.swap(true, Ordering::Relaxed) {
            tracing::debug!(%address, cause, "health is not checked");
        } else {
            tracing::warn!(%address, cause, "health is not checked; the instance counts as healthy");
        }
    }
}

fn failed(connection: &Connection, cause: &str) -> String {
    format!("health check failed at {}: {cause}", connection.address())
}

fn describe(status: &Status) -> String {
    match status.message() {
        "" => format!("{:?}", status.code()),
        message => format!("{:?}: {message}", status.code()),
    }
}
