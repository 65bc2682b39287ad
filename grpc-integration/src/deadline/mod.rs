//! The deadline of a call that is being served, and how it goes on to the calls that are made for it.

mod call_deadline;
#[cfg(feature = "server")]
mod layer;
mod timeout;

pub use call_deadline::CallDeadline;
#[cfg(feature = "server")]
pub use layer::{DeadlineBody, DeadlineFuture, DeadlineLayer, DeadlineService};
#[cfg(any(feature = "client", feature = "metrics"))]
pub(crate) use timeout::{GRPC_TIMEOUT, parse};
