//! How calls and attempts are seen: their spans and metrics.

mod attempt;
mod call;
mod propagation;
mod spans;

pub(crate) use attempt::AttemptTelemetry;
pub(crate) use call::{CallContext, CallTelemetry};
pub(crate) use propagation::Propagation;
