//! What the exporter of metrics is to know. The metrics are listed in `docs/observability.md`.

mod buckets;
#[cfg(any(feature = "client", feature = "server"))]
mod message_sizes;

pub use buckets::{LATENCY_BUCKETS, RETRY_BUCKETS, SIZE_BUCKETS};
#[cfg(any(feature = "client", feature = "server"))]
pub(crate) use message_sizes::{MessageSizes, SentSizes};
