//! The vocabulary: values that are validated when they are made.

mod address;
mod change;
mod ids;
mod instance;
mod registration;
mod snapshot;
mod sorted;

pub use address::{Address, AddressKind};
pub use change::Change;
pub(crate) use change::change;
pub use ids::{InstanceId, ServiceName};
pub use instance::{Instance, InstanceState};
pub use registration::Registration;
pub use snapshot::{Revision, Snapshot};
pub use sorted::{HasId, SortedById, SortedIter, SortedMerge};
