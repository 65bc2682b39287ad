//! What the pool tells the calls: whom they may be sent to, or why to nobody.

use std::fmt;
use std::sync::Arc;

use hither_core::{Error, ServiceName};
use tokio::time::Instant;

use crate::client::balance::Picker;
use crate::client::ready_instance::ReadyInstance;

/// What calls find when they look for an endpoint.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// Some instances are ready.
    Ready(Ready),
    /// Nobody is ready yet, but that may change soon: calls wait.
    Connecting(NotReadyReason),
    /// Nobody is ready: calls fail, but for those that wait for ready.
    Failing(NotReadyReason),
    /// The pool is gone, and with it the runtime that the channel was made on: all calls fail.
    Closed,
}

/// Whom calls may be sent to.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) picker: Arc<dyn Picker>,
    /// At least one.
    pub(crate) endpoints: Arc<[ReadyInstance]>,
}

/// Why nobody is ready. Printed, it is one line.
#[derive(Debug, Clone)]
pub(crate) struct NotReadyReason {
    pub(crate) service: ServiceName,
    /// How many instances are registered; `None` until the registry has spoken.
    pub(crate) registered: Option<usize>,
    /// The newest failure to connect.
    pub(crate) last_error: Option<Arc<str>>,
    /// Since when the registry has not been heard, and why.
    pub(crate) stale: Option<(Instant, Error)>,
}

impl NotReadyReason {
    /// Nothing has been heard yet.
    pub(crate) fn unresolved(service: ServiceName) -> Self {
        Self { service, registered: None, last_error: None, stale: None }
    }
}

impl fmt::Display for NotReadyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = &self.service;
        match (self.registered, &self.stale) {
            (None, None) => return write!(f, "{service} has not been resolved yet"),
            (None, Some((_, cause))) => return write!(f, "{service} cannot be resolved: {}", cause.report()),
            (Some(0), _) => write!(f, "nobody is registered as {service}")?,
            (Some(count), _) => write!(f, "0 of {count} instances of {service} ready")?,
        }
        if let Some(error) = &self.last_error {
            write!(f, "; last error: {error}")?;
        }
        if let Some((since, cause)) = &self.stale {
            write!(f, "; registry stale for {} s: {}", since.elapsed().as_secs(), cause.report())?;
        }
        Ok(())
    }
}
