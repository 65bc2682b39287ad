//! What a server counts, with feature `metrics`. Without it all of this is empty.

#[cfg(feature = "metrics")]
mod call;
#[cfg(feature = "metrics")]
mod gauges;
#[cfg(feature = "metrics")]
mod layer;
#[cfg(feature = "metrics")]
mod methods;
#[cfg(feature = "metrics")]
mod names;
#[cfg(not(feature = "metrics"))]
mod off;

#[cfg(feature = "metrics")]
pub(super) use gauges::{Draining, OpenConnection};
#[cfg(feature = "metrics")]
pub use layer::{MetricsBody, MetricsFuture, MetricsLayer, MetricsService};
#[cfg(not(feature = "metrics"))]
pub(super) use off::{Draining, OpenConnection};
