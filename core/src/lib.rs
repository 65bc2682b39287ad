//! Service discovery for gRPC: a server says where it is, a client calls a service by name, and the registry in
//! between can be swapped. This is the core of **hither**: the vocabulary, the traits, and every policy that is the
//! same for all registries.
//!
//! ```text
//!              server                                      client
//!   Registration │                                            ▲ Update
//!         keep_registered                          Discovery, ServiceView
//!     renews, and registers anew                 one watch for all who ask
//!                │                                            │
//!                │                                         watcher
//!                │                             tries again, coalesces, protects
//!                ▼                                            ▲ Snapshot
//!           Registrar ───────────►  registry  ───────────► Resolver
//!                             etcd, memory, yours
//! ```
//!
//! ```
//! use std::time::Duration;
//! use hither_core::{Discovery, Instance, RegistrationConfig, Registration, keep_registered};
//! use hither_memory::MemoryRegistry; // or hither_etcd::EtcdRegistry
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hither_core::Result<()> {
//! let registry = MemoryRegistry::new();
//!
//! // The server: registered until the handle says otherwise, whatever happens to the registry.
//! let instance = Instance::new("10.0.0.7:8001".parse()?).with_zone("eu-1a");
//! let registration = Registration::new("greeter".parse()?, instance)?;
//! let registered = keep_registered(registry.clone(), registration, RegistrationConfig::default());
//!
//! // The client: a view that is always at hand, and outlives any outage.
//! let mut greeter = Discovery::new(registry).service(&"greeter".parse()?);
//! let snapshot = greeter.ready(Duration::from_secs(5)).await?;
//! assert_eq!(snapshot.iter().next().expect("one instance").zone(), Some("eu-1a"));
//!
//! registered.deregister().await?;
//! while greeter.current().instances().next().is_some() {
//!     greeter.changed().await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # For users
//!
//! - Servers: [`keep_registered`], or hither-tonic's `Lifecycle`, which calls it in the right order.
//! - Clients: [`Discovery`], or hither-tonic's `DiscoveryChannel`, which balances calls over what it finds;
//!   [`Target`] and [`Registries`] turn `etcd:///greeter` into a service of a registry.
//! - Tests: hither-memory under Tokio's paused time, or the mocks of [`mock`] (feature `mock`).
//!
//! What holds, whatever the registry does: a registration is tried for ever and never lost for good
//! ([`keep_registered`]); what is known of a service stays known through any outage ([`watcher`](watcher())); servers that
//! vanish all at once without a word are not dropped at once ([`ProtectionConfig`]).
//!
//! # For authors of a backend
//!
//! Implement [`Registrar`] with its [`Lease`], and [`Resolver`]; [`Catalog`] if the registry can list services. Make
//! ONE attempt per call and tell the truth: nothing is to be retried, cached or renewed down there. A registry
//! that can only be asked gets its watch from [`poll_watch`]. The traits say what MUST hold, and the kit in
//! [`conformance`] (feature `conformance`) shows whether it does.
//!
//! # Foreign types
//!
//! In the public interface: `futures_core::Stream`, Tokio's `Instant`, and async-trait's boxed futures; with the feature
//! `mock`, what mockall generates.
#![forbid(unsafe_code)]

mod backoff;
#[cfg(feature = "conformance")]
pub mod conformance;
mod discovery;
mod error;
mod forward;
#[cfg(feature = "mock")]
pub mod mock;
mod model;
mod registrar;
mod registration;
mod registry;
mod resolver;
mod target;
mod time;

pub use backoff::Backoff;
pub use discovery::{
    Discovery, DiscoveryBuilder, Freshness, ProtectionConfig, ServiceView, StaticRegistry, Update,
    WatcherConfig, poll_watch, watcher,
};
pub use error::{Error, ErrorKind, Result, report};
pub use model::{
    Address, AddressKind, Change, Instance, InstanceId, InstanceState, Registration, Revision, ServiceName,
    Snapshot, SnapshotIter,
};
pub use registrar::{Claim, Lease, Registrar};
pub use registration::{RegistrationConfig, RegistrationHandle, RegistrationStatus, keep_registered};
pub use registry::Registry;
pub use resolver::{Catalog, Resolver, SnapshotStream};
pub use target::{Registries, Target};
pub use time::parse_duration;
