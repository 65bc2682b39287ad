//! What the exporter of metrics is to know. The metrics are listed in `docs/observability.md`.

mod buckets;

pub use buckets::{LATENCY_BUCKETS, RETRY_BUCKETS, SIZE_BUCKETS};
