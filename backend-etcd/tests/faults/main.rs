//! The campaign: a registration and a watcher live through every fault that a real etcd, or the way to it, can have.
//!
//! `cargo xtask faults` runs it on two versions of etcd, in part on a third, and prints a row for each fault.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]
#![allow(clippy::large_futures, reason = "a test polls one, and is done")]

mod auth;
mod clocks;
mod cluster;
mod data;
mod history;
mod many;
mod recorded;
mod report;
mod scene;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod way;
