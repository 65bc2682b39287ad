//! The settings of a server's lifecycle.

use std::sync::Arc;
use std::time::Duration;

use hither_core::{Registrar, Registration};

use super::plain::PlainConfig;
use super::readiness::Readiness;

pub(super) const ANNOUNCE_DELAY: Duration = Duration::from_millis(500);
pub(super) const PROPAGATION_DELAY: Duration = Duration::from_secs(2);
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
pub(super) const REGISTRY_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a server may take to end once all its connections are cut.
pub(super) const AFTER_THE_CUT: Duration = Duration::from_secs(1);

/// What is decided before the socket is bound.
#[derive(Debug)]
pub(super) struct LifecycleConfig {
    pub(super) registrar: Arc<dyn Registrar>,
    pub(super) ttl: Duration,
    #[cfg(feature = "health")]
    pub(super) health: Option<Health>,
    pub(super) readiness: Readiness,
    pub(super) require_registration: Option<Duration>,
    pub(super) announce_delay: Duration,
    pub(super) propagation_delay: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) registry_timeout: Duration,
    pub(super) connections: PlainConfig,
}

impl LifecycleConfig {
    pub(super) fn new(registrar: Arc<dyn Registrar>) -> Self {
        Self {
            registrar,
            ttl: Registration::DEFAULT_TTL,
            #[cfg(feature = "health")]
            health: None,
            readiness: Readiness::default(),
            require_registration: None,
            announce_delay: ANNOUNCE_DELAY,
            propagation_delay: PROPAGATION_DELAY,
            drain_timeout: DRAIN_TIMEOUT,
            registry_timeout: REGISTRY_TIMEOUT,
            connections: PlainConfig { rewrite_authority: true, max_age: None },
        }
    }

    /// Sets the serving status of the server and its services.
    #[cfg(feature = "health")]
    pub(super) async fn report_health(&self, serving: bool) {
        use tonic_health::ServingStatus;

        if let Some(health) = &self.health {
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            for name in &health.names {
                health.reporter.set_service_status(name, status).await;
            }
        }
    }

    #[cfg(not(feature = "health"))]
    pub(super) async fn report_health(&self, _serving: bool) {}
}

/// The reporter of a health service, and the names whose status it is to report.
#[cfg(feature = "health")]
#[derive(Debug)]
pub(super) struct Health {
    pub(super) reporter: tonic_health::server::HealthReporter,
    pub(super) names: Vec<String>,
}
