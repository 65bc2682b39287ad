//! A server's lifecycle as its clients and its registry see it: real sockets, a registry in memory.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[cfg(target_os = "linux")]
mod advertising;
mod age;
mod draining;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../support/log.rs"]
mod log;
mod memory;
mod metrics;
mod registry;
mod rotation;
mod shutdown;
#[cfg(target_os = "linux")]
mod sockets;
mod startup;
mod support;
