//! What a channel has now.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Gauge, Key, Label, with_recorder};
use tokio::time::Instant;

use super::{Counts, names};

/// How often the age of a stale list is told.
const EVERY: Duration = Duration::from_secs(5);

/// The gauges of one channel. Each is the sum over all channels of its target, so a channel adds what has changed, and takes
/// it away in the end. But for the age: channels with another registry may have another one, so only one whose list is
/// stale, or was until now, sets it.
#[derive(Debug)]
pub(crate) struct Gauges {
    instances: [Gauge; 3],
    registered: Gauge,
    held: Gauge,
    ejected: Gauge,
    staleness: Gauge,
    last: Counts,
    /// When the age is to be told again.
    due: Option<Instant>,
}

impl Gauges {
    pub(super) fn new(target: &Arc<str>) -> Self {
        let gauge = |name: &'static str, state: Option<&'static str>| {
            let mut labels = vec![Label::new(names::TARGET, Arc::clone(target))];
            labels.extend(state.map(|state| Label::from_static_parts(names::STATE, state)));
            let key = Key::from_parts(name, labels);
            with_recorder(|recorder| recorder.register_gauge(&key, &names::METADATA))
        };
        let staleness = gauge(names::STALENESS, None);
        // So that there is a time series.
        staleness.increment(0.0);
        Self {
            instances: ["READY", "CONNECTING", "TRANSIENT_FAILURE"]
                .map(|state| gauge(names::INSTANCES, Some(state))),
            registered: gauge(names::REGISTERED, None),
            held: gauge(names::HELD, None),
            ejected: gauge(names::EJECTED, None),
            staleness,
            last: Counts::default(),
            due: None,
        }
    }

    pub(crate) fn set(&mut self, counts: Counts) {
        let last = std::mem::replace(&mut self.last, counts);
        let [ready, connecting, failing] = &self.instances;
        for (gauge, before, now) in [
            (&self.registered, last.registered, counts.registered),
            (&self.held, last.held, counts.held),
            (&self.ejected, last.ejected, counts.ejected),
            (ready, last.ready, counts.ready),
            (connecting, last.connecting, counts.connecting),
            (failing, last.failing, counts.failing),
        ] {
            // What is 0 is a time series too.
            gauge.increment(number(now) - number(before));
        }
    }

    /// Sets how old the list of instances is; `None`: it is current.
    pub(crate) fn set_age(&mut self, age: Option<Duration>) {
        let was_stale = self.due.is_some();
        if was_stale || age.is_some() {
            self.staleness.set(age.unwrap_or_default());
        }
        self.due = age.map(|_| Instant::now() + EVERY);
    }

    /// Returns when the age is to be set again.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.set(Counts::default());
        self.set_age(None);
    }
}

/// Exact up to 2^53.
#[allow(clippy::cast_precision_loss, reason = "there are not as many instances")]
fn number(count: usize) -> f64 {
    count as f64
}
