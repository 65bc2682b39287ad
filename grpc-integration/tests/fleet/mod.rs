//! A fleet of servers in memory, and the load on it, in virtual time: for experiments with whole channels.
//!
//! Tokio's clock is paused, so an experiment takes no longer than its work, and the time of a call is exact to the
//! millisecond. Every choice is drawn from a seed, so an experiment that is made again has the same outcome.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "this is a part of tests")]

mod calls;
mod compared;
mod experiment;
mod load;
mod outcomes;
mod random;
mod server;

use std::time::Duration;

use hither_core::Instance;
use hither_memory::MemoryRegistry;
use hither_tonic::{ChannelBuilder, DiscoveryChannel, MemoryNetwork, MemoryServer};
use tokio::runtime::Builder;
use tokio::time::sleep;

pub(crate) use calls::make;
#[allow(unused_imports, reason = "the bench needs the table alone")]
pub(crate) use compared::{
    BOUNDED_RING_HASH, CHANNELS, IN_ZONES, LEAST_REQUEST, LEAST_REQUEST_OUTLIERS, LEAST_REQUEST_ZONE,
    PEAK_EWMA, POLICIES, RETRIES, RING_HASH, ROUND_ROBIN, ROUND_ROBIN_OUTLIERS,
};
#[allow(unused_imports, reason = "the bench needs less")]
pub(crate) use experiment::{Experiment, FAST, Fault, Finding};
#[allow(unused_imports, reason = "the bench needs less")]
pub(crate) use load::{Call, Load};
pub(crate) use outcomes::Outcomes;
pub(crate) use random::Work;
pub(crate) use server::{Condition, Server};

const SERVICE: &str = "fleet";
/// The port of the first server, by which a call's server is recognised.
const FIRST_PORT: usize = 1000;

/// Runs an experiment on a paused clock, in which what is not seeded by itself (where a round begins, the jitter of backoffs)
/// follows from `seed` too: those numbers are drawn from this thread's generator.
pub(crate) fn run<T>(seed: u64, experiment: impl Future<Output = T>) -> T {
    fastrand::seed(seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(experiment)
}

/// Servers that are registered, and their network.
#[derive(Debug)]
pub(crate) struct Fleet {
    network: MemoryNetwork,
    servers: Vec<Server>,
    serving: Vec<MemoryServer>,
}

impl Fleet {
    /// Starts servers that work on so many calls at a time each; others wait in turn. `describe` sets the weight or the zone
    /// of each.
    pub(crate) async fn start(
        servers: usize,
        slots: usize,
        describe: impl Fn(usize, Instance) -> Instance,
    ) -> Self {
        let network = MemoryNetwork::new(MemoryRegistry::new());
        let mut fleet = Self { network, servers: Vec::new(), serving: Vec::new() };
        for at in 0..servers {
            let server = Server::new(slots);
            let router = tonic::transport::Server::builder().add_service(server.clone());
            let address = format!("10.0.0.1:{}", FIRST_PORT + at).parse().unwrap();
            let instance = describe(at, Instance::new(address));
            fleet.serving.push(fleet.network.serve_instance(SERVICE, instance, router).await.unwrap());
            fleet.servers.push(server);
        }
        fleet
    }

    /// Returns the servers, in the order of their addresses.
    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Returns the addresses of the servers on the network, for their faults.
    pub(crate) fn serving(&self) -> &[MemoryServer] {
        &self.serving
    }

    /// Returns channels of their own connections, with a connection to each server.
    pub(crate) async fn channels(
        &self,
        count: usize,
        configure: impl Fn(ChannelBuilder, u64) -> ChannelBuilder,
    ) -> Vec<DiscoveryChannel> {
        let mut channels = Vec::new();
        for seed in 0..count as u64 {
            channels.push(configure(self.network.channel(SERVICE), seed).connect().await.unwrap());
        }
        // The clock goes on when everything waits, so by then all are connected.
        sleep(Duration::from_secs(1)).await;
        channels
    }

    /// Returns how many calls have arrived at each server.
    pub(crate) fn arrived(&self) -> Vec<usize> {
        self.servers.iter().map(Server::arrived).collect()
    }
}
