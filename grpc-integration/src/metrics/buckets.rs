//! The buckets of histograms.

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
