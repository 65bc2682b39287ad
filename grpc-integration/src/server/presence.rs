//! In the registry while the server is ready.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::config::LifecycleConfig;
use super::registrations::Registrations;
use crate::error::Error;

/// Whether clients may find the server in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Registered, or to be registered.
    In,
    /// To be removed, which an outage may delay.
    Leaving,
    /// Removed, at this time; `None` if it was never there.
    Out(Option<Instant>),
}

impl Presence {
    /// How much of the time is left that the removal of the record needs to reach every client.
    pub(super) fn propagation_left(self, propagation_delay: Duration) -> Duration {
        match self {
            Self::In | Self::Leaving => propagation_delay,
            Self::Out(Some(since)) => propagation_delay.saturating_sub(since.elapsed()),
            Self::Out(None) => Duration::ZERO,
        }
    }
}

impl LifecycleConfig {
    /// Starts to register if the server is ready.
    pub(super) async fn start(&self, registrations: &Registrations) -> Presence {
        let is_ready = self.readiness.is_ready();
        self.report_health(is_ready).await;
        registrations.start(&self.registrar, !is_ready);
        if is_ready { Presence::In } else { Presence::Out(None) }
    }

    /// Keeps the server in the registry while it is ready. Returns when a required registration is not there in time.
    pub(super) async fn follow_readiness(
        &self,
        registrations: &Registrations,
        presence: &mut Presence,
    ) -> Error {
        let mut readiness = self.readiness.clone();
        let mut required = self.require_registration;
        // The signal is looked at once for each step: it may have changed again before a second look.
        if *presence != Presence::In {
            readiness.becomes(true).await;
            self.enter(registrations, presence).await;
        }
        loop {
            let not_registered = async {
                if let Some(within) = required {
                    if let Err(error) = registrations.registered(within).await {
                        return error;
                    }
                    required = None;
                }
                std::future::pending().await
            };
            tokio::select! {
                biased;
                error = not_registered => return error,
                () = readiness.becomes(false) => {}
            }
            tracing::info!(announce_delay = ?self.announce_delay, "not ready; leaving the registry");
            self.report_health(false).await;
            tokio::select! {
                biased;
                () = readiness.becomes(true) => {}
                () = self.leave(registrations, presence) => {}
            }
            self.enter(registrations, presence).await;
        }
    }

    async fn enter(&self, registrations: &Registrations, presence: &mut Presence) {
        self.report_health(true).await;
        *presence = Presence::In;
        registrations.enter();
    }

    /// Withdraws the server. Does not end.
    async fn leave(&self, registrations: &Registrations, presence: &mut Presence) {
        // Announced, so that clients do not take a fleet whose database is down for one that the registry has lost.
        registrations.announce_draining().await;
        sleep(self.announce_delay).await;
        *presence = Presence::Leaving;
        registrations.withdraw();
        registrations.withdrawn().await;
        *presence = Presence::Out(Some(Instant::now()));
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hither_core::{Instance, InstanceState, Registration, Resolver, ServiceName};
    use hither_memory::MemoryRegistry;
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::super::readiness::Readiness;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn service() -> ServiceName {
        "greeter".parse().unwrap()
    }

    /// A server's settings and registrations, and its readiness.
    fn server(registry: &MemoryRegistry) -> (LifecycleConfig, Registrations, watch::Sender<bool>) {
        let (ready, signal) = watch::channel(true);
        let mut config = LifecycleConfig::new(Arc::new(registry.clone()));
        config.readiness = Readiness::new(signal);
        let instance = Instance::new("10.0.0.7:8001".parse().unwrap());
        let registration = Registration::new(service(), instance).unwrap();
        let registrations = Registrations::new(vec![registration], config.registry_timeout);
        (config, registrations, ready)
    }

    async fn states(registry: &MemoryRegistry) -> Vec<InstanceState> {
        registry.resolve(&service()).await.unwrap().iter().map(|instance| instance.state()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_not_ready_any_more_when_it_has_started_leaves() {
        let registry = MemoryRegistry::new();
        let (config, registrations, ready) = server(&registry);
        let mut presence = config.start(&registrations).await;
        ready.send_replace(false);
        let following = config.follow_readiness(&registrations, &mut presence);
        assert!(timeout(config.announce_delay * 2, following).await.is_err());
        assert_eq!(states(&registry).await, []);
        assert!(matches!(presence, Presence::Out(Some(_))), "{presence:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_has_become_ready_is_in_the_registry_for_its_shutdown() {
        let registry = MemoryRegistry::new();
        let (config, registrations, ready) = server(&registry);
        ready.send_replace(false);
        let mut presence = config.start(&registrations).await;
        assert_eq!(presence, Presence::Out(None));
        for is_ready in [true, false, true] {
            ready.send_replace(is_ready);
            let following = config.follow_readiness(&registrations, &mut presence);
            assert!(timeout(config.announce_delay * 2, following).await.is_err());
            assert_eq!(presence == Presence::In, is_ready, "{presence:?}");
        }
        assert_eq!(states(&registry).await, [InstanceState::Up]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_required_registration_is_required_although_the_server_was_not_ready_for_a_moment() {
        let registry = MemoryRegistry::new();
        registry.faults().stop();
        let (mut config, registrations, ready) = server(&registry);
        config.require_registration = Some(HOUR);
        let mut presence = config.start(&registrations).await;
        let mut following = std::pin::pin!(config.follow_readiness(&registrations, &mut presence));
        for is_ready in [false, true] {
            assert!(timeout(config.announce_delay, &mut following).await.is_err());
            ready.send_replace(is_ready);
        }
        timeout(2 * HOUR, following).await.expect("it was never registered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_not_ready_announces_nothing_again_when_it_shuts_down() {
        let registry = MemoryRegistry::new();
        let (config, registrations, ready) = server(&registry);
        let mut presence = config.start(&registrations).await;
        registrations.registered(HOUR).await.unwrap();
        let mut following = Box::pin(config.follow_readiness(&registrations, &mut presence));
        assert!(timeout(HOUR, &mut following).await.is_err());
        ready.send_replace(false);
        // Announced, and then there is an outage.
        assert!(timeout(config.announce_delay / 2, &mut following).await.is_err());
        assert_eq!(states(&registry).await, [InstanceState::Draining]);
        registry.faults().stop();
        assert!(timeout(HOUR, &mut following).await.is_err());
        drop(following);
        assert_eq!(presence, Presence::Leaving);

        let began = Instant::now();
        config.leave_registry(&registrations, presence, true).await;
        assert_eq!(began.elapsed(), config.registry_timeout + config.propagation_delay);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_shuts_down_waits_only_for_clients_that_may_have_seen_it() {
        let (mut config, registrations, _) = server(&MemoryRegistry::new());
        config.announce_delay = Duration::from_secs(1);
        config.propagation_delay = Duration::from_secs(10);
        let now = Instant::now();
        for (presence, seconds) in [
            (Presence::Out(None), 0),
            (Presence::Out(Some(now)), 10),
            (Presence::Out(Some(now)), 0),
            (Presence::Leaving, 10),
            (Presence::In, 11),
        ] {
            let began = Instant::now();
            config.leave_registry(&registrations, presence, true).await;
            assert_eq!(began.elapsed(), Duration::from_secs(seconds), "{presence:?}");
        }
    }
}
