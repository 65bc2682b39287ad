//! What a channel shows of one instance.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use hither_core::{Instance, InstanceId, InstanceState, SortedById};
use tokio::time::Instant;

use super::connectivity::{ConnectivityState, Observation};
use super::known::Subject;
use crate::client::ready_instance::ReadyInstance;
use crate::client::server_key::{ServerKey, ServerKeys};

/// One instance in a [`ChannelStatus`](crate::ChannelStatus). Display is one line for a log.
#[derive(Debug, Clone)]
pub struct InstanceStatus {
    instance: Arc<Instance>,
    is_held: bool,
    /// `None`: nothing was connected for it.
    connected: Option<Connected>,
}

#[derive(Debug, Clone)]
struct Connected {
    observation: Observation,
    connections: usize,
    in_flight: usize,
    started: u64,
    failed: u64,
    weight: f64,
    ejected: Option<Arc<str>>,
    tier: Option<u32>,
}

impl InstanceStatus {
    /// Returns the status of each instance of a list. `called`: those that calls are sent to, with their weights.
    pub(super) fn of_all<'a>(
        instances: &'a SortedById<Arc<Instance>>,
        is_held: bool,
        keys: &'a ServerKeys,
        subjects: &'a SortedById<Subject>,
        called: &'a SortedById<ReadyInstance>,
    ) -> impl Iterator<Item = Self> + 'a {
        // Both are sorted by id. What is not found by id may have no subchannel, or share that of another record.
        let mut sorted = subjects.iter().peekable();
        let mut servers = None;
        instances.iter().map(move |instance| {
            while sorted.next_if(|subject| subject.instance.instance().id() < instance.id()).is_some() {}
            let subject = match sorted.peek() {
                Some(subject) if keys.is_same(subject.instance.instance(), instance) => Some(*subject),
                _ if subjects.is_empty() => None,
                _ => {
                    servers.get_or_insert_with(|| by_server(subjects, keys)).get(&keys.of(instance)).copied()
                }
            };
            let instance = Arc::clone(instance);
            Self { instance, is_held, connected: subject.map(|subject| Connected::of(subject, called)) }
        })
    }

    /// Returns whether both show the same, but for calls and the number of connections.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let is_like = match (&self.connected, &other.connected) {
            (Some(connected), Some(other)) => connected.is_like(other),
            (connected, other) => connected.is_none() && other.is_none(),
        };
        is_like && self.is_held == other.is_held && self.instance == other.instance
    }

    /// Returns the instance, as the registry described it last: its addresses, zone, metadata and state.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// Returns the id of the instance.
    pub fn id(&self) -> &InstanceId {
        self.instance.id()
    }

    /// Returns whether the registry has lost it: it was removed in bulk, with others, and without having been `Draining`.
    /// It is called over connections that are open, and not connected to
    /// ([`ProtectionConfig`](hither_core::ProtectionConfig)).
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Returns its connectivity. [`Idle`](ConnectivityState::Idle) is one that is not to be connected to, such as a
    /// draining one while others are up. [`Ready`](ConnectivityState::Ready) may be shown a moment before calls are sent
    /// there.
    pub fn state(&self) -> ConnectivityState {
        self.connected
            .as_ref()
            .map_or(ConnectivityState::Idle, |connected| connected.observation.connectivity.state())
    }

    /// Returns since when it is in this state; `None` if it was never to be connected to.
    pub fn since(&self) -> Option<Instant> {
        self.connected.as_ref().map(|connected| connected.observation.since)
    }

    /// Returns why the latest attempt to connect that has failed did so, or the last connection was lost, also if it is ready
    /// again.
    pub fn last_error(&self) -> Option<&str> {
        let last = self.connected.as_ref()?.observation.last_error.as_ref()?;
        Some(&last.cause)
    }

    /// Returns when the [last error](Self::last_error) was.
    pub fn last_error_at(&self) -> Option<Instant> {
        let last = self.connected.as_ref()?.observation.last_error.as_ref()?;
        Some(last.at)
    }

    /// Returns the tier that the channel's [`Selection`](crate::Selection) has put it in, 0 being the first, which is that of
    /// all instances unless there are tiers. `None` if it is not selected, or about to shut down.
    pub fn tier(&self) -> Option<u32> {
        self.connected.as_ref()?.tier
    }

    /// Returns the number of connections that take calls.
    pub fn connections(&self) -> usize {
        self.connected.as_ref().map_or(0, |connected| connected.connections)
    }

    /// Returns the number of calls in flight on it, through this channel.
    pub fn in_flight(&self) -> usize {
        self.connected.as_ref().map_or(0, |connected| connected.in_flight)
    }

    /// Returns how many attempts of calls this channel has begun on it, since it began to connect to it. That includes the few
    /// that were not sent after all, because the caller gave up, or the connection was lost, while they waited to be written.
    pub fn started(&self) -> u64 {
        self.connected.as_ref().map_or(0, |connected| connected.started)
    }

    /// Returns how many of the [started](Self::started) attempts were sent and have ended with another status than OK.
    pub fn failed(&self) -> u64 {
        self.connected.as_ref().map_or(0, |connected| connected.failed)
    }

    /// Returns why it is ejected, or was until it is being tried by one call at a time
    /// ([`OutlierDetection`](crate::OutlierDetection)); `None` if it is called like the others.
    pub fn ejected(&self) -> Option<&str> {
        self.connected.as_ref()?.ejected.as_deref()
    }

    /// Returns the weight in force: that of the registry, times what the channel makes of it, which are the shares of tiers and
    /// [slow start](crate::ChannelBuilder::slow_start). That of the registry if it gets no calls.
    pub fn weight(&self) -> f64 {
        let of_registry = || f64::from(self.instance.weight());
        self.connected.as_ref().map_or_else(of_registry, |connected| connected.weight)
    }
}

impl Connected {
    fn of(subject: &Subject, called: &SortedById<ReadyInstance>) -> Self {
        let instance = &subject.instance;
        let weighted = called.get(instance.instance().id()).filter(|called| *called == instance);
        Self {
            observation: subject.observed.now(),
            connections: instance.connections(),
            in_flight: instance.in_flight(),
            started: instance.started(),
            failed: instance.failed(),
            weight: weighted.unwrap_or(instance).weight(),
            tier: subject.tier,
            ejected: instance.outcomes().and_then(|outcomes| outcomes.cause()),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        (&self.observation, self.weight, &self.ejected, self.tier)
            == (&other.observation, other.weight, &other.ejected, other.tier)
    }
}

impl fmt::Display for InstanceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (instance, state) = (&self.instance, self.state());
        write!(f, "{}", instance.id())?;
        if instance.id().as_str() != instance.address().to_string() {
            write!(f, " at {}", instance.address())?;
        }
        write!(f, ": {state}")?;
        if let Some(since) = self.since() {
            write!(f, " for {} s", since.elapsed().as_secs())?;
        }
        if state == ConnectivityState::Ready {
            write!(f, ", connections {}, calls in flight {}", self.connections(), self.in_flight())?;
        }
        write!(f, ", weight {}", self.weight())?;
        if let Some(tier @ 1..) = self.tier() {
            write!(f, ", tier {tier}")?;
        }
        if let Some(zone) = instance.zone() {
            write!(f, ", zone {zone}")?;
        }
        if instance.state() == InstanceState::Draining {
            f.write_str(", draining")?;
        }
        if self.is_held {
            f.write_str(", held: lost by the registry")?;
        }
        if let Some(cause) = self.ejected() {
            write!(f, ", ejected: {cause}")?;
        }
        match self.last_error() {
            Some(error) if state != ConnectivityState::Ready => write!(f, ", last error: {error}"),
            _ => Ok(()),
        }
    }
}

fn by_server<'a>(subjects: &'a SortedById<Subject>, keys: &ServerKeys) -> HashMap<ServerKey, &'a Subject> {
    subjects.iter().map(|subject| (keys.of(subject.instance.instance()), subject)).collect()
}
