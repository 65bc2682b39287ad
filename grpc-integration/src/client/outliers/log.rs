//! Logs ejections, without a storm where there are many.

use std::time::Duration;

use hither_core::ServiceName;
use tokio::time::Instant;

use crate::client::log_window::LogWindow;
use crate::client::ready_instance::ReadyInstance;

/// The log of one channel: ten lines and a summary in half a minute, of ejections and of returns each.
#[derive(Debug)]
pub(super) struct EjectionLog {
    service: ServiceName,
    ejected: LogWindow,
    returned: LogWindow,
    panics: LogWindow,
}

impl EjectionLog {
    pub(super) fn new(service: ServiceName) -> Self {
        Self {
            service,
            ejected: LogWindow::default(),
            returned: LogWindow::default(),
            panics: LogWindow::default(),
        }
    }

    /// An instance was ejected for so long, as one of so many of all.
    pub(super) fn ejected(
        &mut self,
        instance: &ReadyInstance,
        cause: &str,
        time: Duration,
        ejected: usize,
        of: usize,
    ) {
        if self.ejected.admit() {
            let instance = instance.instance();
            tracing::warn!(
                service = %self.service,
                instance = %instance.id(),
                address = %instance.address(),
                cause,
                ?time,
                ejected,
                of,
                "instance ejected"
            );
        }
    }

    /// An instance is called like the others again.
    pub(super) fn returned(&mut self, instance: &ReadyInstance) {
        if self.returned.admit() {
            let instance = instance.instance();
            tracing::info!(
                service = %self.service,
                instance = %instance.id(),
                address = %instance.address(),
                "ejected instance is back"
            );
        }
    }

    /// So many are left that all are called; or enough again.
    pub(super) fn panics(&mut self, is_panic: bool, left: usize, of: usize) {
        if !self.panics.admit() {
            return;
        }
        if is_panic {
            tracing::warn!(service = %self.service, left, of, "too many instances ejected; all are called");
        } else {
            tracing::info!(service = %self.service, left, of, "enough instances left; ejected ones are left out");
        }
    }

    /// Returns when the next summary is due.
    pub(super) fn due(&self) -> Option<Instant> {
        [&self.ejected, &self.returned, &self.panics].into_iter().filter_map(LogWindow::due).min()
    }

    /// Logs the summaries that are due.
    pub(super) fn summarize(&mut self, ejected: usize) {
        let service = &self.service;
        if let Some(instances) = self.ejected.summary() {
            tracing::warn!(%service, instances, ejected, "more instances ejected");
        }
        if let Some(instances) = self.returned.summary() {
            tracing::info!(%service, instances, ejected, "more ejected instances are back");
        }
        if let Some(changes) = self.panics.summary() {
            tracing::warn!(%service, changes, ejected, "all instances called, or ejected ones left out, time and again");
        }
    }
}
