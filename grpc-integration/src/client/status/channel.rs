//! What a channel shows of itself as a whole.

use std::fmt;
use std::time::Duration;

use hither_core::{Freshness, ServiceName, SortedById};
use tokio::time::Instant;

use super::connectivity::ConnectivityState;
use super::instance::InstanceStatus;
use super::known::Knowledge;
use crate::client::ready_instance::ReadyInstance;

/// The state of a channel at one moment: made by [`DiscoveryChannel::status`](crate::DiscoveryChannel::status).
///
/// `{}` is one line for a log, `{:#}` has another line for each instance:
///
/// ```text
/// greeter: READY for 12 s, 1 of 2 instances ready, registry fresh
///   10.0.0.7:8001: READY for 12 s, connections 1, calls in flight 3, weight 1, zone eu-1a
///   10.0.0.8:8001: TRANSIENT_FAILURE for 9 s, weight 1, last error: connection refused at 10.0.0.8:8001
/// ```
#[derive(Debug, Clone)]
pub struct ChannelStatus {
    service: ServiceName,
    state: ConnectivityState,
    since: Instant,
    reason: Option<String>,
    freshness: Option<Freshness>,
    held: usize,
    instances: Vec<InstanceStatus>,
}

impl ChannelStatus {
    pub(crate) fn new(
        service: ServiceName,
        state: ConnectivityState,
        reason: Option<String>,
        known: Knowledge,
        called: &SortedById<ReadyInstance>,
    ) -> Self {
        let Knowledge { since, update, server_keys, subjects } = known;
        let (registered, held, freshness) = match update {
            Some(update) => (update.snapshot, update.held, Some(update.freshness)),
            None => (None, SortedById::new(), None),
        };
        let registered = registered.map(|snapshot| snapshot.instances().clone()).unwrap_or_default();
        let mut instances = Vec::with_capacity(registered.len() + held.len());
        instances.extend(InstanceStatus::of_all(&registered, false, &server_keys, &subjects, called));
        instances.extend(InstanceStatus::of_all(&held, true, &server_keys, &subjects, called));
        Self { service, state, since, reason, freshness, held: held.len(), instances }
    }

    /// Returns whether both show the same, but for calls and the numbers of connections.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let freshness = match (&self.freshness, &other.freshness) {
            (
                Some(Freshness::Stale { since, cause, .. }),
                Some(Freshness::Stale { since: other, cause: last, .. }),
            ) => since == other && cause.report() == last.report(),
            (freshness, other) => {
                freshness.as_ref().map(Freshness::is_fresh) == other.as_ref().map(Freshness::is_fresh)
            }
        };
        let instances = || self.instances.iter().zip(&other.instances);
        freshness
            && (self.state, self.since, &self.reason, self.held)
                == (other.state, other.since, &other.reason, other.held)
            && self.instances.len() == other.instances.len()
            && instances().all(|(one, other)| one.is_like(other))
    }

    /// Returns the name of the service.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Returns the connectivity of the channel: [`Ready`](ConnectivityState::Ready) if any instance is, and for a
    /// second after the last connection was lost, in which it is made again.
    pub fn state(&self) -> ConnectivityState {
        self.state
    }

    /// Returns since when it is in this state.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Returns why no instance is ready, in one line; `None` if one is.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Returns whether the list of instances is current; `None` until the channel has heard of the registry for the first
    /// time.
    pub fn freshness(&self) -> Option<&Freshness> {
        self.freshness.as_ref()
    }

    /// Returns how old the list of instances is: zero while the registry is watched, `None` if there was none yet.
    pub fn age(&self) -> Option<Duration> {
        Some(match self.freshness.as_ref()? {
            Freshness::Stale { since, age, .. } => age.saturating_add(since.elapsed()),
            _ => Duration::ZERO,
        })
    }

    /// Returns how many instances are registered.
    pub fn registered(&self) -> usize {
        self.instances.len() - self.held
    }

    /// Returns how many instances are [held](InstanceStatus::is_held).
    pub fn held(&self) -> usize {
        self.held
    }

    /// Returns all instances: those that are registered and then those that are held, each sorted by id.
    pub fn instances(&self) -> &[InstanceStatus] {
        &self.instances
    }

    /// Returns how many instances are in this state.
    pub fn count(&self, state: ConnectivityState) -> usize {
        self.instances.iter().filter(|instance| instance.state() == state).count()
    }
}

impl fmt::Display for ChannelStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, state, .. } = self;
        write!(f, "{service}: {state} for {} s, ", self.since.elapsed().as_secs())?;
        write!(f, "{} of {} instances ready", self.count(ConnectivityState::Ready), self.instances.len())?;
        if self.held > 0 {
            write!(f, ", {} held", self.held)?;
        }
        match &self.freshness {
            None => f.write_str(", registry not reached yet")?,
            Some(Freshness::Stale { since, cause, .. }) => {
                write!(f, ", registry stale for {} s: {}", since.elapsed().as_secs(), cause.report())?;
            }
            Some(_) => f.write_str(", registry fresh")?,
        }
        if f.alternate() {
            for instance in &self.instances {
                write!(f, "\n  {instance}")?;
            }
        }
        Ok(())
    }
}
