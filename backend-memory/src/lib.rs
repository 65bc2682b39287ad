//! A registry in memory for [hither](hither_core): it behaves as etcd does, needs nothing, and has a bad day
//! whenever a test asks for one.
//!
//! ```text
//!    server                                               client
//!    keep_registered ──► MemoryRegistry ◄── connect() ──► Discovery
//!                              ▲
//!                           Faults      stop · freeze · disconnect · expire · wipe · ...
//!                              │
//!                          your test
//! ```
//!
//! ```
//! use std::time::Duration;
//! use hither_core::{Discovery, Instance, KeepAliveConfig, Registration, keep_registered};
//! use hither_memory::MemoryRegistry;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hither_core::Result<()> {
//! let registry = MemoryRegistry::new();
//! let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?));
//! let server = keep_registered(registry.clone(), registration, KeepAliveConfig::default());
//!
//! let greeter = Discovery::from(registry).service(&"greeter".parse()?);
//! let snapshot = greeter.ready(Duration::from_secs(5)).await?;
//! assert_eq!(snapshot.instances()[0].address().to_string(), "10.0.0.7:8001");
//! server.deregister().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # In your tests
//!
//! Time is Tokio's, and stands still in `#[tokio::test(start_paused = true)]` whenever nobody works: an hour
//! without a registry takes no time. Here, for instance, is the promise that such an hour takes no server away:
//!
//! ```
//! use std::time::Duration;
//! use hither_core::{Discovery, Instance, KeepAliveConfig, Registration, keep_registered};
//! use hither_memory::MemoryRegistry;
//!
//! // #[tokio::test(start_paused = true)]
//! async fn an_hour_without_a_registry_takes_no_server_away() -> hither_core::Result<()> {
//!     let registry = MemoryRegistry::new();
//!     let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?));
//!     let server = keep_registered(registry.clone(), registration, KeepAliveConfig::default());
//!     let mut greeter = Discovery::from(registry.clone()).service(&"greeter".parse()?);
//!     greeter.ready(Duration::from_secs(5)).await?;
//!
//!     registry.faults().stop();
//!     tokio::time::sleep(Duration::from_secs(3600)).await;
//!     assert!(!greeter.current().freshness.is_fresh());
//!     assert_eq!(greeter.current().instances().len(), 1, "the last word of the registry still counts");
//!
//!     registry.faults().wipe();
//!     registry.faults().start();
//!     while !greeter.current().freshness.is_fresh() || greeter.current().instances().is_empty() {
//!         greeter.changed().await?;
//!     }
//!     server.registered().await
//! }
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> hither_core::Result<()> { an_hour_without_a_registry_takes_no_server_away().await }
//! ```
//!
//! Everything that can go wrong is a method of [`Faults`]. Who only wants to see that the own code makes a
//! certain call is better served by the mocks of hither-core (feature `mock`).
#![forbid(unsafe_code)]

mod fault_plan;
mod faults;
mod lease;
mod operation;
mod registry;
mod state;
mod store;
mod watch;

pub use faults::Faults;
pub use operation::Operation;
pub use registry::MemoryRegistry;
