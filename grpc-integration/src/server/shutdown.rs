//! From registered to shut down: the steps of a graceful shutdown, in their order.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::config::{AFTER_THE_CUT, LifecycleConfig};
use super::cutter::{Cutter, Open};
use super::metrics::Draining;
use super::presence::Presence;
use super::registrations::Registrations;
use super::signals::Signals;
use crate::error::Result;

/// How long the server is without a call, and gets no new one, before it closes the connections that are left: those of
/// clients that do not answer. A client that does has closed its connection within a round trip.
const QUIET: Duration = Duration::from_secs(2);

impl LifecycleConfig {
    /// Runs the registered server to its end; `stop` makes it accept nothing new.
    pub(super) async fn run(
        &self,
        registrations: &Registrations,
        mut presence: Presence,
        mut signals: Signals,
        mut server: Pin<&mut impl Future<Output = Result<()>>>,
        stop: oneshot::Sender<()>,
        cutter: &Cutter,
    ) -> Result<()> {
        let outcome = tokio::select! {
            biased;
            ended = &mut server => {
                tracing::debug!("server ended by itself");
                registrations.close();
                self.report_health(false).await;
                registrations.deregister().await;
                return ended;
            }
            outcome = self.wait_for_shutdown(registrations, &mut presence, &mut signals) => outcome,
        };
        registrations.close();
        let _draining = Draining::new();
        let forced = tokio::select! {
            biased;
            ended = &mut server => {
                registrations.deregister().await;
                return outcome.and(ended);
            }
            () = signals.next() => {
                tracing::warn!("second signal; cutting connections");
                true
            }
            () = self.leave_registry(registrations, presence, outcome.is_ok()) => false,
        };
        // The receiver may have been dropped: then the server has its own way to end.
        let _ = stop.send(());
        let forced = forced
            || tokio::select! {
                biased;
                ended = &mut server => return outcome.and(ended),
                () = signals.next() => {
                    tracing::warn!("second signal; cutting connections");
                    true
                }
                () = self.drain(cutter) => false,
            };
        let Open { connections, calls } = cutter.cut();
        if connections > 0 {
            tracing::warn!(connections, calls, forced, "connections cut");
        } else {
            tracing::debug!(forced, "no open connections to cut");
        }
        let (ended, _) = join(timeout(AFTER_THE_CUT, server), async {
            // A forced end skipped the record. A process that exits now would leave it behind for its TTL.
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

    /// Waits until the drain timeout is over. Where no call is left before, the connections are cut early.
    async fn drain(&self, cutter: &Cutter) {
        let Open { connections, calls } = cutter.open();
        tracing::info!(drain_timeout = ?self.drain_timeout, connections, calls, "draining; no new calls accepted");
        let idle = async {
            cutter.idle(QUIET).await;
            let Open { connections, .. } = cutter.cut();
            tracing::info!(connections, "no calls left; connections closed");
            std::future::pending::<()>().await;
        };
        // The server may have something of its own to finish after its connections.
        let _ = timeout(self.drain_timeout, idle).await;
    }

    /// Returns at the first signal, or with an error when a required registration is not there in time.
    async fn wait_for_shutdown(
        &self,
        registrations: &Registrations,
        presence: &mut Presence,
        signals: &mut Signals,
    ) -> Result<()> {
        tokio::select! {
            biased;
            () = signals.next() => Ok(()),
            error = self.follow_readiness(registrations, presence) => Err(error),
        }
    }

    /// Announces `Draining` and deregisters; with the delays that clients need, if there may be clients.
    pub(super) async fn leave_registry(
        &self,
        registrations: &Registrations,
        presence: Presence,
        clients: bool,
    ) {
        let (announce_delay, propagation_delay) = (self.announce_delay, self.propagation_delay);
        tracing::info!(?announce_delay, ?propagation_delay, "shutting down; leaving the registry");
        self.report_health(false).await;
        // A server that is not ready has announced it before.
        if clients && presence == Presence::In {
            registrations.announce_draining().await;
            sleep(announce_delay).await;
        }
        registrations.deregister().await;
        if clients {
            sleep(presence.propagation_left(propagation_delay)).await;
        }
    }
}

/// Completes when the server should drain: accept no new connections and calls, and finish those in flight.
#[derive(Debug)]
pub struct Shutdown(oneshot::Receiver<()>);

impl Shutdown {
    /// Returns the future and what completes it; dropping that completes it too.
    pub(super) fn new() -> (oneshot::Sender<()>, Self) {
        let (stop, shutdown) = oneshot::channel();
        (stop, Self(shutdown))
    }
}

impl Future for Shutdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::sync::Arc;

    use hither_core::{Instance, Registration, Resolver, ServiceName};
    use hither_memory::MemoryRegistry;
    use tokio::time::Instant;

    use super::*;
    use crate::error::{Error, ErrorKind};

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    fn greeter() -> ServiceName {
        "greeter".parse().unwrap()
    }

    fn failed() -> Result<()> {
        Err(Error::new(ErrorKind::Server, "a late failure"))
    }

    /// Runs a server that ends by itself after this time. Returns how it has ended, and when.
    async fn run(
        registry: &MemoryRegistry,
        describe: impl FnOnce(&mut LifecycleConfig),
        signals: Signals,
        (after, result): (Duration, Result<()>),
    ) -> (Result<()>, Duration) {
        let mut config = LifecycleConfig::new(Arc::new(registry.clone()));
        (config.announce_delay, config.propagation_delay) = (Duration::ZERO, Duration::ZERO);
        describe(&mut config);
        let instance = Instance::new("10.0.0.7:8001".parse().unwrap());
        let registration = Registration::new(greeter(), instance).unwrap();
        let registrations = Registrations::new(vec![registration], config.registry_timeout);
        let began = Instant::now();
        let presence = config.start(&registrations).await;
        let server = pin!(async {
            sleep(after).await;
            result
        });
        let (stop, _shutdown) = Shutdown::new();
        let outcome = config.run(&registrations, presence, signals, server, stop, &Cutter::default()).await;
        let elapsed = began.elapsed();
        // Still with the registrations, which deregister in the background when they are dropped.
        registry.faults().delay(Duration::ZERO);
        if outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Server) {
            assert_eq!(registry.resolve(&greeter()).await.unwrap().len(), 0);
        }
        (outcome, elapsed)
    }

    /// It may do so while it is announced that it leaves, while it drains, and after the cut.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_while_it_shuts_down_is_deregistered_and_its_error_returned() {
        for (announce_delay, after) in [(HOUR, 10), (Duration::ZERO, 10), (Duration::ZERO, 22)] {
            let registry = MemoryRegistry::new();
            registry.faults().delay(SECOND / 10);
            let signals = Signals::of(Box::pin(sleep(SECOND)), pending());
            let describe = |config: &mut LifecycleConfig| config.announce_delay = announce_delay;
            let (outcome, elapsed) = run(&registry, describe, signals, (after * SECOND, failed())).await;
            assert_eq!(outcome.unwrap_err().to_string(), "a late failure", "{after}");
            assert_eq!(elapsed.as_secs(), u64::from(after));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_required_registration_that_failed_is_the_error_however_the_server_ends() {
        // It has three seconds to deregister, which it takes although the server has ended, twenty to drain, and one after
        // the cut.
        for (after, ended) in [(2.0, 5.0), (10.0, 10.0), (24.5, 24.5), (100.0, 25.0)] {
            for result in [Ok(()), failed()] {
                let registry = MemoryRegistry::new();
                registry.faults().freeze();
                let describe = |config: &mut LifecycleConfig| config.require_registration = Some(SECOND);
                let signals = Signals::of(pending(), pending());
                let (outcome, elapsed) =
                    run(&registry, describe, signals, (SECOND.mul_f64(after), result)).await;
                assert_eq!(outcome.unwrap_err().to_string(), "greeter was not registered within 1s");
                assert!((elapsed.as_secs_f64() - ended).abs() < 0.1, "{elapsed:?} for {after}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn neither_a_server_nor_a_registry_that_hangs_holds_up_a_forced_end() {
        let registry = MemoryRegistry::new();
        let frozen = registry.clone();
        let signals = Signals::of(
            Box::pin(async move {
                sleep(SECOND).await;
                frozen.faults().freeze();
            }),
            ready(()),
        );
        let (outcome, elapsed) = run(&registry, |_| (), signals, (HOUR, Ok(()))).await;
        outcome.unwrap();
        assert_eq!(elapsed, SECOND + AFTER_THE_CUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_forced_shutdown_cuts_connections_at_once_without_a_tracing_subscriber() {
        let config = LifecycleConfig::new(Arc::new(MemoryRegistry::new()));
        let registrations = Registrations::new(Vec::new(), AFTER_THE_CUT);
        let cutter = Cutter::default();
        let switch = cutter.switch();
        // A server with a connection that ends only when it is cut.
        let server = pin!(async {
            while !switch.is_cut() {
                sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        });
        let (stop, _shutdown) = Shutdown::new();
        let signals = Signals::of(ready(()), ready(()));
        let began = Instant::now();
        config.run(&registrations, Presence::In, signals, server, stop, &cutter).await.unwrap();
        assert!(began.elapsed() < AFTER_THE_CUT / 2, "{:?}", began.elapsed());
    }
}
