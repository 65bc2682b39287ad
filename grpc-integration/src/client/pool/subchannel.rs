//! The connections to one set of addresses, kept up by a task of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hither_core::{Address, Backoff};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::connections::Connections;
use super::dialer::Dialer;
use crate::client::ready_instance::ReadyInstance;
use crate::client::transport::Connection;
use crate::task::Task;

/// A connection that is lost sooner than this after it was made counts as a failed attempt.
const SETTLED: Duration = Duration::from_secs(1);

/// gRPC's connectivity states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Connectivity {
    /// Not connected, and not trying to be.
    Idle,
    /// Connecting, for the first time or after a connection that had been fine.
    Connecting,
    /// Calls can be sent.
    Ready,
    /// The last attempt failed, for this reason. It stays until it is ready again, so that the attempts in
    /// between do not hide the failure.
    TransientFailure(Arc<str>),
}

/// How subchannels connect.
#[derive(Debug, Clone)]
pub(crate) struct SubchannelConfig {
    pub(crate) dialer: Dialer,
    pub(crate) backoff: Backoff,
    /// The most connections to one set of addresses.
    pub(crate) max_connections: usize,
}

/// The connections to one set of addresses. Dropping it ends them, each when the calls on it are done.
#[derive(Debug)]
pub(crate) struct Subchannel {
    endpoint: ReadyInstance,
    connectivity: Arc<Mutex<Connectivity>>,
    dials: watch::Sender<bool>,
    _task: Task,
}

impl Subchannel {
    /// Starts to connect `endpoint` to `addresses`; `changed` is told of every change of the state.
    pub(crate) fn start(
        endpoint: ReadyInstance,
        addresses: Vec<Address>,
        config: SubchannelConfig,
        changed: Arc<Notify>,
    ) -> Self {
        let connectivity = Arc::new(Mutex::new(Connectivity::Connecting));
        let (dials, may_dial) = watch::channel(true);
        let span =
            tracing::debug_span!("subchannel", address = addresses.first().map(tracing::field::display));
        let run = SubchannelTask {
            endpoint: endpoint.clone(),
            addresses,
            config,
            may_dial,
            connectivity: Arc::clone(&connectivity),
            changed,
        };
        let task = Task::spawn(run.run().instrument(span));
        Self { endpoint, connectivity, dials, _task: task }
    }

    pub(crate) fn endpoint(&self) -> &ReadyInstance {
        &self.endpoint
    }

    pub(crate) fn endpoint_mut(&mut self) -> &mut ReadyInstance {
        &mut self.endpoint
    }

    pub(crate) fn connectivity(&self) -> Connectivity {
        self.connectivity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn dials(&self) -> bool {
        *self.dials.borrow()
    }

    /// Sets whether it connects while it is not connected.
    pub(crate) fn dial(&self, dials: bool) {
        self.dials.send_if_modified(|present| std::mem::replace(present, dials) != dials);
    }
}

impl Drop for Subchannel {
    fn drop(&mut self) {
        self.endpoint.close();
    }
}

/// What the task of a subchannel works with.
struct SubchannelTask {
    endpoint: ReadyInstance,
    addresses: Vec<Address>,
    config: SubchannelConfig,
    may_dial: watch::Receiver<bool>,
    connectivity: Arc<Mutex<Connectivity>>,
    changed: Arc<Notify>,
}

impl SubchannelTask {
    async fn run(mut self) {
        loop {
            self.tell(Connectivity::Idle);
            if self.may_dial.wait_for(|may| *may).await.is_err() {
                return;
            }
            self.tell(Connectivity::Connecting);
            self.connect().await;
            self.config.backoff.reset();
        }
    }

    /// Connects, again and again, until a settled connection has come to its end or it is not to be dialled.
    async fn connect(&mut self) {
        loop {
            let connected = tokio::select! {
                connected = self.config.dialer.dial(&self.addresses) => connected,
                _ = self.may_dial.wait_for(|may| !*may) => return,
            };
            let error = match connected {
                Ok(connection) => {
                    let since = Instant::now();
                    let lost = self.serve(connection).await;
                    tracing::debug!(lost, "not connected any more");
                    if since.elapsed() >= SETTLED {
                        return;
                    }
                    lost
                }
                Err(error) => error,
            };
            let delay = self.config.backoff.next_delay();
            tracing::debug!(error, ?delay, "not connected");
            self.tell(Connectivity::TransientFailure(error.into()));
            tokio::select! {
                () = sleep(delay) => {}
                _ = self.may_dial.wait_for(|may| !*may) => return,
            }
        }
    }

    async fn serve(&self, connection: Connection) -> String {
        let connection = Arc::new(connection);
        self.endpoint.set_connections(vec![Arc::clone(&connection)]);
        self.tell(Connectivity::Ready);
        let connections = Connections {
            endpoint: &self.endpoint,
            addresses: &self.addresses,
            dialer: &self.config.dialer,
            max: self.config.max_connections,
            may_dial: &self.may_dial,
        };
        connections.serve(connection).await
    }

    fn tell(&self, connectivity: Connectivity) {
        *self.connectivity.lock().unwrap_or_else(PoisonError::into_inner) = connectivity;
        self.changed.notify_one();
    }
}
