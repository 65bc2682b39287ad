//! Shared parts of the example programs of hither.
//!
//! Each program in `src/bin` shows one idea; `cargo quickstart` is the first one to run.
#![forbid(unsafe_code)]

#[cfg(feature = "etcd")]
pub mod cli;
pub mod demo;
pub mod directory;
pub mod logging;
pub mod text;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Those of the page on Kubernetes.
#[cfg(doctest)]
#[doc = include_str!("../../docs/kubernetes.md")]
struct Kubernetes;

/// Those of the page on observability.
#[cfg(all(doctest, feature = "observability"))]
#[doc = include_str!("../../docs/observability.md")]
struct Observability;
