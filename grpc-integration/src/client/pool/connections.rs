//! The connections to one instance: as many as its calls need.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hither_core::Backoff;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, sleep_until};

use super::desired::Desired;
use super::dialer::Dialer;
use super::pace::{Next, Pace};
use crate::client::metrics::ChannelMetrics;
use crate::client::ready_instance::ReadyInstance;
use crate::client::transport::{Connection, Trial};

/// How long a further connection stays open without a call, at least.
const SPARE: Duration = Duration::from_secs(60);

/// The open connections of one instance.
///
/// One is enough while its streams are no more than the server allows (MAX_CONCURRENT_STREAMS) and than fit into the
/// connection's window. Further ones are opened while calls find no capacity, and closed when they are not used any more.
#[derive(Debug)]
pub(super) struct Connections<'a> {
    pub(super) ready_instance: &'a ReadyInstance,
    pub(super) dialer: &'a Dialer,
    /// The maximum number of connections.
    pub(super) max: usize,
    pub(super) metrics: &'a ChannelMetrics,
    /// Whether further ones may be opened.
    pub(super) desired: &'a watch::Receiver<Desired>,
}

impl Connections<'_> {
    /// Keeps the instance's connections up to date until none of them accepts new calls; returns why.
    pub(super) async fn serve(&self, first: Arc<Connection>) -> String {
        let mut gone = FuturesUnordered::from_iter([self.gone(&first)]);
        let mut open = vec![first];
        let mut growth: Option<BoxFuture<'_, Result<Connection, String>>> = None;
        // Not those of the instance, which is reachable: it may allow no more connections.
        let mut pace =
            Pace::new(Backoff::proportional(Duration::from_secs(1), 1.6, Duration::from_secs(10), 0.2));
        let mut not_before = Instant::now();
        let mut spare = Spare::default();
        let mut inspection = interval_at(Instant::now() + SPARE, SPARE);
        loop {
            let paused = Instant::now() < not_before;
            let may_grow = growth.is_none() && open.len() < self.max && self.desired.borrow().connect;
            tokio::select! {
                biased;
                Some(lost) = gone.next() => {
                    open.retain(|connection| connection.is_usable());
                    if open.is_empty() {
                        self.ready_instance.set_connections(open);
                        return lost.cause;
                    }
                    not_before = match pace.lost(lost.trial) {
                        Next::AtOnce => Instant::now(),
                        Next::Soon(delay) | Next::Failing(delay, _) => Instant::now() + delay,
                    };
                }
                grown = next(&mut growth) => {
                    growth = None;
                    match grown {
                        Ok(connection) => {
                            pace.connected();
                            let connection = Arc::new(connection);
                            gone.push(self.gone(&connection));
                            open.push(connection);
                        }
                        Err(cause) => {
                            self.metrics.connect_failed();
                            let delay = pace.failed();
                            tracing::debug!(cause, ?delay, "further connection not opened; retrying");
                            not_before = Instant::now() + delay;
                        }
                    }
                }
                () = sleep_until(not_before), if paused && may_grow => continue,
                () = self.ready_instance.no_capacity(), if may_grow && !paused => {
                    // The call that had found no capacity may have ended at its deadline.
                    if self.ready_instance.is_awaited() && open.iter().all(|connection| connection.is_full()) {
                        growth = Some(Box::pin(self.grow()));
                    }
                    continue;
                }
                _ = inspection.tick() => {
                    if !spare.inspect(&open) {
                        continue;
                    }
                    open.pop();
                }
            }
            // Wakes the calls that wait for capacity, too: those that find none ask again for a connection.
            self.ready_instance.set_connections(open.clone());
        }
    }

    async fn grow(&self) -> Result<Connection, String> {
        let instance = Arc::clone(&self.desired.borrow().instance);
        self.dialer.dial(&instance).await
    }

    /// Completes when the connection accepts no new calls any more, and counts it as open until then.
    fn gone(&self, connection: &Arc<Connection>) -> impl Future<Output = Lost> + Send + 'static + use<> {
        let (trial, gone) = (Trial::of(connection), connection.gone());
        let open = self.metrics.connected();
        async move {
            let ending = gone.await;
            open.ended(ending.name);
            Lost { trial, cause: ending.cause }
        }
    }
}

/// A connection that accepts no new calls any more.
struct Lost {
    trial: Trial,
    cause: String,
}

/// Detects that the newest connection is not needed any more: it had no call at two inspections in a row.
#[derive(Debug, Default)]
struct Spare {
    idle: Option<Arc<Connection>>,
}

impl Spare {
    fn inspect(&mut self, open: &[Arc<Connection>]) -> bool {
        let newest = open.last().filter(|newest| open.len() > 1 && newest.is_idle());
        let before = std::mem::replace(&mut self.idle, newest.cloned());
        let spare = matches!((&before, newest), (Some(before), Some(newest)) if Arc::ptr_eq(before, newest));
        if spare {
            self.idle = None;
        }
        spare
    }
}

async fn next<T>(future: &mut Option<BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
