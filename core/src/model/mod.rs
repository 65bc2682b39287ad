//! The vocabulary: values that were checked when they were made.

mod address;
mod ids;
mod instance;
mod registration;
mod snapshot;

pub use address::Address;
pub use ids::{InstanceId, ServiceName};
pub use instance::{Instance, InstanceState};
pub use registration::Registration;
pub use snapshot::{Change, Revision, Snapshot};
