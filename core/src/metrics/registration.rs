//! The metrics of one registration.

use metrics::Gauge;
use tokio::time::Instant;

use super::Operation;
use super::describe::describe;
use super::names::{self, Service};
use crate::{ErrorKind, ServiceName};

/// Why a registration that had succeeded is to be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    LeaseExpired,
    /// Another record was there meanwhile.
    Superseded,
    Withdrawn,
}

impl Lost {
    const ALL: [Self; 3] = [Self::LeaseExpired, Self::Superseded, Self::Withdrawn];

    fn text(self) -> &'static str {
        match self {
            Self::LeaseExpired => "lease expired",
            Self::Superseded => "superseded",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// The gauge of the state that a registration is in. All gauges are sums over the registrations of a service, so each adds what
/// has changed, and takes it away in the end.
#[derive(Debug)]
pub(crate) struct StateGauge {
    service: Service,
    state: Option<(&'static str, Gauge)>,
}

impl StateGauge {
    pub(crate) fn new(service: &ServiceName) -> Self {
        describe(&names::OF_REGISTRATIONS);
        Self { service: Service::new(service), state: None }
    }

    pub(crate) fn set(&mut self, state: &'static str) {
        if self.state.as_ref().is_some_and(|(before, _)| *before == state) {
            return;
        }
        let gauge = self.service.gauge(names::INSTANCES, Some((names::STATE, state)));
        gauge.increment(1);
        if let Some((_, before)) = self.state.replace((state, gauge)) {
            before.decrement(1);
        }
    }
}

impl Drop for StateGauge {
    fn drop(&mut self) {
        if let Some((_, gauge)) = &self.state {
            gauge.decrement(1);
        }
    }
}

/// What is counted of one registration.
#[derive(Debug)]
pub(crate) struct RegistrationMetrics {
    service: Service,
    staleness: Gauge,
    /// What the gauge has of it.
    told: f64,
    /// When the registry had confirmed it last, or when the first attempt failed.
    confirmed: Option<Instant>,
    lost: Option<Lost>,
}

impl RegistrationMetrics {
    pub(crate) fn new(service: &ServiceName) -> Self {
        let service = Service::new(service);
        // A counter that begins with 1 does not increase for Prometheus.
        for lost in Lost::ALL {
            service.counter(names::REREGISTRATIONS, Some((names::REASON, lost.text()))).increment(0);
        }
        let staleness = service.gauge(names::STALENESS, None);
        staleness.increment(0.0);
        Self { service, staleness, told: 0.0, confirmed: None, lost: None }
    }

    /// An attempt has ended, with this error if it has failed.
    pub(crate) fn attempted(&mut self, operation: Operation, failed: Option<ErrorKind>) {
        self.service.counter(operation.attempts(), Some(names::outcome(failed))).increment(1);
        match (operation, failed) {
            (Operation::Register, None) => {
                if let Some(lost) = self.lost.take() {
                    let reason = Some((names::REASON, lost.text()));
                    self.service.counter(names::REREGISTRATIONS, reason).increment(1);
                }
            }
            (Operation::Register, Some(ErrorKind::Superseded)) => {
                self.lost = self.lost.map(|_| Lost::Superseded);
            }
            (Operation::Renew | Operation::Update, Some(ErrorKind::LeaseExpired)) => {
                self.lost = Some(Lost::LeaseExpired);
            }
            (Operation::Deregister, None) => self.lost = Some(Lost::Withdrawn),
            _ => {}
        }
        match (operation, failed) {
            (Operation::Deregister, Some(_)) => {}
            (Operation::Deregister, None) => {
                self.confirmed = None;
                self.tell(0.0);
            }
            (_, None) => {
                self.confirmed = Some(Instant::now());
                self.tell(0.0);
            }
            (_, Some(_)) => {
                let confirmed = *self.confirmed.get_or_insert_with(Instant::now);
                self.tell(confirmed.elapsed().as_secs_f64());
            }
        }
    }

    fn tell(&mut self, staleness: f64) {
        let before = std::mem::replace(&mut self.told, staleness);
        if staleness != before {
            self.staleness.increment(staleness - before);
        }
    }
}

impl Drop for RegistrationMetrics {
    fn drop(&mut self) {
        self.tell(0.0);
    }
}
