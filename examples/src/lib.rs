//! What the example programs of hither share.
//!
//! Each program in `src/bin` shows one idea; `cargo quickstart` is the one to begin with.
#![forbid(unsafe_code)]

#[cfg(feature = "etcd")]
pub mod cli;
pub mod demo;
pub mod directory;
pub mod text;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
