//! The connections to one instance: as many as its calls need.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, sleep};

use super::desired::Desired;
use super::dialer::Dialer;
use crate::client::ready_instance::ReadyInstance;
use crate::client::transport::Connection;

/// How long a further connection stays open without a call, at least.
const SPARE: Duration = Duration::from_secs(60);
/// How long after a failed attempt at a further connection the next one is made.
const PAUSE: Duration = Duration::from_secs(1);

/// The open connections of one instance.
///
/// One is enough for a server that does not limit the streams of a client (MAX_CONCURRENT_STREAMS). For one that
/// does, further ones are opened while calls find no capacity, and closed when they are not used any more.
#[derive(Debug)]
pub(super) struct Connections<'a> {
    pub(super) ready_instance: &'a ReadyInstance,
    pub(super) dialer: &'a Dialer,
    /// The maximum number of connections.
    pub(super) max: usize,
    /// Whether further ones may be opened.
    pub(super) desired: &'a watch::Receiver<Desired>,
}

impl Connections<'_> {
    /// Keeps the instance's connections up to date until none of them accepts new calls; returns why.
    pub(super) async fn serve(&self, first: Arc<Connection>) -> String {
        let mut gone = FuturesUnordered::from_iter([first.gone()]);
        let mut open = vec![first];
        let mut growth: Option<BoxFuture<'_, Option<Connection>>> = None;
        let mut spare = Spare::default();
        let mut inspection = interval_at(Instant::now() + SPARE, SPARE);
        loop {
            let may_grow = growth.is_none() && open.len() < self.max && self.desired.borrow().connect;
            tokio::select! {
                biased;
                Some(reason) = gone.next() => {
                    open.retain(|connection| connection.is_usable());
                    if open.is_empty() {
                        self.ready_instance.set_connections(open);
                        return reason;
                    }
                }
                grown = next(&mut growth) => {
                    growth = None;
                    if let Some(connection) = grown {
                        gone.push(connection.gone());
                        open.push(Arc::new(connection));
                    }
                }
                () = self.ready_instance.no_capacity(), if may_grow => {
                    if open.iter().all(|connection| connection.is_full()) {
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
            // Wakes the calls that wait for capacity, too.
            self.ready_instance.set_connections(open.clone());
        }
    }

    async fn grow(&self) -> Option<Connection> {
        let instance = Arc::clone(&self.desired.borrow().instance);
        match self.dialer.dial(&instance).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                tracing::debug!(cause = error, "further connection not opened; retrying");
                sleep(PAUSE).await;
                None
            }
        }
    }
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
