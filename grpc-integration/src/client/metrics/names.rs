//! The names of all metrics, with their units and descriptions.

use hither_core::metrics::Kind::{Counter, Gauge, Histogram};
use hither_core::metrics::Metric;
use metrics::{Level, Metadata, Unit};

pub(super) static METADATA: Metadata<'static> =
    Metadata::new("hither_tonic", Level::INFO, Some(module_path!()));

pub(super) const METHOD: &str = "grpc.method";
pub(super) const TARGET: &str = "grpc.target";
pub(super) const STATUS: &str = "grpc.status";
pub(super) const DETECTION_METHOD: &str = "grpc.lb.outlier_detection.detection_method";
pub(super) const UNENFORCED_REASON: &str = "grpc.lb.outlier_detection.unenforced_reason";
pub(super) const STATE: &str = "hither.state";
pub(super) const DISCONNECT_ERROR: &str = "grpc.disconnect_error";
pub(super) const RESULT: &str = "hither.pick.result";

pub(super) const ATTEMPT_STARTED: &str = "grpc.client.attempt.started";
pub(super) const ATTEMPT_DURATION: &str = "grpc.client.attempt.duration";
pub(super) const ATTEMPT_SENT: &str = "grpc.client.attempt.sent_total_compressed_message_size";
pub(super) const ATTEMPT_RECEIVED: &str = "grpc.client.attempt.rcvd_total_compressed_message_size";
pub(super) const CALL_DURATION: &str = "grpc.client.call.duration";

pub(super) const RETRIES: &str = "grpc.client.call.retries";
pub(super) const HEDGES: &str = "grpc.client.call.hedges";
pub(super) const TRANSPARENT_RETRIES: &str = "grpc.client.call.transparent_retries";

pub(super) const RETRY_DELAY: &str = "grpc.client.call.retry_delay";

pub(super) const DISCONNECTIONS: &str = "grpc.subchannel.disconnections";
pub(super) const CONNECTED: &str = "grpc.subchannel.connection_attempts_succeeded";
pub(super) const CONNECT_FAILED: &str = "grpc.subchannel.connection_attempts_failed";
pub(super) const OPEN_CONNECTIONS: &str = "grpc.subchannel.open_connections";

pub(super) const EJECTED_OUTLIERS: &str = "grpc.lb.outlier_detection.ejections_enforced";
pub(super) const OTHER_OUTLIERS: &str = "grpc.lb.outlier_detection.ejections_unenforced";

pub(super) const INSTANCES: &str = "hither.client.instances";
pub(super) const REGISTERED: &str = "hither.client.registered";
pub(super) const HELD: &str = "hither.client.held";
pub(super) const EJECTED: &str = "hither.client.ejected";
pub(super) const STALENESS: &str = "hither.client.registry.staleness";
pub(super) const PICKS: &str = "hither.client.picks";

#[rustfmt::skip]
const ALL: [Metric; 21] = [
    (ATTEMPT_STARTED, Counter, Unit::Count, "Attempts of calls that were sent, including those in flight"),
    (ATTEMPT_DURATION, Histogram, Unit::Seconds, "Time from the pick of an instance to the end of the attempt"),
    (ATTEMPT_SENT, Histogram, Unit::Bytes, "Compressed message bytes sent by an attempt, without framing"),
    (ATTEMPT_RECEIVED, Histogram, Unit::Bytes, "Compressed message bytes received by an attempt, without framing"),
    (CALL_DURATION, Histogram, Unit::Seconds, "Time from the start of a call to its status, with all waiting"),
    (RETRIES, Histogram, Unit::Count, "Retries of a call that has any, without transparent ones"),
    (HEDGES, Histogram, Unit::Count, "Hedges of a call that has any"),
    (TRANSPARENT_RETRIES, Histogram, Unit::Count, "Transparent retries of a call that has any"),
    (RETRY_DELAY, Histogram, Unit::Seconds, "Time without an attempt in flight, of a call that was sent again"),
    (DISCONNECTIONS, Counter, Unit::Count, "Connections to instances that have ended or were closed"),
    (CONNECTED, Counter, Unit::Count, "Attempts to connect to an instance that have succeeded"),
    (CONNECT_FAILED, Counter, Unit::Count, "Attempts to connect to an instance that have failed at all of its addresses"),
    (OPEN_CONNECTIONS, Gauge, Unit::Count, "Open connections"),
    (INSTANCES, Gauge, Unit::Count, "Servers that are or are to be connected to, by connectivity"),
    (REGISTERED, Gauge, Unit::Count, "Instances in the registry"),
    (HELD, Gauge, Unit::Count, "Instances that the registry has lost in bulk, and that are still called"),
    (EJECTED, Gauge, Unit::Count, "Instances that outlier detection leaves out, or tries by one call at a time"),
    (EJECTED_OUTLIERS, Counter, Unit::Count, "Outliers that were ejected, by how they were found"),
    (OTHER_OUTLIERS, Counter, Unit::Count, "Outliers that were not ejected, by how they were found and why"),
    (STALENESS, Gauge, Unit::Seconds, "Age of the list of instances: 0 while the registry is watched"),
    (PICKS, Counter, Unit::Count, "Decisions of the load balancing policy, by what became of them"),
];

/// Gives the recorder the unit and the description of each metric.
pub(super) fn describe() {
    hither_core::metrics::describe(&ALL);
}
