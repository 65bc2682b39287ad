//! The metrics of the watches of one service.

use metrics::Counter;

use super::Source;
use super::describe::describe;
use super::names::{self, Service};
use crate::{ErrorKind, ServiceName};

/// What is counted of one service that is watched.
#[derive(Debug)]
pub(crate) struct WatchMetrics {
    service: Service,
    watches: Counter,
    snapshots: [Counter; 2],
}

impl WatchMetrics {
    pub(crate) fn new(service: &ServiceName) -> Self {
        describe(&names::OF_WATCHES);
        let service = Service::new(service);
        let watches = service.counter(names::WATCHES, None);
        let snapshots = ["registry", "disk"]
            .map(|source| service.counter(names::SNAPSHOTS, Some((names::SOURCE, source))));
        Self { service, watches, snapshots }
    }

    /// A watch has had its first snapshot.
    pub(crate) fn opened(&self) {
        self.watches.increment(1);
    }

    /// A watch was lost, or could not be opened.
    pub(crate) fn failed(&self, kind: ErrorKind) {
        self.service.counter(names::WATCH_FAILURES, Some((names::REASON, kind.text()))).increment(1);
    }

    pub(crate) fn received(&self, source: Source) {
        self.snapshots[source as usize].increment(1);
    }
}
