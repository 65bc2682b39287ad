//! Guide: a page for each capability, with what others call it.
//!
//! | page | what about |
//! |---|---|
//! | [`balancing`] | which of the connected instances takes a call |
//! | [`lanes`] | which of them a single call may go to, by its tag: canaries, versions, test environments |
//! | [`selection`] | which of the registered instances are connected to: zones, tiers, subsets, one of them |
//! | [`health`] | leaving out instances that fail or report to be unhealthy |
//! | [`retries`] | what is sent again, when, and what bounds it; hedging; deadlines |
//! | [`lifecycle`] | registering a server, taking it out of rotation, shutting it down |
//! | [`observability`] | status, metrics, spans, logs |
//!
//! A call goes through them in this order:
//!
//! ```text
//!  registry ──► selection ──► connections ──► outlier detection ──► policy ──► attempt ──► retry or hedge
//!  all that are   what is       HTTP/2, health    those that do       one of       a stream on    another
//!  registered     connected     watching          as well as others   them         its connection instance
//! ```

pub mod balancing;
pub mod health;
pub mod lanes;
pub mod lifecycle;
pub mod observability;
pub mod retries;
pub mod selection;
