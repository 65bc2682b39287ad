//! The connections to one instance, kept up by a task of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hither_core::{Backoff, Instance};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::connections::Connections;
use super::desired::Desired;
use super::dialer::Dialer;
use super::outage_log::{ATTEMPTS, OutageLog, Unreachable};
use crate::client::ready_instance::ReadyInstance;
use crate::client::transport::Connection;
use crate::task::Task;

/// A connection that is lost sooner than this after it was made counts as a failed attempt.
const SETTLED: Duration = Duration::from_secs(1);

/// gRPC's connectivity states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Connectivity {
    /// Not connected, and not connecting.
    Idle,
    /// Connecting, for the first time or after a connection that had settled.
    Connecting,
    /// Calls can be sent.
    Ready,
    /// The last attempt failed, for this reason. It stays until the subchannel is ready again, so that the attempts
    /// in between do not hide the failure (gRFC A48, A62).
    TransientFailure(Arc<str>),
}

/// How subchannels connect.
#[derive(Debug, Clone)]
pub(crate) struct SubchannelConfig {
    pub(crate) dialer: Dialer,
    pub(crate) backoff: Backoff,
    /// The maximum number of connections to one instance.
    pub(crate) max_connections: usize,
}

impl SubchannelConfig {
    /// Returns the config for one subchannel, with jitter of its own: instances that were lost together are not connected
    /// to in the same moment (thundering herd).
    pub(super) fn fork(&mut self) -> Self {
        Self {
            backoff: self.backoff.fork(),
            dialer: self.dialer.fork(),
            max_connections: self.max_connections,
        }
    }
}

/// The connections to one instance. Dropping it closes them, each when its last call has ended.
#[derive(Debug)]
pub(super) struct Subchannel {
    ready_instance: ReadyInstance,
    connectivity: Arc<Mutex<Connectivity>>,
    desired: watch::Sender<Desired>,
    _task: Task,
}

impl Subchannel {
    /// Starts to connect to the instance; `changed` is notified of every change of connectivity.
    pub(super) fn start(
        ready_instance: ReadyInstance,
        config: SubchannelConfig,
        changed: Arc<Notify>,
        outages: Arc<OutageLog>,
    ) -> Self {
        let instance = Arc::clone(ready_instance.instance());
        let span = tracing::debug_span!("subchannel", address = %instance.address());
        let connectivity = Arc::new(Mutex::new(Connectivity::Connecting));
        let (desired, receiver) = watch::channel(Desired { instance, connect: true });
        let task = SubchannelTask {
            ready_instance: ready_instance.clone(),
            config,
            desired: receiver,
            connectivity: Arc::clone(&connectivity),
            changed,
            outages,
        };
        let task = Task::spawn(task.run().instrument(span));
        Self { ready_instance, connectivity, desired, _task: task }
    }

    pub(super) fn ready_instance(&self) -> &ReadyInstance {
        &self.ready_instance
    }

    pub(super) fn connectivity(&self) -> Connectivity {
        self.connectivity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn connects(&self) -> bool {
        self.desired.borrow().connect
    }

    /// Sets the description of the instance, which has the same addresses.
    pub(super) fn describe(&mut self, instance: Arc<Instance>) {
        if !Arc::ptr_eq(self.ready_instance.instance(), &instance) {
            self.ready_instance = self.ready_instance.described_as(Arc::clone(&instance));
            self.desired.send_modify(|desired| desired.instance = instance);
        }
    }

    /// Sets whether it connects while it is not connected.
    pub(super) fn set_connect(&self, connect: bool) {
        self.desired.send_if_modified(|desired| std::mem::replace(&mut desired.connect, connect) != connect);
    }
}

impl Drop for Subchannel {
    fn drop(&mut self) {
        self.ready_instance.close();
    }
}

struct SubchannelTask {
    ready_instance: ReadyInstance,
    config: SubchannelConfig,
    desired: watch::Receiver<Desired>,
    connectivity: Arc<Mutex<Connectivity>>,
    changed: Arc<Notify>,
    outages: Arc<OutageLog>,
}

impl SubchannelTask {
    async fn run(mut self) {
        loop {
            self.set_connectivity(Connectivity::Idle);
            if self.desired.wait_for(|desired| desired.connect).await.is_err() {
                return;
            }
            self.set_connectivity(Connectivity::Connecting);
            self.connect().await;
            self.config.backoff.reset();
        }
    }

    /// Connects, and retries with exponential backoff, until a settled connection was lost or it is not to connect.
    async fn connect(&mut self) {
        let outages = Arc::clone(&self.outages);
        let mut outage = Outage::new(&outages);
        loop {
            let instance = Arc::clone(&self.desired.borrow().instance);
            let connected = tokio::select! {
                connected = self.config.dialer.dial(&instance) => connected,
                _ = self.desired.wait_for(|desired| !desired.connect) => return,
            };
            let error = match connected {
                Ok(connection) => {
                    let since = Instant::now();
                    let lost = {
                        let serving = self.serve(connection);
                        tokio::pin!(serving);
                        tokio::select! {
                            biased;
                            lost = &mut serving => lost,
                            // Only now it is reachable: see `SETTLED`.
                            () = sleep(SETTLED) => {
                                if outage.end(&instance) {
                                    // The pool looks for summaries that are due.
                                    self.changed.notify_one();
                                }
                                serving.await
                            }
                        }
                    };
                    tracing::debug!(cause = lost, "connection lost");
                    if since.elapsed() >= SETTLED {
                        return;
                    }
                    lost
                }
                Err(error) => error,
            };
            let delay = self.config.backoff.next_delay();
            tracing::debug!(cause = error, ?delay, "connection attempt failed; retrying");
            outage.attempt_failed(&instance, &error);
            self.set_connectivity(Connectivity::TransientFailure(error.into()));
            tokio::select! {
                () = sleep(delay) => {}
                _ = self.desired.wait_for(|desired| !desired.connect) => return,
            }
        }
    }

    /// Serves calls until no connection is left; returns why.
    async fn serve(&self, connection: Connection) -> String {
        let connection = Arc::new(connection);
        self.ready_instance.set_connections(vec![Arc::clone(&connection)]);
        self.set_connectivity(Connectivity::Ready);
        let connections = Connections {
            ready_instance: &self.ready_instance,
            dialer: &self.config.dialer,
            max: self.config.max_connections,
            desired: &self.desired,
        };
        connections.serve(connection).await
    }

    fn set_connectivity(&self, connectivity: Connectivity) {
        *self.connectivity.lock().unwrap_or_else(PoisonError::into_inner) = connectivity;
        self.changed.notify_one();
    }
}

/// The failed attempts in a row, and whether they were logged.
struct Outage<'a> {
    log: &'a OutageLog,
    failed: u32,
    logged: Option<Unreachable<'a>>,
}

impl<'a> Outage<'a> {
    fn new(log: &'a OutageLog) -> Self {
        Self { log, failed: 0, logged: None }
    }

    fn attempt_failed(&mut self, instance: &Instance, cause: &str) {
        self.failed = self.failed.saturating_add(1);
        if self.failed == ATTEMPTS {
            self.logged = Some(self.log.unreachable(instance, cause));
        }
    }

    /// Returns whether the outage had been logged.
    fn end(&mut self, instance: &Instance) -> bool {
        self.failed = 0;
        let logged = self.logged.take();
        logged.map(|logged| logged.reachable(instance)).is_some()
    }
}
