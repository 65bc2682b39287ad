//! A registry in memory for [hither](hither_core): it behaves as etcd does, needs no server, and injects faults on
//! demand.
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
//! use hither_core::{Discovery, Instance, RegistrationConfig, Registration, keep_registered};
//! use hither_memory::MemoryRegistry;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hither_core::Result<()> {
//! let registry = MemoryRegistry::new();
//! let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?))?;
//! let server = keep_registered(registry.clone(), registration, RegistrationConfig::default());
//!
//! let greeter = Discovery::new(registry).service(&"greeter".parse()?);
//! let snapshot = greeter.wait_ready(Duration::from_secs(5)).await?;
//! assert_eq!(snapshot.iter().next().expect("one instance").address().to_string(), "10.0.0.7:8001");
//! server.deregister().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # In your tests
//!
//! Time is Tokio's. Under `#[tokio::test(start_paused = true)]` it advances by itself when all tasks wait, so an
//! hour without a registry takes no time. This test, for instance, shows that such an outage removes no server:
//!
//! ```
//! use std::time::Duration;
//! use hither_core::{Discovery, Instance, RegistrationConfig, Registration, keep_registered};
//! use hither_memory::MemoryRegistry;
//!
//! // #[tokio::test(start_paused = true)]
//! async fn an_outage_of_an_hour_removes_no_server() -> hither_core::Result<()> {
//!     let registry = MemoryRegistry::new();
//!     let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?))?;
//!     let server = keep_registered(registry.clone(), registration, RegistrationConfig::default());
//!     let mut greeter = Discovery::new(registry.clone()).service(&"greeter".parse()?);
//!     greeter.wait_ready(Duration::from_secs(5)).await?;
//!
//!     registry.faults().stop();
//!     tokio::time::sleep(Duration::from_secs(3600)).await;
//!     assert!(!greeter.current().freshness.is_fresh());
//!     assert_eq!(greeter.current().instances().count(), 1, "the last snapshot stays in use");
//!
//!     registry.faults().wipe();
//!     registry.faults().start();
//!     while !greeter.current().freshness.is_fresh() || greeter.current().instances().next().is_none() {
//!         greeter.changed().await?;
//!     }
//!     server.registered().await
//! }
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> hither_core::Result<()> { an_outage_of_an_hour_removes_no_server().await }
//! ```
//!
//! Each fault is a method of [`Faults`]. To check only that your code makes a certain call, use the mocks of
//! hither-core (feature `mock`) instead.
//!
//! # In a program
//!
//! [`MemoryRegistry::named`] returns one registry for each name in a process: a server and a client that know only
//! the name, as from the URL `memory://name` of the crate `hither`, find each other. It is not shared between processes.
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

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
