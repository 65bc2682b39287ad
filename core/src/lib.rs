//! Service discovery for gRPC: the vocabulary, the traits and the policies of **hither**.
#![forbid(unsafe_code)]

mod address;
mod error;
mod forward;
mod instance;
mod name;
mod registrar;
mod resolver;
mod snapshot;

pub use address::Address;
pub use error::{Error, ErrorKind, Result};
pub use instance::{Instance, InstanceState, Registration};
pub use name::{InstanceId, ServiceName};
pub use registrar::{Claim, Lease, Registrar};
pub use resolver::{Catalog, Resolver, SnapshotStream};
pub use snapshot::{Change, Revision, Snapshot};
