//! The instances besides the ready ones, for policies.

use std::sync::Arc;
use std::time::Duration;

use hither_core::{Instance, SortedById};

use crate::client::ready_instance::ReadyInstance;

/// How long calls wait for instances that are being connected to where there are others to go to: a black hole must not hold
/// them up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// The instances that a [`LoadBalancingPolicy`](crate::LoadBalancingPolicy) may know of besides those that calls are to go to:
/// for one by which a call may go to some instances only.
#[derive(Debug, Clone, Default)]
pub struct Others {
    connecting: SortedById<Arc<Instance>>,
    draining: SortedById<ReadyInstance>,
}

impl Others {
    /// Returns these: for tests of policies.
    pub fn new(connecting: SortedById<Arc<Instance>>, draining: SortedById<ReadyInstance>) -> Self {
        Self { connecting, draining }
    }

    /// Returns the instances that are being connected to, for the first time or again. Each is soon ready or known to be
    /// unreachable, after the channel's connect timeout at the latest. A call can [wait](crate::Pick::Wait) for them. One that is
    /// ejected ([`OutlierDetection`](crate::OutlierDetection)) is not among them.
    ///
    /// One that is being connected to again may be among the ready ones, too, for a second: until then a call that is sent to it
    /// waits for the connection, or goes to another one as if it had no stream capacity.
    pub fn connecting(&self) -> &SortedById<Arc<Instance>> {
        &self.connecting
    }

    /// Returns the instances that are connected and about to shut down, ejected ones too. They can take calls that would fail
    /// otherwise.
    pub fn draining(&self) -> &SortedById<ReadyInstance> {
        &self.draining
    }

    /// Returns these. What is and was empty stays the same version.
    pub(crate) fn with(
        &self,
        connecting: Option<&SortedById<Arc<Instance>>>,
        draining: Option<&SortedById<ReadyInstance>>,
    ) -> Self {
        Self {
            connecting: or_empty(connecting, &self.connecting),
            draining: or_empty(draining, &self.draining),
        }
    }

    /// Whether both are the same version.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.connecting.is_same(&other.connecting) && self.draining.is_same(&other.draining)
    }
}

fn or_empty<T: Clone>(list: Option<&SortedById<T>>, before: &SortedById<T>) -> SortedById<T> {
    match list {
        Some(list) => list.clone(),
        None if before.is_empty() => before.clone(),
        None => SortedById::new(),
    }
}
