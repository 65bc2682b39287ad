//! Service discovery for gRPC: the vocabulary, the traits and the policies of **hither**.
#![forbid(unsafe_code)]

mod address;
mod backoff;
#[cfg(feature = "conformance")]
pub mod conformance;
mod discovery;
mod error;
mod forward;
mod instance;
mod keep_registered;
#[cfg(feature = "mock")]
pub mod mock;
mod name;
mod poll_watch;
mod protection;
mod registrar;
mod resolver;
mod snapshot;
mod static_resolver;
mod target;
mod watcher;

pub use address::Address;
pub use backoff::Backoff;
pub use discovery::{Discovery, ServiceView};
pub use error::{Error, ErrorKind, Result};
pub use instance::{Instance, InstanceState, Registration};
pub use keep_registered::{KeepAliveConfig, RegistrationHandle, RegistrationStatus, keep_registered};
pub use name::{InstanceId, ServiceName};
pub use poll_watch::poll_watch;
pub use protection::Protection;
pub use registrar::{Claim, Lease, Registrar};
pub use resolver::{Catalog, Resolver, SnapshotStream};
pub use snapshot::{Change, Revision, Snapshot};
pub use static_resolver::StaticResolver;
pub use target::{Backends, Target};
pub use watcher::{Freshness, Update, WatcherConfig, watcher};
