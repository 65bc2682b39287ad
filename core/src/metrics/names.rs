//! The names of all metrics, with their units and descriptions, and the labels.

use std::sync::Arc;

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Unit, with_recorder};

use super::Operation;
use super::describe::Kind::{Counter as C, Gauge as G};
use super::describe::Metric;
use crate::{ErrorKind, ServiceName};

static METADATA: Metadata<'static> = Metadata::new("hither_core", Level::INFO, Some(module_path!()));

const SERVICE: &str = "hither.service";
pub(super) const OUTCOME: &str = "hither.outcome";
pub(super) const REASON: &str = "hither.reason";
pub(super) const STATE: &str = "hither.state";
pub(super) const SOURCE: &str = "hither.source";

pub(super) const INSTANCES: &str = "hither.registration.instances";
const REGISTRATIONS: &str = "hither.registration.registrations";
const RENEWALS: &str = "hither.registration.renewals";
const UPDATES: &str = "hither.registration.updates";
const DEREGISTRATIONS: &str = "hither.registration.deregistrations";
pub(super) const REREGISTRATIONS: &str = "hither.registration.reregistrations";
pub(super) const STALENESS: &str = "hither.registration.staleness";

pub(super) const WATCHES: &str = "hither.discovery.watches";
pub(super) const WATCH_FAILURES: &str = "hither.discovery.watch_failures";
pub(super) const SNAPSHOTS: &str = "hither.discovery.snapshots";

#[rustfmt::skip]
pub(super) const OF_REGISTRATIONS: [Metric; 7] = [
    (INSTANCES, G, Unit::Count, "Registrations of this process, by their state"),
    (REGISTRATIONS, C, Unit::Count, "Attempts to register, by outcome"),
    (RENEWALS, C, Unit::Count, "Attempts to renew a lease, by outcome"),
    (UPDATES, C, Unit::Count, "Attempts to replace the content of a record, by outcome"),
    (DEREGISTRATIONS, C, Unit::Count, "Attempts to remove a record, also of a withdrawn registration, by outcome"),
    (REREGISTRATIONS, C, Unit::Count, "Registrations after one that was lost or withdrawn, by why it was"),
    (STALENESS, G, Unit::Seconds, "Time since the registry last confirmed the registration: 0 unless an attempt has failed"),
];

#[rustfmt::skip]
pub(super) const OF_WATCHES: [Metric; 3] = [
    (WATCHES, C, Unit::Count, "Watches of the registry that were opened"),
    (WATCH_FAILURES, C, Unit::Count, "Watches of the registry that were lost or could not be opened, by why"),
    (SNAPSHOTS, C, Unit::Count, "Snapshots that were received, by where they are from"),
];

/// What all metrics of one service have in common.
#[derive(Debug)]
pub(super) struct Service(Arc<str>);

impl Service {
    pub(super) fn new(service: &ServiceName) -> Self {
        Self(service.as_str().into())
    }

    pub(super) fn counter(&self, name: &'static str, label: Option<(&'static str, &'static str)>) -> Counter {
        let key = self.key(name, label);
        with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
    }

    pub(super) fn gauge(&self, name: &'static str, label: Option<(&'static str, &'static str)>) -> Gauge {
        let key = self.key(name, label);
        with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
    }

    fn key(&self, name: &'static str, label: Option<(&'static str, &'static str)>) -> Key {
        let of_service = Label::new(SERVICE, Arc::clone(&self.0));
        let other = label.map(|(key, value)| Label::from_static_parts(key, value));
        Key::from_parts(name, [of_service].into_iter().chain(other).collect::<Vec<_>>())
    }
}

impl Operation {
    /// The name of the counter of its attempts.
    pub(super) fn attempts(self) -> &'static str {
        match self {
            Self::Register => REGISTRATIONS,
            Self::Renew => RENEWALS,
            Self::Update => UPDATES,
            Self::Deregister => DEREGISTRATIONS,
        }
    }
}

/// The label of what became of an attempt.
pub(super) fn outcome(failed: Option<ErrorKind>) -> (&'static str, &'static str) {
    (OUTCOME, failed.map_or("ok", ErrorKind::text))
}
