//! The vocabulary: values that are validated when they are made.

mod address;
mod ids;
mod instance;
mod registration;
mod snapshot;
mod sorted;

pub use address::{Address, AddressKind};
pub use ids::{InstanceId, ServiceName};
pub use instance::{Instance, InstanceState};
pub use registration::Registration;
pub use snapshot::{Change, Revision, Snapshot};
pub(crate) use sorted::change;
pub use sorted::{HasId, SortedById, SortedIter, SortedMerge};
