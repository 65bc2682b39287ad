//! The connections to one instance, kept up by a task of its own.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hither_core::{Backoff, Instance};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::Instrument;

use super::changes::Notifier;
use super::connections::Connections;
use super::desired::Desired;
use super::dialer::Dialer;
use super::outage::Outage;
use super::outage_log::{Guard, OutageLog};
use super::pace::Next;
use super::renewals::Renewals;
use super::server_pace::{Rest, ServerPace};
use crate::client::health::{Health, HealthCheck};
use crate::client::metrics::ChannelMetrics;
use crate::client::ready_instance::ReadyInstance;
use crate::client::server_key::ServerKeys;
use crate::client::status::{Connectivity, Known, Observed, Subject};
use crate::client::transport::{Connection, Trial, Verdict};
use crate::task::Task;

/// An instance counts as reachable again when it has answered a call, or a connection was open for as long.
const SETTLED: Duration = Duration::from_secs(1);
/// The same for an instance that had ended one connection after the other without an answer.
const PROVEN: Duration = Duration::from_secs(60);

/// For how long an instance whose last connection is replaced counts as ready: where calls may go nowhere else they wait for it, and
/// no policy makes changes for what is over after a round trip.
const REPLACING: Duration = Duration::from_secs(1);

/// How subchannels connect.
#[derive(Debug, Clone)]
pub(crate) struct SubchannelConfig {
    pub(crate) server_keys: ServerKeys,
    pub(crate) dialer: Dialer,
    pub(crate) renewals: Renewals,
    pub(crate) backoff: Backoff,
    pub(crate) health_check: Option<HealthCheck>,
    /// The maximum number of connections to one instance.
    pub(crate) max_connections: usize,
    pub(crate) metrics: ChannelMetrics,
}

impl SubchannelConfig {
    /// Returns the config for one subchannel, with jitter of its own: instances that were lost together are not connected
    /// to in the same moment (thundering herd).
    pub(super) fn fork(&mut self, instance: &ReadyInstance) -> Self {
        Self {
            server_keys: self.server_keys.clone(),
            backoff: self.backoff.fork(),
            dialer: self.dialer.fork(instance.capacity()),
            renewals: self.renewals.clone(),
            health_check: self.health_check.as_mut().map(HealthCheck::fork),
            max_connections: self.max_connections,
            metrics: self.metrics.clone(),
        }
    }
}

/// The connections to one instance. Dropping it closes them, each when its last call has ended.
#[derive(Debug)]
pub(super) struct Subchannel {
    ready_instance: ReadyInstance,
    observed: Arc<Observed>,
    tier: Option<u32>,
    pace: ServerPace,
    desired: watch::Sender<Desired>,
    _task: Task,
}

impl Subchannel {
    /// Starts to connect to the instance; `changed` is notified of every change of connectivity. `pace` is that of an earlier
    /// subchannel of the server, if anything is known of it.
    pub(super) fn start(
        ready_instance: ReadyInstance,
        tier: Option<u32>,
        config: SubchannelConfig,
        pace: Option<ServerPace>,
        changed: Notifier,
        outages: Arc<OutageLog>,
    ) -> Self {
        let instance = Arc::clone(ready_instance.instance());
        let span = tracing::debug_span!("subchannel", address = %instance.address());
        let pace = pace.unwrap_or_else(|| ServerPace::new(config.backoff, config.renewals));
        let connectivity = pace.rest().map_or(Connectivity::Connecting, |rest| rest.connectivity);
        let observed = Arc::new(Observed::new(connectivity));
        let (desired, receiver) = watch::channel(Desired { instance, connect: true });
        let task = SubchannelTask {
            ready_instance: ready_instance.clone(),
            pace: pace.clone(),
            dialer: config.dialer,
            health_check: config.health_check,
            max_connections: config.max_connections,
            metrics: config.metrics,
            desired: receiver,
            observed: Arc::clone(&observed),
            changed,
            outages,
        };
        let task = Task::spawn(task.run().instrument(span));
        Self { ready_instance, observed, tier, pace, desired, _task: task }
    }

    pub(super) fn ready_instance(&self) -> &ReadyInstance {
        &self.ready_instance
    }

    pub(super) fn connectivity(&self) -> Connectivity {
        self.observed.connectivity()
    }

    pub(super) fn pace(&self) -> &ServerPace {
        &self.pace
    }

    pub(super) fn connects(&self) -> bool {
        self.desired.borrow().connect
    }

    /// Returns it as statuses see it.
    pub(super) fn subject(&self) -> Subject {
        let (instance, observed) = (self.ready_instance.clone(), Arc::clone(&self.observed));
        Subject { instance, observed, tier: self.tier }
    }

    /// Sets the description of the instance, which has the same addresses, and its tier.
    pub(super) fn describe(&mut self, instance: Arc<Instance>, tier: Option<u32>, known: &Known) {
        let is_other_tier = std::mem::replace(&mut self.tier, tier) != tier;
        if !Arc::ptr_eq(self.ready_instance.instance(), &instance) {
            if self.ready_instance.instance().id() != instance.id() {
                known.remove(&self.ready_instance);
            }
            self.ready_instance = self.ready_instance.described_as(Arc::clone(&instance));
            known.insert(self.subject());
            self.desired.send_modify(|desired| desired.instance = instance);
        } else if is_other_tier {
            known.insert(self.subject());
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
    dialer: Dialer,
    health_check: Option<HealthCheck>,
    pace: ServerPace,
    max_connections: usize,
    metrics: ChannelMetrics,
    desired: watch::Receiver<Desired>,
    observed: Arc<Observed>,
    changed: Notifier,
    outages: Arc<OutageLog>,
}

impl SubchannelTask {
    async fn run(mut self) {
        loop {
            if !self.desired.borrow().connect {
                self.set_connectivity(Connectivity::Idle);
            }
            if self.desired.wait_for(|desired| desired.connect).await.is_err() {
                return;
            }
            self.keep_connected().await;
            self.pace.reset();
        }
    }

    /// Connects, and again when no connection is left, until it is not to connect.
    async fn keep_connected(&mut self) {
        let outages = Arc::clone(&self.outages);
        let mut outage = Outage::new(&outages, self.pace.clone());
        let mut sickness = None;
        match self.pace.rest() {
            Some(Rest { until, connectivity }) => {
                self.set_connectivity(connectivity);
                if !self.wait_to_connect(until).await {
                    return;
                }
            }
            None => self.set_connectivity(Connectivity::Connecting),
        }
        loop {
            let instance = Arc::clone(&self.desired.borrow().instance);
            self.pace.begins();
            let replaced_by = Instant::now() + REPLACING;
            let connected = {
                let mut dialling = pin!(self.dialer.dial(&instance));
                loop {
                    tokio::select! {
                        biased;
                        () = self.desired.wait_for(|desired| !desired.connect).map(drop) => return,
                        connected = &mut dialling => break connected,
                        () = sleep_until(replaced_by), if self.is_replacing() => {
                            self.set_connectivity(Connectivity::Connecting);
                        }
                    }
                }
            };
            let until = match connected {
                Ok(connection) => self.serve(connection, &instance, &mut outage, &mut sickness).await,
                Err(error) => {
                    self.metrics.connect_failed();
                    outage.attempt_failed(&instance, &error);
                    self.fail(error, self.pace.failed())
                }
            };
            if !self.wait_to_connect(until).await {
                return;
            }
        }
    }

    /// Waits for the next attempt, which new certificates bring forward. Returns whether it is to be made.
    async fn wait_to_connect(&mut self, until: Instant) -> bool {
        let mut delay = pin!(sleep_until(until));
        let mut renewals = self.pace.renewals();
        loop {
            tokio::select! {
                biased;
                _ = self.desired.wait_for(|desired| !desired.connect) => return false,
                () = renewals.next() => {
                    let until = self.pace.renewed().min(delay.deadline());
                    delay.as_mut().reset(until);
                }
                () = &mut delay => return true,
            }
        }
    }

    /// Serves calls until no connection is left; returns when to connect again.
    async fn serve<'a>(
        &mut self,
        first: Connection,
        instance: &Instance,
        outage: &mut Outage<'a>,
        sickness: &mut Option<Guard<'a>>,
    ) -> Instant {
        self.pace.connected();
        let first = Arc::new(first);
        let (trial, since) = (Trial::of(&first), Instant::now());
        let address = first.address().clone();
        self.ready_instance.set_connections(vec![Arc::clone(&first)]);
        let mut health_check = self.health_check.take();
        if health_check.is_none() {
            self.set_connectivity(Connectivity::Ready);
        }
        let connections = Connections {
            ready_instance: &self.ready_instance,
            dialer: &self.dialer,
            max: self.max_connections,
            metrics: &self.metrics,
            desired: &self.desired,
        };
        let lost = {
            let mut serving = pin!(connections.serve(first));
            let mut checking = pin!(self.check(health_check.as_mut(), instance, outage.log(), sickness));
            let mut settled = false;
            loop {
                tokio::select! {
                    biased;
                    lost = &mut serving => break lost,
                    () = &mut checking => {}
                    () = sleep(SETTLED), if !settled => {
                        settled = self.is_reachable(&trial, since);
                        if settled {
                            self.end(outage, instance);
                        }
                    }
                }
            }
        };
        // A health check has to come first where the server may be another process by now.
        let again = if health_check.is_none() { Connectivity::Replacing } else { Connectivity::Connecting };
        self.health_check = health_check;
        tracing::debug!(cause = lost, "connection lost");
        self.observed.lost(&format!("{lost} at {address}"));
        if trial.verdict() == Verdict::Answered {
            self.end(outage, instance);
        }
        match self.pace.lost(trial) {
            Next::AtOnce => {
                outage.is_over_unless_logged();
                self.set_connectivity(again);
                Instant::now()
            }
            Next::Soon(pause) => self.rest(pause, Connectivity::Connecting),
            Next::Failing(delay, connections) => {
                let cause =
                    format!("no answer over {connections} connections; the last one: {lost} at {address}");
                outage.begin(instance, connections, &cause);
                self.fail(cause, delay)
            }
        }
    }

    /// Is ready while the health check reports so. Never completes.
    async fn check<'a>(
        &self,
        health_check: Option<&mut HealthCheck>,
        instance: &Instance,
        outages: &'a OutageLog,
        sickness: &mut Option<Guard<'a>>,
    ) {
        let Some(health_check) = health_check else { return std::future::pending().await };
        let report = |health| {
            self.set_connectivity(match health {
                Health::Serving => {
                    if let Some(sickness) = sickness.take() {
                        sickness.end(instance);
                    }
                    Connectivity::Ready
                }
                Health::NotServing(cause) => {
                    sickness.get_or_insert_with(|| outages.unhealthy(instance, &cause));
                    Connectivity::TransientFailure(cause.into())
                }
            });
        };
        health_check.run(&self.ready_instance, report).await;
    }

    /// Returns whether a connection shows that the instance can be reached: one that is open shows nothing of an instance
    /// that has ended many without an answer.
    fn is_reachable(&self, trial: &Trial, since: Instant) -> bool {
        !self.pace.is_failing() || trial.verdict() == Verdict::Answered || since.elapsed() >= PROVEN
    }

    fn is_replacing(&self) -> bool {
        self.observed.connectivity() == Connectivity::Replacing
    }

    fn fail(&self, cause: String, delay: Duration) -> Instant {
        tracing::debug!(cause, ?delay, "connection attempt failed; retrying");
        self.rest(delay, Connectivity::TransientFailure(cause.into()))
    }

    /// Returns when the delay is over.
    fn rest(&self, delay: Duration, connectivity: Connectivity) -> Instant {
        let until = Instant::now() + delay;
        // Before the pool sees it: another subchannel may follow at once.
        self.pace.set_rest(Rest { until, connectivity: connectivity.clone() });
        self.set_connectivity(connectivity);
        until
    }

    fn end(&self, outage: &mut Outage<'_>, instance: &Instance) {
        if outage.end(instance) {
            // The pool looks for summaries that are due.
            self.changed.notify();
        }
    }

    fn set_connectivity(&self, connectivity: Connectivity) {
        self.observed.set(connectivity);
        self.changed.notify();
    }
}

impl Drop for SubchannelTask {
    fn drop(&mut self) {
        // After a panic: nothing connects any more, so calls are not to wait for it.
        if std::thread::panicking() {
            self.ready_instance.close();
            self.set_connectivity(Connectivity::TransientFailure(
                "the task of the instance has panicked".into(),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use hither_core::contain::contain;

    use super::*;
    use crate::client::connector::{Connected, Connector, Destination, TcpConnector};
    use crate::client::pool::changes::Changes;
    use crate::client::transport::TransportConfig;

    #[test]
    fn a_task_that_panics_leaves_no_instance_for_which_calls_wait() {
        let instance = Arc::new(Instance::new("a:1".parse().unwrap()));
        let observed = Arc::new(Observed::new(Connectivity::Connecting));
        let backoff = Backoff::proportional(SETTLED, 1.0, SETTLED, 0.0);
        let key = ServerKeys::default().of(&instance);
        let task = SubchannelTask {
            ready_instance: ReadyInstance::new(Arc::clone(&instance)),
            dialer: Dialer::new(Arc::new(TcpConnector::default()), SETTLED, TransportConfig::default()),
            health_check: None,
            pace: ServerPace::new(backoff, Renewals::never()),
            max_connections: 1,
            metrics: ChannelMetrics::new("greeter"),
            desired: watch::channel(Desired { instance, connect: true }).1,
            observed: Arc::clone(&observed),
            changed: Notifier { key, changes: Arc::<Changes>::default() },
            outages: Arc::new(OutageLog::new("greeter".parse().unwrap())),
        };
        contain(|| {
            let _task = task;
            panic!("a bug of ours");
        })
        .unwrap_err();
        let expected = Connectivity::TransientFailure("the task of the instance has panicked".into());
        assert_eq!(observed.connectivity(), expected);
    }
    /// Counts the attempts.
    #[derive(Debug, Default)]
    struct Refusing(AtomicUsize);

    #[async_trait]
    impl Connector for Refusing {
        async fn connect(&self, _: Destination<'_>) -> io::Result<Connected> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_certificates_newer_than_the_last_attempt_end_a_backoff_that_is_inherited() {
        let (renewed, renewals) = watch::channel(());
        renewed.send(()).unwrap();
        let connector = Arc::<Refusing>::default();
        let mut config = SubchannelConfig {
            server_keys: ServerKeys::default(),
            dialer: Dialer::new(Arc::clone(&connector) as _, SETTLED, TransportConfig::default()),
            renewals: Renewals::of(renewals),
            backoff: Backoff::proportional(60 * SETTLED, 1.0, 60 * SETTLED, 0.0),
            health_check: None,
            max_connections: 1,
            metrics: ChannelMetrics::new("greeter"),
        };
        let mut attempts_after = async |pace| {
            let instance = Arc::new(Instance::new("a:1".parse().unwrap()));
            let (key, changes) = (ServerKeys::default().of(&instance), Arc::<Changes>::default());
            let outages = Arc::new(OutageLog::new("greeter".parse().unwrap()));
            let instance = ReadyInstance::new(instance);
            let (config, changed) = (config.fork(&instance), Notifier { key, changes });
            let subchannel = Subchannel::start(instance, None, config, pace, changed, outages);
            sleep(10 * SETTLED).await;
            (connector.0.load(Ordering::Relaxed), Some(subchannel.pace().clone()))
        };
        let (attempts, pace) = attempts_after(None).await;
        assert_eq!(attempts, 1);
        let (attempts, pace) = attempts_after(pace).await;
        assert_eq!(attempts, 1, "it was made with these");
        renewed.send(()).unwrap();
        let (attempts, pace) = attempts_after(pace).await;
        assert_eq!(attempts, 2, "no subchannel was there to see them");
        assert_eq!(attempts_after(pace).await.0, 2);
    }
}
