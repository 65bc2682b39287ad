//! The names of all metrics of servers, with their units and descriptions.

use hither_core::metrics::Kind::{Counter, Gauge, Histogram};
use hither_core::metrics::Metric;
use metrics::{Level, Metadata, Unit};

pub(super) static METADATA: Metadata<'static> =
    Metadata::new("hither_tonic", Level::INFO, Some(module_path!()));

pub(super) const METHOD: &str = "grpc.method";
pub(super) const STATUS: &str = "grpc.status";

pub(super) const STARTED: &str = "grpc.server.call.started";
pub(super) const SENT: &str = "grpc.server.call.sent_total_compressed_message_size";
pub(super) const RECEIVED: &str = "grpc.server.call.rcvd_total_compressed_message_size";
pub(super) const DURATION: &str = "grpc.server.call.duration";

pub(super) const CONNECTIONS: &str = "hither.server.connections";
pub(super) const DRAINING: &str = "hither.server.draining";

#[rustfmt::skip]
pub(super) const OF_CALLS: [Metric; 4] = [
    (STARTED, Counter, Unit::Count, "Calls that were begun, including those in flight"),
    (SENT, Histogram, Unit::Bytes, "Compressed message bytes sent by a call, without framing"),
    (RECEIVED, Histogram, Unit::Bytes, "Compressed message bytes received by a call, without framing"),
    (DURATION, Histogram, Unit::Seconds, "Time from the headers of a call to the end of its response"),
];

#[rustfmt::skip]
pub(super) const OF_LIFECYCLES: [Metric; 2] = [
    (CONNECTIONS, Gauge, Unit::Count, "Connections that clients have open"),
    (DRAINING, Gauge, Unit::Count, "Servers that are shutting down"),
];
