//! What all servers of the process have now.

use metrics::{Gauge, Key, with_recorder};

use super::names;

/// Counts while it lives.
#[derive(Debug)]
struct Counted(Gauge);

impl Counted {
    fn new(name: &'static str) -> Self {
        hither_core::metrics::describe(&names::OF_LIFECYCLES);
        let key = Key::from_static_name(name);
        let gauge = with_recorder(|recorder| recorder.register_gauge(&key, &names::METADATA));
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(in crate::server) struct OpenConnection {
    _counted: Counted,
}

impl OpenConnection {
    pub(in crate::server) fn new() -> Self {
        Self { _counted: Counted::new(names::CONNECTIONS) }
    }
}

/// A server that is shutting down.
#[derive(Debug)]
pub(in crate::server) struct Draining {
    _counted: Counted,
}

impl Draining {
    pub(in crate::server) fn new() -> Self {
        Self { _counted: Counted::new(names::DRAINING) }
    }
}
