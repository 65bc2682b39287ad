//! TLS of channels and servers, over real sockets, with certificates made here.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, unused_imports, reason = "not all of it is needed here")]
#[path = "../support/mod.rs"]
mod support;

mod client;
mod foreign;
mod hostile;
mod names;
mod peers;
mod pki;
mod reload;
mod server;
mod servers;
mod settings;
mod spiffe;

use hither_core::{Discovery, Instance, StaticRegistry};
use hither_tonic::{ChannelBuilder, ClientTls, DiscoveryChannel};
use tonic::{Code, Status};

use support::{Client, SERVICE};

/// A channel to `addresses` over `tls`.
fn channel(addresses: &[&str], tls: ClientTls) -> ChannelBuilder {
    let instances = addresses.iter().map(|address| Instance::new(address.parse().unwrap()));
    of_instances(instances, tls)
}

fn of_instances(instances: impl IntoIterator<Item = Instance>, tls: ClientTls) -> ChannelBuilder {
    DiscoveryChannel::builder(Discovery::new(StaticRegistry::new(instances)), SERVICE).tls(tls)
}

/// The answer of the server at `address`, or why there is none.
async fn call(address: &str, tls: ClientTls) -> Result<String, Status> {
    Client::new(&channel(&[address], tls).connect_lazy()?).name().await
}

/// The text of the error of a call that found no instance ready.
async fn refused(address: &str, tls: ClientTls) -> String {
    let status = call(address, tls).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    status.message().to_owned()
}
