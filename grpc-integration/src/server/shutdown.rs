//! The steps of a server's life, in their order.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join;
use hither_core::{Instance, Registrar, ServiceName};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::LifecycleError;
use super::cutter::Cutter;
use super::registrations::Registrations;
use super::signals::Signals;

/// How long a server may take to end once all its connections are cut.
const AFTER_THE_CUT: Duration = Duration::from_secs(1);

/// What is decided before the socket is bound.
#[derive(Debug)]
pub(super) struct LifecycleConfig {
    pub(super) registrar: Arc<dyn Registrar>,
    pub(super) services: Vec<ServiceName>,
    pub(super) ttl: Duration,
    pub(super) health: Option<Health>,
    pub(super) require: Option<Duration>,
    pub(super) announce_delay: Duration,
    pub(super) propagation_delay: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) registry_timeout: Duration,
}

/// The health of a server, and the names under which it is told.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) reporter: HealthReporter,
    pub(super) names: Vec<String>,
}

impl LifecycleConfig {
    pub(super) async fn report_health(&self, serving: bool) {
        if let Some(health) = &self.health {
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            for name in &health.names {
                health.reporter.set_service_status(name, status).await;
            }
        }
    }

    pub(super) fn register(&self, instance: Instance) -> Registrations {
        Registrations::start(&self.registrar, &self.services, instance, self.ttl, self.registry_timeout)
    }

    /// From being registered to the end; `stop` makes the server take no more.
    pub(super) async fn run(
        &self,
        registrations: &Registrations,
        mut signals: Signals,
        mut server: Pin<&mut impl Future<Output = Result<(), LifecycleError>>>,
        stop: oneshot::Sender<()>,
        cutter: &Cutter,
    ) -> Result<(), LifecycleError> {
        let outcome = tokio::select! {
            biased;
            ended = &mut server => {
                tracing::debug!("the server ended by itself");
                self.report_health(false).await;
                registrations.deregister().await;
                return ended;
            }
            outcome = self.wait_for_shutdown(registrations, &mut signals) => outcome,
        };
        let forced = tokio::select! {
            biased;
            ended = &mut server => {
                registrations.deregister().await;
                return outcome.and(ended);
            }
            () = signals.next() => true,
            () = self.leave_registry(registrations, outcome.is_ok()) => false,
        };
        // Nobody may be listening: then the server has its own way to end.
        let _ = stop.send(());
        if !forced {
            tracing::info!(drain_timeout = ?self.drain_timeout, "taking no new calls, finishing those under way");
            tokio::select! {
                biased;
                ended = &mut server => return outcome.and(ended),
                () = signals.next() => {}
                () = sleep(self.drain_timeout) => {}
            }
        }
        tracing::warn!(connections = cutter.cut(), forced, "cutting what remains");
        let (ended, _) = join(timeout(AFTER_THE_CUT, server), async {
            // In a hurry the record was skipped. A process that ends now would leave it behind for its TTL.
            if forced {
                let _ = timeout(AFTER_THE_CUT, registrations.deregister()).await;
            }
        })
        .await;
        match ended {
            Ok(ended) => outcome.and(ended),
            Err(_) => outcome,
        }
    }

    /// Ends with the first signal, or because the server is not registered in time where it has to be.
    async fn wait_for_shutdown(
        &self,
        registrations: &Registrations,
        signals: &mut Signals,
    ) -> Result<(), LifecycleError> {
        if let Some(within) = self.require {
            tokio::select! {
                biased;
                () = signals.next() => return Ok(()),
                registered = registrations.registered(within) => registered?,
            }
        }
        signals.next().await;
        Ok(())
    }

    /// Leaves the registry; with time for clients to hear of it where there are clients.
    async fn leave_registry(&self, registrations: &Registrations, clients: bool) {
        tracing::info!(announce_delay = ?self.announce_delay, propagation_delay = ?self.propagation_delay, "leaving");
        self.report_health(false).await;
        if clients {
            registrations.announce_draining().await;
            sleep(self.announce_delay).await;
        }
        registrations.deregister().await;
        if clients {
            sleep(self.propagation_delay).await;
        }
    }
}

/// Ready when the server should stop: it takes no new connections and calls from then on, and finishes those
/// that it has.
#[derive(Debug)]
pub struct Shutdown(oneshot::Receiver<()>);

impl Shutdown {
    /// The future, and what fires it; dropping that fires it too.
    pub(super) fn new() -> (oneshot::Sender<()>, Self) {
        let (fire, shutdown) = oneshot::channel();
        (fire, Self(shutdown))
    }
}

impl Future for Shutdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}
