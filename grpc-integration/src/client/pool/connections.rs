//! As many connections to one server as the calls to it need.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hither_core::Address;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, sleep};

use super::dialer::Dialer;
use crate::client::ready_instance::ReadyInstance;
use crate::client::transport::Connection;

/// How long a further connection stays without a call, at least.
const SPARE: Duration = Duration::from_secs(60);
/// How long after a further connection could not be made the next attempt is made.
const PAUSE: Duration = Duration::from_secs(1);

/// The open connections of one endpoint.
///
/// One is enough for a server that does not limit the streams of a client. For one that does, further ones
/// are made while calls find no room, and given back when they are not used any more.
#[derive(Debug)]
pub(super) struct Connections<'a> {
    pub(super) endpoint: &'a ReadyInstance,
    pub(super) addresses: &'a [Address],
    pub(super) dialer: &'a Dialer,
    /// The most at a time.
    pub(super) max: usize,
    /// Whether further ones may be made.
    pub(super) may_dial: &'a watch::Receiver<bool>,
}

impl Connections<'_> {
    /// Keeps the endpoint's connections up to date until none of them takes new calls; says why.
    pub(super) async fn serve(&self, first: Arc<Connection>) -> String {
        let mut gone = FuturesUnordered::from_iter([first.gone()]);
        let mut open = vec![first];
        let mut growth: Option<BoxFuture<'_, Option<Connection>>> = None;
        let mut spare = Spare::default();
        let mut inspection = interval_at(Instant::now() + SPARE, SPARE);
        loop {
            let may_grow = growth.is_none() && open.len() < self.max && *self.may_dial.borrow();
            tokio::select! {
                biased;
                Some(reason) = gone.next() => {
                    open.retain(|connection| connection.is_usable());
                    if open.is_empty() {
                        self.endpoint.set_connections(open);
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
                () = self.endpoint.wants_more(), if may_grow => {
                    if open.iter().all(|connection| connection.is_full()) {
                        growth = Some(Box::pin(self.grow()));
                    }
                    continue;
                }
                _ = inspection.tick() => {
                    if !spare.look_at(&open) {
                        continue;
                    }
                    open.pop();
                }
            }
            // Wakes those who wait for room, too.
            self.endpoint.set_connections(open.clone());
        }
    }

    async fn grow(&self) -> Option<Connection> {
        match self.dialer.dial(self.addresses).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                tracing::debug!(error, "no further connection");
                sleep(PAUSE).await;
                None
            }
        }
    }
}

/// Finds out whether the newest connection is not needed any more: without a call at two looks.
#[derive(Debug, Default)]
struct Spare {
    idle: Option<Arc<Connection>>,
}

impl Spare {
    fn look_at(&mut self, open: &[Arc<Connection>]) -> bool {
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
