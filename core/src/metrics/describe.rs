//! What a recorder is told about each metric, by this package and by those above it.

use metrics::{Recorder, Unit, with_recorder};

/// The kind of a metric.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It grows and shrinks.
    Gauge,
    /// It is a distribution.
    Histogram,
}

/// The name of a metric, its kind, unit and description.
pub type Metric = (&'static str, Kind, Unit, &'static str);

/// Gives the recorder the unit and the description of each metric.
pub fn describe(all: &[Metric]) {
    with_recorder(|recorder| {
        for (name, kind, unit, description) in all {
            let describe = match kind {
                Kind::Counter => Recorder::describe_counter,
                Kind::Gauge => Recorder::describe_gauge,
                Kind::Histogram => Recorder::describe_histogram,
            };
            describe(recorder, (*name).into(), Some(*unit), (*description).into());
        }
    });
}
