//! The vocabulary: values that were checked when they were made.

mod address;
mod ids;
mod instance;
mod snapshot;

pub use address::Address;
pub use ids::{InstanceId, ServiceName};
pub use instance::{Instance, InstanceState, Registration};
pub use snapshot::{Change, Revision, Snapshot};
