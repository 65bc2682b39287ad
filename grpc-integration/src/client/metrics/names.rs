//! The names of all metrics, with their units and descriptions.

use metrics::{Level, Metadata, Unit, with_recorder};

/// The boundaries of gRPC's latency buckets (gRFC A66), in seconds: for all metrics whose name ends with `duration` or
/// `delay`. The `metrics` facade has no buckets, so they are given to the exporter.
pub const LATENCY_BUCKETS: [f64; 41] = [
    0.0, 0.000_01, 0.000_05, 0.000_1, 0.000_3, 0.000_6, 0.000_8, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006,
    0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3,
    0.4, 0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];

/// The boundaries of gRPC's size buckets (gRFC A66), in bytes: for all metrics whose name ends with `message_size`.
pub const SIZE_BUCKETS: [f64; 14] = [
    0.0,
    1024.0,
    2048.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];

/// The boundaries of gRPC's buckets of retries (gRFC A96): for the metrics `retries`, `hedges` and `transparent_retries`.
pub const RETRY_BUCKETS: [f64; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 10.0];

pub(super) static METADATA: Metadata<'static> =
    Metadata::new("hither_tonic", Level::INFO, Some(module_path!()));

pub(super) const METHOD: &str = "grpc.method";
pub(super) const TARGET: &str = "grpc.target";
pub(super) const STATUS: &str = "grpc.status";
pub(super) const STATE: &str = "hither.state";
pub(super) const RESULT: &str = "hither.pick.result";

pub(super) const ATTEMPT_STARTED: &str = "grpc.client.attempt.started";
pub(super) const ATTEMPT_DURATION: &str = "grpc.client.attempt.duration";
pub(super) const ATTEMPT_SENT: &str = "grpc.client.attempt.sent_total_compressed_message_size";
pub(super) const ATTEMPT_RECEIVED: &str = "grpc.client.attempt.rcvd_total_compressed_message_size";
pub(super) const CALL_DURATION: &str = "grpc.client.call.duration";

pub(super) const RETRIES: &str = "grpc.client.call.retries";
pub(super) const HEDGES: &str = "grpc.client.call.hedges";
pub(super) const TRANSPARENT_RETRIES: &str = "grpc.client.call.transparent_retries";

pub(super) const DISCONNECTIONS: &str = "grpc.subchannel.disconnections";
pub(super) const CONNECTED: &str = "grpc.subchannel.connection_attempts_succeeded";
pub(super) const CONNECT_FAILED: &str = "grpc.subchannel.connection_attempts_failed";
pub(super) const OPEN_CONNECTIONS: &str = "grpc.subchannel.open_connections";

pub(super) const INSTANCES: &str = "hither.client.instances";
pub(super) const REGISTERED: &str = "hither.client.registered";
pub(super) const HELD: &str = "hither.client.held";
pub(super) const EJECTED: &str = "hither.client.ejected";
pub(super) const EJECTIONS: &str = "hither.client.ejections";
pub(super) const STALENESS: &str = "hither.client.registry.staleness";
pub(super) const PICKS: &str = "hither.client.picks";

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

#[rustfmt::skip]
const ALL: [(&str, Kind, Unit, &str); 19] = [
    (ATTEMPT_STARTED, Counter, Unit::Count, "Attempts of calls that were sent, including those in flight"),
    (ATTEMPT_DURATION, Histogram, Unit::Seconds, "Time from the pick of an instance to the end of the attempt"),
    (ATTEMPT_SENT, Histogram, Unit::Bytes, "Compressed message bytes sent by an attempt, without framing"),
    (ATTEMPT_RECEIVED, Histogram, Unit::Bytes, "Compressed message bytes received by an attempt, without framing"),
    (CALL_DURATION, Histogram, Unit::Seconds, "Time from the start of a call to its status, with all waiting"),
    (RETRIES, Histogram, Unit::Count, "Retries of a call that has any, without transparent ones"),
    (HEDGES, Histogram, Unit::Count, "Hedges of a call that has any"),
    (TRANSPARENT_RETRIES, Histogram, Unit::Count, "Transparent retries of a call that has any"),
    (DISCONNECTIONS, Counter, Unit::Count, "Connections to instances that have ended or were closed"),
    (CONNECTED, Counter, Unit::Count, "Attempts to connect to an instance that have succeeded"),
    (CONNECT_FAILED, Counter, Unit::Count, "Attempts to connect to an instance that have failed at all of its addresses"),
    (OPEN_CONNECTIONS, Gauge, Unit::Count, "Open connections"),
    (INSTANCES, Gauge, Unit::Count, "Servers that are or are to be connected to, by connectivity"),
    (REGISTERED, Gauge, Unit::Count, "Instances in the registry"),
    (HELD, Gauge, Unit::Count, "Instances that the registry has lost in bulk, and that are still called"),
    (EJECTED, Gauge, Unit::Count, "Instances that outlier detection leaves out, or tries by one call at a time"),
    (EJECTIONS, Counter, Unit::Count, "Ejections by outlier detection"),
    (STALENESS, Gauge, Unit::Seconds, "Age of the list of instances: 0 while the registry is watched"),
    (PICKS, Counter, Unit::Count, "Decisions of the load balancing policy, by what became of them"),
];

/// Gives the recorder the unit and the description of each metric.
pub(super) fn describe() {
    with_recorder(|recorder| {
        for (name, kind, unit, description) in &ALL {
            let describe = match kind {
                Counter => metrics::Recorder::describe_counter,
                Gauge => metrics::Recorder::describe_gauge,
                Histogram => metrics::Recorder::describe_histogram,
            };
            describe(recorder, (*name).into(), Some(*unit), (*description).into());
        }
    });
}
