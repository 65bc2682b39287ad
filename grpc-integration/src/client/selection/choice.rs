//! What is known of a server, and what becomes of it.

use std::sync::Arc;

use hither_core::Instance;

/// The connectivity of a server that is selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Neither ready nor known to fail.
    Pending,
    /// The last attempt failed.
    Failing,
    Ready,
    /// Its last connection is being replaced, and it counts as ready for calls.
    Replacing,
    /// It is connected and fails calls that others do not, or did so and is being tried.
    Ejected,
}

impl Condition {
    pub(super) fn is_connected(self) -> bool {
        matches!(self, Self::Ready | Self::Replacing | Self::Ejected)
    }

    /// Returns it as pick_first sees it, which begins a walk with each connection that is lost, as gRPC's does.
    pub(super) fn of_walk(self) -> Self {
        if self == Self::Replacing { Self::Pending } else { self }
    }
}

/// The list of ready instances that a server is in; the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum List {
    Tier(u32),
    /// About to shut down: takes calls only if no other instance is ready.
    Draining,
}

impl List {
    /// The one of all servers that are up, unless there are tiers.
    pub(crate) const UP: Self = Self::Tier(0);

    pub(crate) fn tier(self) -> Option<u32> {
        match self {
            Self::Tier(tier) => Some(tier),
            Self::Draining => None,
        }
    }
}

/// What a tier gets of the calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share {
    pub(crate) list: List,
    pub(crate) part: f64,
    /// The sum of the registered weights of those of its instances that take calls.
    pub(crate) weight: f64,
}

/// A server that is selected.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) instance: Arc<Instance>,
    pub(crate) list: List,
    /// Whether it is connected to. Otherwise it takes calls while a connection is open.
    pub(crate) connect: bool,
}
