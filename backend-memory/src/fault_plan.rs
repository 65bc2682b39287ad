//! The faults to inject between callers and the registry, as a plain state machine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hither_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::Operation;
use crate::state::RegistrarId;

/// The id of an open watch; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WatchId(u64);

#[derive(Debug, Default)]
pub(crate) struct FaultPlan {
    stopped: bool,
    frozen_since: Option<Instant>,
    disconnected: BTreeSet<RegistrarId>,
    latency: Duration,
    planned: Vec<Planned>,
    watches: BTreeMap<WatchId, OpenWatch>,
    last_watch: u64,
    calls: BTreeMap<Operation, u64>,
}

#[derive(Debug)]
struct Planned {
    /// `None` is any operation.
    operation: Option<Operation>,
    fault: Fault,
    /// How many more calls it applies to.
    left: u64,
}

/// The fault of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call fails and has no effect.
    Fails(ErrorKind),
    /// The call takes effect, and its response is lost.
    LosesResponse,
}

#[derive(Debug)]
struct OpenWatch {
    registrar: RegistrarId,
    cut: bool,
}

/// Calls.
impl FaultPlan {
    /// Counts a call. Returns the fault that was planned for it, and its latency.
    pub(crate) fn begin(&mut self, operation: Operation) -> (Option<Fault>, Duration) {
        *self.calls.entry(operation).or_default() += 1;
        let applies = |planned: &Planned| planned.operation.is_none_or(|only| only == operation);
        let Some(at) = self.planned.iter().position(applies) else { return (None, self.latency) };
        let fault = self.planned[at].fault;
        self.planned[at].left -= 1;
        self.planned.retain(|planned| planned.left > 0);
        (Some(fault), self.latency)
    }

    /// Whether a call of this process gets through now; an error if waiting would not help.
    pub(crate) fn admits(&self, registrar: RegistrarId) -> Result<bool> {
        if self.stopped {
            return Err(unavailable("registry is stopped"));
        }
        if self.disconnected.contains(&registrar) {
            return Err(unavailable("registry is disconnected"));
        }
        Ok(self.frozen_since.is_none())
    }

    pub(crate) fn plan(&mut self, operation: Option<Operation>, fault: Fault, calls: u64) {
        if calls > 0 {
            self.planned.push(Planned { operation, fault, left: calls });
        }
    }

    pub(crate) fn set_latency(&mut self, latency: Duration) {
        self.latency = latency;
    }

    pub(crate) fn calls(&self, of: Option<Operation>) -> u64 {
        match of {
            Some(operation) => self.calls.get(&operation).copied().unwrap_or_default(),
            None => self.calls.values().sum(),
        }
    }
}

/// The registry as a whole.
impl FaultPlan {
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.cut_watches(|_| true);
    }

    pub(crate) fn start(&mut self) {
        self.stopped = false;
    }

    pub(crate) fn disconnect(&mut self, registrar: RegistrarId) {
        self.disconnected.insert(registrar);
        self.cut_watches(|of| of == registrar);
    }

    pub(crate) fn reconnect(&mut self, registrar: RegistrarId) {
        self.disconnected.remove(&registrar);
    }

    pub(crate) fn freeze(&mut self, now: Instant) {
        self.frozen_since.get_or_insert(now);
    }

    pub(crate) fn thaw(&mut self) {
        self.frozen_since = None;
    }

    pub(crate) fn frozen_since(&self) -> Option<Instant> {
        self.frozen_since
    }
}

/// Watches.
impl FaultPlan {
    pub(crate) fn open_watch(&mut self, registrar: RegistrarId) -> WatchId {
        self.last_watch += 1;
        let watch = WatchId(self.last_watch);
        self.watches.insert(watch, OpenWatch { registrar, cut: false });
        watch
    }

    pub(crate) fn close_watch(&mut self, watch: WatchId) {
        self.watches.remove(&watch);
    }

    /// Cuts the watches of the registrars that match.
    pub(crate) fn cut_watches(&mut self, matches: impl Fn(RegistrarId) -> bool) {
        for watch in self.watches.values_mut().filter(|watch| matches(watch.registrar)) {
            watch.cut = true;
        }
    }

    /// The error that ends a watch after it was cut.
    pub(crate) fn check_watch(&self, watch: WatchId) -> Result<()> {
        match self.watches.get(&watch) {
            Some(watch) if !watch.cut => Ok(()),
            _ => Err(unavailable("connection to the registry lost")),
        }
    }

    pub(crate) fn open_watches(&self) -> usize {
        self.watches.values().filter(|watch| !watch.cut).count()
    }
}

fn unavailable(reason: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, reason)
}
