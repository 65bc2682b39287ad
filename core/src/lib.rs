//! Service discovery for gRPC: a server registers its address, a client calls a service by name, and the registry in
//! between can be swapped. This is the core of **hither**: the vocabulary, the traits, and every policy that is the
//! same for all registries.
//!
//! ```text
//!              server                                      client
//!   Registration │                                            ▲ Update
//!         keep_registered                          Discovery, ServiceView
//!    renews, registers anew                          one watch per service
//!                │                                            │
//!                │                                         watcher
//!                │                              retries, coalesces, protects
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
//! // The server: registered until the handle deregisters it, whatever happens to the registry.
//! let instance = Instance::new("10.0.0.7:8001".parse()?).with_zone("eu-1a");
//! let registration = Registration::new("greeter".parse()?, instance)?;
//! let registered = keep_registered(registry.clone(), registration, RegistrationConfig::default());
//!
//! // The client: a view that never blocks, and that keeps its instances through any outage.
//! let mut greeter = Discovery::new(registry).service(&"greeter".parse()?);
//! let snapshot = greeter.wait_ready(Duration::from_secs(5)).await?;
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
//! # For applications
//!
//! - Servers: [`keep_registered`], or hither-tonic's `Lifecycle`, which calls it in the right order.
//! - Clients: [`Discovery`], or hither-tonic's `DiscoveryChannel`, which balances calls over the instances;
//!   [`Target`] and [`Registries`] resolve `etcd:///greeter` to a service of a registry.
//! - Tests: hither-memory under Tokio's paused time, or the mocks of the module `mock` (feature `mock`).
//!
//! What holds, whatever the registry does: a registration is retried without limit and never lost for good
//! ([`keep_registered`]); the last snapshot of a service stays through any outage ([`watcher`](watcher())); instances that
//! are removed in bulk stay callable over open connections ([`ProtectionConfig`]).
//!
//! # For authors of a backend
//!
//! Implement [`Registrar`] with its [`Lease`], and [`Resolver`]; [`Catalog`] if the registry can list services. One
//! attempt per call, errors unchanged: a backend does not retry, cache or renew. A registry without a watch of its own
//! gets one from [`poll_watch`]. The traits state what MUST hold, and the kit in the module `conformance` (feature
//! `conformance`) checks it.
//!
//! # Features
//!
//! All are off by default.
//!
//! | feature | |
//! |---|---|
//! | `disk-cache` | `DiscoveryBuilder::cache_dir`: the last snapshot of each service on disk |
//! | `serde` | `Serialize` and `Deserialize` for addresses, names, ids, instances, registrations and targets |
//! | `mock` | mockall mocks of the traits; exempt from semantic versioning |
//! | `conformance` | the conformance kit; minor releases may add behaviours |
//! | `metrics` | metrics of registrations and watches, for the recorder of the `metrics` crate |
//!
//! # Foreign types
//!
//! In the public interface: `futures_core::Stream`, Tokio's `Instant`, and async-trait's boxed futures; with the feature
//! `mock`, the types that mockall generates; with `serde`, its traits.
#![forbid(unsafe_code)]

mod backoff;
#[cfg(feature = "conformance")]
pub mod conformance;
#[doc(hidden)]
pub mod contain;
mod discovery;
mod error;
mod forward;
#[doc(hidden)]
pub mod metrics;
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
    Address, AddressKind, Change, HasId, Instance, InstanceId, InstanceState, Registration, Revision,
    ServiceName, Snapshot, SortedById, SortedIter, SortedMerge,
};
pub use registrar::{Claim, Lease, Registrar};
pub use registration::{RegistrationConfig, RegistrationHandle, RegistrationStatus, keep_registered};
pub use registry::Registry;
pub use resolver::{Catalog, Resolver, SnapshotStream};
pub use target::{Registries, Target};
pub use time::parse_duration;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
