//! The metrics of one channel.

use std::sync::Arc;

use http::Extensions;
use metrics::{Counter, Gauge, Key, Label, with_recorder};

use super::PickResult;
use super::call::CallMetrics;
use super::gauges::Gauges;
use super::methods::Methods;
use super::names;
use crate::client::transport::Ending;

/// The handles of one channel's metrics, of the recorder that was installed when the channel was made. A clone is the same.
#[derive(Debug, Clone)]
pub(crate) struct ChannelMetrics(Arc<Handles>);

#[derive(Debug)]
struct Handles {
    target: Arc<str>,
    methods: Methods,
    connected: Counter,
    connect_failed: Counter,
    open: Gauge,
    picks: [Counter; 4],
}

impl ChannelMetrics {
    pub(crate) fn new(target: &str) -> Self {
        names::describe();
        let target: Arc<str> = target.into();
        let key =
            |name: &'static str| Key::from_parts(name, vec![Label::new(names::TARGET, Arc::clone(&target))]);
        let counter =
            |name| with_recorder(|recorder| recorder.register_counter(&key(name), &names::METADATA));
        let picks = ["instance", "queue", "fail", "drop"].map(|result| {
            let key =
                key(names::PICKS).with_extra_labels(vec![Label::from_static_parts(names::RESULT, result)]);
            with_recorder(|recorder| recorder.register_counter(&key, &names::METADATA))
        });
        Self(Arc::new(Handles {
            methods: Methods::new(&target),
            connected: counter(names::CONNECTED),
            connect_failed: counter(names::CONNECT_FAILED),
            open: with_recorder(|recorder| {
                recorder.register_gauge(&key(names::OPEN_CONNECTIONS), &names::METADATA)
            }),
            picks,
            target,
        }))
    }

    /// A call is made.
    pub(crate) fn call(&self, extensions: &Extensions) -> CallMetrics {
        CallMetrics::new(self.0.methods.of(extensions))
    }

    pub(crate) fn picked(&self, result: PickResult) {
        self.0.picks[result as usize].increment(1);
    }

    /// An attempt to connect has succeeded. The connection counts as open until the guard is dropped.
    pub(crate) fn connected(&self) -> OpenConnection {
        self.0.connected.increment(1);
        self.0.open.increment(1);
        OpenConnection { channel: Arc::clone(&self.0), ending: Ending::UNUSED }
    }

    /// An attempt to connect has failed.
    pub(crate) fn connect_failed(&self) {
        self.0.connect_failed.increment(1);
    }

    /// An outlier was found in this way, and ejected.
    pub(crate) fn ejected(&self, method: &'static str) {
        count(names::EJECTED_OUTLIERS, &self.0.target, &[(names::DETECTION_METHOD, method)]);
    }

    /// An outlier was found in this way, and not ejected, for this reason.
    pub(crate) fn not_ejected(&self, method: &'static str, reason: &'static str) {
        let labels = [(names::DETECTION_METHOD, method), (names::UNENFORCED_REASON, reason)];
        count(names::OTHER_OUTLIERS, &self.0.target, &labels);
    }

    pub(crate) fn gauges(&self) -> Gauges {
        Gauges::new(&self.0.target)
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    channel: Arc<Handles>,
    ending: &'static str,
}

impl OpenConnection {
    /// It is open no longer, for this reason. If it is dropped instead, that is because nobody uses it any more.
    pub(crate) fn ended(mut self, name: &'static str) {
        self.ending = name;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let Handles { target, open, .. } = &*self.channel;
        open.decrement(1);
        count(names::DISCONNECTIONS, target, &[(names::DISCONNECT_ERROR, self.ending)]);
    }
}

/// Counts what is rare, with labels that mostly do not occur.
fn count(name: &'static str, target: &Arc<str>, labels: &[(&'static str, &'static str)]) {
    let labels = labels.iter().map(|(key, value)| Label::from_static_parts(key, value));
    let labels = [Label::new(names::TARGET, Arc::clone(target))].into_iter().chain(labels);
    let key = Key::from_parts(name, labels.collect::<Vec<_>>());
    with_recorder(|recorder| recorder.register_counter(&key, &names::METADATA)).increment(1);
}
