//! A `DiscoveryChannel` at its defaults beside proxies and servers that others wrote, at theirs.

mod bad_servers;
mod certificate;
mod curl;
mod go_server;
mod grpc_cases;
mod haproxy;
mod health;
mod keepalive;
mod load;
mod nghttp2;
mod nginx;
mod peer;
mod upstream;

use std::time::Duration;

use hither::tonic::{ChannelBuilder, DiscoveryChannel};
use hither::{Discovery, StaticRegistry};

/// Generated from `proto/testing.proto`.
#[allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
mod testing {
    tonic::include_proto!("grpc.testing");
}

type Client = testing::test_service_client::TestServiceClient<DiscoveryChannel>;

/// The limit of a call that must be answered, enough for a slow machine.
const LONG: Duration = crate::program::LONG;

fn builder(addresses: &[&str]) -> ChannelBuilder {
    let registry = StaticRegistry::parse(&addresses.join(",")).unwrap();
    DiscoveryChannel::builder(Discovery::new(registry), "testing").default_timeout(LONG)
}

/// Connects to these addresses.
async fn connect(addresses: &[&str]) -> Client {
    Client::new(builder(addresses).connect().await.unwrap())
}
