//! What the pool publishes to calls: the ready instances, or why there are none.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hither_core::{ServiceName, SortedById};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::balance::PolicyPicker;
use crate::client::capacity::CapacityWaiters;
use crate::client::ready_instance::ReadyInstance;
use crate::client::status::{ChannelStatus, ConnectivityState, Known};
use crate::error::{Error, ErrorKind};

/// The connectivity of the whole channel.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// Some instances are ready.
    Ready(Ready),
    /// None is ready yet, but one may be soon: calls wait.
    Connecting(NotReadyReason),
    /// None is ready: calls fail, unless they are wait-for-ready.
    Failing(NotReadyReason),
    /// The pool is gone, and with it the runtime that the channel was made on: all calls fail.
    Closed,
}

impl State {
    fn connectivity(&self) -> ConnectivityState {
        match self {
            Self::Ready(_) => ConnectivityState::Ready,
            Self::Connecting(_) => ConnectivityState::Connecting,
            Self::Failing(_) => ConnectivityState::TransientFailure,
            Self::Closed => ConnectivityState::Shutdown,
        }
    }
}

/// The ready instances, and the picker over them.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) picker: Arc<PolicyPicker>,
    /// At least one.
    pub(crate) instances: SortedById<ReadyInstance>,
    /// Whether the picker was made for other instances, because the policy has panicked since.
    pub(crate) is_picker_old: bool,
}

impl Ready {
    /// Whether an old picker has picked what is left out by now: it is ejected, about to shut down, or without weight.
    pub(crate) fn leaves_out(&self, picked: &ReadyInstance) -> bool {
        let takes = |now: &ReadyInstance| now == picked && now.weight() > 0.0;
        self.is_picker_old && !self.instances.get(picked.instance().id()).is_some_and(takes)
    }
}

/// Why no instance is ready. Display is one line.
#[derive(Debug, Clone)]
pub(crate) struct NotReadyReason {
    pub(crate) service: ServiceName,
    /// How many instances are registered; `None` until the service was resolved for the first time.
    pub(crate) registered: Option<usize>,
    /// Whether the selection leaves any of them, or of those that are held.
    pub(crate) is_any_selected: bool,
    /// The latest failure to connect.
    pub(crate) last_error: Option<Arc<str>>,
    /// Since when the registry cannot be reached, and why.
    pub(crate) stale: Option<(Instant, hither_core::Error)>,
    /// Instances are ready, and the load balancing policy has panicked instead of making a picker: the text.
    pub(crate) policy_panic: Option<String>,
}

impl NotReadyReason {
    /// The service was not resolved yet.
    pub(crate) fn unresolved(service: ServiceName) -> Self {
        Self {
            service,
            registered: None,
            is_any_selected: true,
            last_error: None,
            stale: None,
            policy_panic: None,
        }
    }

    /// Returns the error of a call that cannot be sent.
    pub(crate) fn error(&self) -> Error {
        let kind = if self.policy_panic.is_some() { ErrorKind::Unexpected } else { ErrorKind::NotReady };
        Error::new(kind, self.to_string()).with_service(self.service.clone())
    }
}

/// Returns the error of a call on a channel whose pool is gone.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the channel is closed: the Tokio runtime that it was made on is gone")
}

impl fmt::Display for NotReadyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(panic) = &self.policy_panic {
            return f.write_str(panic);
        }
        let service = &self.service;
        match (self.registered, &self.stale) {
            (None, None) => return write!(f, "{service} is not resolved yet"),
            (None, Some((_, cause))) => return write!(f, "{service} cannot be resolved: {}", cause.report()),
            (Some(0), _) => write!(f, "no instance of {service} is registered")?,
            (Some(count), _) if !self.is_any_selected => {
                write!(f, "none of the {count} instances of {service} is selected")?;
            }
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

/// The calls' end of the published state.
#[derive(Debug)]
pub(crate) struct StateReader {
    state: ArcSwap<State>,
    /// Their value counts those that statuses show.
    changes: watch::Receiver<u64>,
    capacity: Arc<CapacityWaiters>,
    known: Known,
}

impl StateReader {
    /// Returns the present state. Takes no lock.
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<State>> {
        self.state.load()
    }

    /// Returns the changes of the state from now on; their value changes with those that statuses show. They end when the pool
    /// is gone.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        changes
    }

    /// Returns what is known now of the channel to `service`.
    pub(crate) fn status(&self, service: ServiceName) -> ChannelStatus {
        let known = self.known.now();
        let state = self.state.load();
        let (called, reason) = match &**state {
            State::Ready(ready) => (ready.instances.clone(), None),
            State::Connecting(reason) | State::Failing(reason) => {
                (SortedById::new(), Some(reason.to_string()))
            }
            State::Closed => (SortedById::new(), Some(closed().to_string())),
        };
        ChannelStatus::new(service, state.connectivity(), reason, known, &called)
    }

    pub(crate) fn capacity(&self) -> &Arc<CapacityWaiters> {
        &self.capacity
    }
}

/// The pool's end of the published state. Dropping it publishes `Closed`, so that calls fail instead of waiting for
/// ever.
#[derive(Debug)]
pub(crate) struct StatePublisher {
    reader: Arc<StateReader>,
    changed: watch::Sender<u64>,
}

impl StatePublisher {
    pub(crate) fn new(state: State) -> Self {
        let (changed, changes) = watch::channel(0);
        let state = ArcSwap::from_pointee(state);
        Self {
            reader: Arc::new(StateReader {
                state,
                changes,
                capacity: Arc::default(),
                known: Known::default(),
            }),
            changed,
        }
    }

    pub(crate) fn reader(&self) -> &Arc<StateReader> {
        &self.reader
    }

    /// What statuses are made of.
    pub(crate) fn known(&self) -> &Known {
        &self.reader.known
    }

    /// `is_shown`: whether statuses show what has changed.
    pub(crate) fn publish(&self, state: State, is_shown: bool) {
        let state = Arc::new(state);
        let before = self.reader.state.swap(Arc::clone(&state));
        match (&*before, &*state) {
            (State::Ready(before), State::Ready(now)) if before.instances.is_same(&now.instances) => {}
            _ => self.reader.capacity.on_other_instances(),
        }
        if before.connectivity() != state.connectivity() {
            self.known().set_since(Instant::now());
        }
        self.changed.send_modify(|shown| *shown = shown.wrapping_add(u64::from(is_shown)));
    }
}

impl Drop for StatePublisher {
    fn drop(&mut self) {
        self.known().clear();
        self.publish(State::Closed, true);
    }
}
