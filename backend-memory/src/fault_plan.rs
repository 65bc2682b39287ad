//! What stands between a call and the registry, as a plain state machine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hither_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::Operation;
use crate::state::RegistrarId;

/// An open watch; an id is never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WatchId(u64);

#[derive(Debug, Default)]
pub(crate) struct Trouble {
    stopped: bool,
    frozen_since: Option<Instant>,
    disconnected: BTreeSet<RegistrarId>,
    delay: Duration,
    planned: Vec<Planned>,
    watches: BTreeMap<WatchId, Watched>,
    last_watch: u64,
    calls: BTreeMap<Operation, u64>,
}

#[derive(Debug)]
struct Planned {
    /// `None` is any.
    operation: Option<Operation>,
    fault: Fault,
    left: u64,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails, and nothing has happened.
    Fails(ErrorKind),
    /// It happens, and the answer is lost.
    AnswerLost,
}

#[derive(Debug)]
struct Watched {
    registrar: RegistrarId,
    cut: bool,
}

/// Calls.
impl Trouble {
    /// Counts a call; says what was planned for it, and how long it is on its way.
    pub(crate) fn begin(&mut self, operation: Operation) -> (Option<Fault>, Duration) {
        *self.calls.entry(operation).or_default() += 1;
        let meant = |planned: &Planned| planned.operation.is_none_or(|only| only == operation);
        let Some(at) = self.planned.iter().position(meant) else { return (None, self.delay) };
        let fault = self.planned[at].fault;
        self.planned[at].left -= 1;
        self.planned.retain(|planned| planned.left > 0);
        (Some(fault), self.delay)
    }

    /// Whether a call can go through now; an error if it cannot and waiting would not help.
    pub(crate) fn let_through(&self, registrar: RegistrarId) -> Result<bool> {
        if self.stopped {
            return Err(unavailable("the registry is stopped"));
        }
        if self.disconnected.contains(&registrar) {
            return Err(unavailable("the registry cannot be reached from here"));
        }
        Ok(self.frozen_since.is_none())
    }

    pub(crate) fn plan(&mut self, operation: Option<Operation>, fault: Fault, calls: u64) {
        if calls > 0 {
            self.planned.push(Planned { operation, fault, left: calls });
        }
    }

    pub(crate) fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    pub(crate) fn calls(&self, of: Option<Operation>) -> u64 {
        match of {
            Some(operation) => self.calls.get(&operation).copied().unwrap_or_default(),
            None => self.calls.values().sum(),
        }
    }
}

/// The registry as a whole.
impl Trouble {
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.cut_watches(|_| true);
    }

    pub(crate) fn start(&mut self) {
        self.stopped = false;
    }

    pub(crate) fn disconnect(&mut self, registrar: RegistrarId) {
        self.disconnected.insert(registrar);
        self.cut_watches(|watched| watched == registrar);
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
impl Trouble {
    pub(crate) fn open_watch(&mut self, registrar: RegistrarId) -> WatchId {
        self.last_watch += 1;
        let watch = WatchId(self.last_watch);
        self.watches.insert(watch, Watched { registrar, cut: false });
        watch
    }

    pub(crate) fn close_watch(&mut self, watch: WatchId) {
        self.watches.remove(&watch);
    }

    pub(crate) fn cut_watches(&mut self, whose: impl Fn(RegistrarId) -> bool) {
        for watched in self.watches.values_mut().filter(|watched| whose(watched.registrar)) {
            watched.cut = true;
        }
    }

    /// The error with which a watch ends, once it has been cut.
    pub(crate) fn cut(&self, watch: WatchId) -> Result<()> {
        match self.watches.get(&watch) {
            Some(watched) if !watched.cut => Ok(()),
            _ => Err(unavailable("the registry was lost")),
        }
    }

    pub(crate) fn open_watches(&self) -> usize {
        self.watches.values().filter(|watched| !watched.cut).count()
    }
}

fn unavailable(why: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, why)
}
