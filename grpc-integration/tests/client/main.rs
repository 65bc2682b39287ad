//! The channel as its callers see it.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, reason = "the simulation needs more of it")]
#[path = "../fleet/mod.rs"]
mod fleet;
#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod bad_servers;
mod balancing;
mod calls;
mod connections;
mod connectors;
mod departures;
mod ejections;
mod failing;
mod health;
mod hedging;
mod inherited_deadlines;
mod lanes;
mod latencies;
mod logs;
mod memory_network;
mod metrics;
mod outliers;
mod panics;
mod pick_first;
mod policies;
mod reconnecting;
mod refusals;
mod replaced;
mod resolution;
mod restarts;
mod retries;
mod ring_hash;
mod scripted;
mod selection;
mod simulation;
mod spans;
mod status;
mod weights;

use std::time::Duration;

use hither_tonic::{ChannelBuilder, DiscoveryChannel, RoundRobin};

use support::{Net, Registry, SERVICE};

const SECOND: Duration = Duration::from_secs(1);

/// A channel over `registry` and `net`, on which no call hangs for ever.
fn channel(registry: &Registry, net: &Net) -> ChannelBuilder {
    DiscoveryChannel::builder(registry.discovery(), SERVICE)
        .connector(net.clone())
        .policy(RoundRobin::default())
}
