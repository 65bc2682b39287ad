//! The detector as the pool uses it, on instances that are counted on and never called.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hither_core::{Instance, SortedById};
use tokio::task::unconstrained;
use tokio::time::{Instant, advance};

use crate::client::capacity::CapacityWaiters;
use crate::client::metrics::ChannelMetrics;
use crate::client::outcomes::{Admission, Standing};
use crate::client::outliers::{OutlierDetection, Outliers};
use crate::client::ready_instance::ReadyInstance;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) struct Channel {
    pub(super) outliers: Outliers,
    pub(super) instances: Vec<ReadyInstance>,
    /// Those of the tiers that have a share of the calls.
    pub(super) ready: SortedById<ReadyInstance>,
    /// The others that are ready.
    pub(super) standby: SortedById<ReadyInstance>,
    pub(super) capacity: Arc<CapacityWaiters>,
}

impl Channel {
    pub(super) fn new(count: usize, config: OutlierDetection) -> Self {
        let mut outliers =
            Outliers::new("greeter".parse().unwrap(), config, ChannelMetrics::new("greeter"), Instant::now());
        let capacity = Arc::<CapacityWaiters>::default();
        let instances: Vec<_> = (0..count)
            .map(|number| {
                let instance = Instance::new(format!("h{number}:1").parse().unwrap())
                    .with_id(format!("i{number:05}").parse().unwrap());
                outliers
                    .watch(|outcomes| ReadyInstance::in_pool(Arc::new(instance), &capacity, Some(outcomes)))
            })
            .collect();
        let ready = instances.iter().cloned().collect();
        Self { outliers, instances, ready, standby: SortedById::new(), capacity }
    }

    /// One instance has so many successes and failures. The detector looks after each call, as nothing delays the pool.
    pub(super) fn calls(&mut self, index: usize, succeeded: usize, failed: usize) {
        for number in 0..succeeded + failed {
            let outcomes = self.instances[index].outcomes().unwrap();
            if let Some(admission) = outcomes.probation().admit() {
                outcomes.record(number >= succeeded, admission);
                if let Admission::Probe(number) = admission {
                    outcomes.probation().release(number);
                }
            }
            unconstrained(self.outliers.look(Instant::now())).now_or_never().unwrap();
        }
    }

    /// A call to one instance is given up, if it was let through.
    pub(super) fn give_up(&mut self, index: usize, has_responded: bool) {
        let outcomes = self.instances[index].outcomes().unwrap();
        if let Some(admission) = outcomes.probation().admit() {
            outcomes.given_up(admission, has_responded);
            if let Admission::Probe(number) = admission {
                outcomes.probation().release(number);
            }
        }
    }

    /// One instance has so many failures, each while those from `others` on have a success.
    pub(super) fn fails(&mut self, index: usize, failures: usize, others: usize) {
        for _ in 0..failures {
            (others..self.instances.len()).for_each(|other| self.calls(other, 1, 0));
            self.calls(index, 0, 1);
        }
    }

    /// An interval of ten seconds ends.
    pub(super) async fn interval(&mut self) {
        advance(10 * SECOND).await;
        let is_ready = |instance: &ReadyInstance| {
            let id = instance.instance().id();
            self.ready.get(id).is_some() || self.standby.get(id).is_some()
        };
        self.outliers.sweep(Instant::now(), is_ready).await;
    }

    /// The instances that are left for policies, by their index.
    pub(super) async fn left(&mut self) -> Vec<usize> {
        let left = self.outliers.filter(self.ready.clone()).await;
        (0..self.instances.len())
            .filter(|index| left.iter().any(|one| *one == self.instances[*index]))
            .collect()
    }

    pub(super) fn standing(&self, index: usize) -> Standing {
        self.instances[index].outcomes().unwrap().probation().standing()
    }

    pub(super) fn set_ready(&mut self, indexes: &[usize]) {
        self.set_tiers(indexes, &[]);
    }

    /// These are ready, of which the tiers of `standby` have no share of the calls.
    pub(super) fn set_tiers(&mut self, called: &[usize], standby: &[usize]) {
        let of = |indexes: &[usize]| indexes.iter().map(|index| self.instances[*index].clone()).collect();
        (self.ready, self.standby) = (of(called), of(standby));
    }
}

/// The number of a probe.
pub(super) fn number(admission: Admission) -> u64 {
    match admission {
        Admission::Probe(number) => number,
        Admission::Call => panic!("it is called like the others"),
    }
}

pub(super) fn consecutive_only() -> OutlierDetection {
    OutlierDetection::default().with_success_rate(None)
}
